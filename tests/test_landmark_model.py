from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import CROP, SCORE, graph, landmark_spec, save
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper

from facemark_sdk import Detector, FacemarkError, ImageError, LandmarkModel, ModelError
from facemark_sdk.crop import to_image
from facemark_sdk.landmark_model import CPU_BATCH

Scene = Callable[..., NDArray[np.uint8]]


def test_crop_points_are_fractions_times_size(
    landmark_model: LandmarkModel, mean_face: NDArray[np.float64]
) -> None:
    out = landmark_model.predict_crops(np.zeros((2, CROP, CROP, 3), np.uint8))
    assert out.points.dtype == out.scores.dtype == np.float32
    np.testing.assert_allclose(out.points, [mean_face * CROP] * 2, atol=1e-3)
    np.testing.assert_allclose(out.scores, SCORE, atol=1e-6)


@given(st.floats(-20, 150), st.floats(-20, 150), st.floats(5, 200), st.floats(5, 200))
def test_image_points_lie_in_the_box(
    landmark_model: LandmarkModel,
    mean_face: NDArray[np.float64],
    x: float,
    y: float,
    width: float,
    height: float,
) -> None:
    side = max(width, height)
    corner = np.array([x + width / 2, y + height / 2]) - side / 2
    box = [x, y, x + width, y + height]
    image = np.zeros((200, 200, 3), np.uint8)
    out = landmark_model.predict(image, [box])
    _, affines = landmark_model.crop([image], [[box]])
    np.testing.assert_allclose(out.points, to_image(mean_face[None] * CROP, affines), atol=0.01)
    moved = 0.76 if side < 2 * CROP else 1  # to whole pixels, or blocks of two
    np.testing.assert_allclose(out.points[0], corner + mean_face * side, atol=moved)


def test_faces_keep_their_order(landmark_model: LandmarkModel, scene: Scene) -> None:
    image = scene((72, 72, 200), (184, 72, 100), (72, 184, 0))
    boxes = [[x - 32, y - 32, x + 32, y + 32] for x, y in ((72, 72), (184, 72), (72, 184))]
    scores = landmark_model.predict(image, boxes).scores
    expected = SCORE * (1 - 0.5 * np.array([200, 100, 0]) / 255)
    np.testing.assert_allclose(scores.mean(axis=1), expected, atol=5e-3)


def test_large_batches_are_split(
    landmark_model: LandmarkModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    crops = np.random.default_rng(0).integers(0, 256, (CPU_BATCH + 3, CROP, CROP, 3), np.uint8)
    whole = landmark_model.decode(landmark_model.infer(crops))
    runs = []
    infer = landmark_model.infer
    monkeypatch.setattr(landmark_model, "infer", lambda part: runs.append(len(part)) or infer(part))
    parts = landmark_model.predict_crops(crops)
    assert runs == [CPU_BATCH // 2 + 1, CPU_BATCH // 2 + 2]  # alike in size
    np.testing.assert_allclose(parts.points, whole.points, atol=1e-4)
    np.testing.assert_allclose(parts.scores, whole.scores, atol=1e-6)


@pytest.fixture
def seen(landmark_model: LandmarkModel, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The crops that the network is given, as they are, not copied."""
    given: list[Any] = []
    infer = landmark_model.infer
    monkeypatch.setattr(landmark_model, "infer", lambda part: given.append(part) or infer(part))
    return given


BOX = [8, 8, 40, 40]
GREY = np.full((64, 64, 3), 10, np.uint8)


@pytest.mark.parametrize("call", ["predict", "Detector"])
def test_calls_cut_into_one_buffer(
    landmark_model: LandmarkModel,
    landmark_file: Path,
    detector_file: Path,
    scene: Scene,
    seen: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    call: str,
) -> None:
    detector = Detector(landmark_file, detector_file, backend="cpu")
    monkeypatch.setattr(detector, "landmark_model", landmark_model)
    image = scene((72, 72, 200))
    for _ in range(3):
        found = landmark_model.predict(image, [BOX]) if call == "predict" else detector(image)
        assert len(found.points if call == "predict" else found) == 1
    assert len(seen) == 3
    assert np.shares_memory(seen[0], seen[1])
    assert np.shares_memory(seen[0], seen[2])


def test_a_crowd_takes_a_batch_of_memory(landmark_model: LandmarkModel, seen: list[Any]) -> None:
    count = 3 * CPU_BATCH
    boxes = [[x, 8, x + 32, 40] for x in range(count)]
    image = np.random.default_rng(0).integers(0, 256, (64, 128, 3), np.uint8)
    together = landmark_model.predict(image, boxes)
    assert [len(part) for part in seen] == [CPU_BATCH] * 3
    assert all(np.shares_memory(seen[0], part) for part in seen)
    crops, affines = landmark_model.crop([image], [boxes])
    apart = landmark_model.to_image(landmark_model.predict_crops(crops), affines)
    np.testing.assert_array_equal(together.points, apart.points)
    np.testing.assert_array_equal(together.scores, apart.scores)


@given(st.lists(st.integers(0, 2 * CPU_BATCH + 1), max_size=5))
def test_images_share_batches(landmark_model: LandmarkModel, counts: list[int]) -> None:
    """Wherever one image's faces end and a batch's."""
    images = [np.full((64, 64, 3), 40 * i, np.uint8) for i in range(len(counts))]
    boxes = [[[8 + x / 4, 8, 40 + x / 4, 40] for x in range(count)] for count in counts]
    together = landmark_model.predict_all(images, boxes)
    apart = [landmark_model.predict(*each) for each in zip(images, boxes, strict=True)]
    assert len(together.points) == sum(counts)
    for kind in ("points", "scores"):
        wanted = np.concatenate([getattr(part, kind) for part in apart] or [[]])
        np.testing.assert_allclose(getattr(together, kind).ravel(), wanted.ravel(), atol=1e-4)


def test_crops_are_the_callers_own(landmark_model: LandmarkModel) -> None:
    crops, _ = landmark_model.crop([GREY], [[BOX]])
    for model_call in (landmark_model.crop, landmark_model.predict_all):
        model_call([np.zeros_like(GREY)], [[BOX]])
    assert (crops == 10).all()


def test_threads_have_buffers_of_their_own(landmark_model: LandmarkModel, seen: list[Any]) -> None:
    """Otherwise one's faces would be the other's while both are inside `predict`."""
    landmark_model.predict(GREY, [BOX])
    with ThreadPoolExecutor(1) as pool:
        pool.submit(landmark_model.predict, np.zeros_like(GREY), [BOX]).result()
    assert not np.shares_memory(*seen)
    assert (seen[0] == 10).all()


def test_no_boxes(landmark_model: LandmarkModel, photo: Path) -> None:
    out = landmark_model.predict(photo, [])
    assert out.points.shape == (0, 68, 2)
    assert out.scores.shape == (0, 68)


@pytest.mark.parametrize(
    "crops",
    [
        np.zeros((CROP, CROP, 3), np.uint8),
        np.zeros((1, CROP, CROP, 3), np.float32),
        np.zeros((1, CROP, CROP + 1, 3), np.uint8),
        [[1, 2]],
        None,
    ],
)
def test_bad_crops(landmark_model: LandmarkModel, crops: object) -> None:
    with pytest.raises(ImageError, match="crops must be"):
        landmark_model.predict_crops(crops)  # type: ignore[arg-type]


def test_bad_boxes_and_images(landmark_model: LandmarkModel, photo: Path) -> None:
    with pytest.raises(FacemarkError, match="boxes must"):
        landmark_model.predict(photo, [[10, 10, 5, 5]])
    with pytest.raises(ImageError):
        landmark_model.predict("nix.jpg", [[0, 0, 5, 5]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layout": "kps5"}, "neighbours table"),
        ({"decoder": "nix"}, "nix"),
        ({"precision": "fp99"}, "precision"),
        ({"input": {"width": 0, "height": 0}}, "square input"),
        ({"decoder_params": {"neighbours": [[10**30] * 3] * 68}}, "neighbours table"),
        ({"decoder_params": {"opinions": [[-1]] * 68}}, "opinions table"),
        ({"decoder_params": {"opinions": [[0]] * 68}}, "opinions table"),
        ({"decoder_params": {"opinions": [[0.5]] * 68}}, "opinions table"),
        ({"decoder_params": {"opinions": "1" * 68}}, "opinions table"),
    ],
)
def test_spec_that_does_not_fit(
    landmark_file: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        LandmarkModel(changed(landmark_file, tmp_path, change), backend="cpu")


def changed(file: Path, folder: Path, change: dict[str, Any]) -> Path:
    """A copy of a model with some of its spec's fields, or parts of them, changed."""
    model = onnx.load(file)
    record = json.loads(model.metadata_props[0].value)
    for key, value in change.items():
        record[key] = record[key] | value if isinstance(value, dict) else value
    model.metadata_props[0].value = json.dumps(record)
    onnx.save(model, folder / "x.onnx")
    return folder / "x.onnx"


def test_opinions_of_the_spec_are_the_ones_that_count(
    landmark_file: Path, landmark_model: LandmarkModel, tmp_path: Path
) -> None:
    # Opinions agree in this model only where the crop is black, so any crop tells them apart once
    # nobody's opinion counts: 68 empty lists leave each landmark its own prediction.
    file = changed(landmark_file, tmp_path, {"decoder_params": {"opinions": [[]] * 68}})
    alone = LandmarkModel(file, backend="cpu", threads=1)
    outputs = {
        name: maps + np.float32(0.5 if name == "nb_x" else 0)
        for name, maps in landmark_model.infer(np.zeros((1, CROP, CROP, 3), np.uint8)).items()
    }
    own, merged = alone.decode(outputs).points, landmark_model.decode(outputs).points
    assert (merged[..., 0] > own[..., 0] + 1).any()
    np.testing.assert_allclose(merged[..., 1], own[..., 1], atol=1e-3)


def heatmap_model(folder: Path, heatmaps: NDArray[np.float32], **change: Any) -> LandmarkModel:
    """A model that gives the same heatmaps (L, H, W) for every crop."""
    points = landmark_spec(np.random.default_rng(0).uniform(0, 1, (68, 2)))
    spec = dataclasses.replace(
        points, decoder="barycentre_sum", decoder_params={}, layout="points2", **change
    )
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float"], ["mean"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "maps"], ["heatmaps"]),
    ]
    constants = {"zero": np.zeros(1, np.float32), "maps": heatmaps[None]}
    outputs = {"heatmaps": ["N", *heatmaps.shape]}
    save(graph(nodes, constants, ["N", CROP, CROP, 3], outputs), spec, folder / "heatmaps.onnx")
    return LandmarkModel(folder / "heatmaps.onnx", backend="cpu", threads=1)


def blob(sigma_x: float, sigma_y: float, size: int = 64) -> NDArray[np.float32]:
    x = np.arange(size) - 30.0
    plane = np.exp(-((x[None] / sigma_x) ** 2 + (x[:, None] / sigma_y) ** 2) / 2)
    return plane.astype(np.float32)


def test_covariances_are_in_pixels_of_the_image(tmp_path: Path) -> None:
    model = heatmap_model(tmp_path, np.stack([blob(2, 1), blob(1, 1)]))
    image = np.zeros((400, 400, 3), np.uint8)
    box = [0, 0, 256, 256]  # a cell of the 64 x 64 map is 4 pixels wide
    out = model.predict(image, [box, [0, 0, 128, 128]])
    assert out.covariances is not None
    assert out.covariances.dtype == np.float32
    pixels = np.array([[8.0, 4.0], [4.0, 4.0]]) ** 2
    expected = np.stack([np.diag(row) for row in pixels])
    np.testing.assert_allclose(out.covariances[0], expected, atol=0.1)
    np.testing.assert_allclose(out.covariances[1], expected / 4, atol=0.1)
    nobody = model.predict(image, [])
    assert nobody.covariances is not None
    assert nobody.covariances.shape == (0, 2, 2, 2)


def test_a_face_carries_its_covariances(tmp_path: Path, detector_file: Path, scene: Scene) -> None:
    heatmap_model(tmp_path, np.stack([blob(2, 1), blob(1, 1)]))
    detector = Detector(tmp_path / "heatmaps.onnx", detector_file, backend="cpu")
    small, large = sorted(
        detector(scene((72, 72, 255), (184, 72, 255))), key=lambda face: face.bbox[0]
    )
    for face in (small, large):
        assert face.landmark_covariances is not None
        np.testing.assert_allclose(
            face.landmark_covariances[0],
            np.diag([4, 1]) * ((face.bbox[2] - face.bbox[0]) / 64) ** 2,
            rtol=0.02,
            atol=0.02,
        )
        assert np.shape(face.to_dict()["landmark_covariances"]) == (2, 2, 2)
        assert face.to_layout("points2") is face


@pytest.mark.parametrize("shape", [(3, 64, 64), (2, 64), (1, 64, 64)])
def test_outputs_that_do_not_fit_the_layout_are_refused(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    model = heatmap_model(tmp_path, np.zeros(shape, np.float32))
    with pytest.raises(ModelError, match=r"2 landmarks of layout 'points2' from heatmaps"):
        model.predict_crops(np.zeros((1, CROP, CROP, 3), np.uint8))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    heatmaps = np.stack([blob(1, 1), blob(1, 1)])
    heatmaps[1, 5, 5] = value
    model = heatmap_model(tmp_path, heatmaps)
    with pytest.raises(ModelError, match="not finite"):
        model.predict_crops(np.zeros((1, CROP, CROP, 3), np.uint8))


def test_graph_without_the_outputs_that_the_decoder_reads(
    landmark_file: Path, tmp_path: Path
) -> None:
    model = onnx.load(landmark_file)
    for node in model.graph.node:
        node.output[:] = ["points" if name == "cls" else name for name in node.output]
    for output in model.graph.output:
        output.name = "points" if output.name == "cls" else output.name
    onnx.save(model, tmp_path / "x.onnx")
    with pytest.raises(ModelError, match="needs the outputs cls"):
        LandmarkModel(tmp_path / "x.onnx", backend="cpu")
