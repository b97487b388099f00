from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import CROP, SCORE
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from facemark_sdk import FacemarkError, ImageError, LandmarkModel, ModelError
from facemark_sdk import landmark_model as module

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
    out = landmark_model.predict(np.zeros((200, 200, 3), np.uint8), [box])
    np.testing.assert_allclose(out.points[0], corner + mean_face * side, atol=0.01)


def test_faces_keep_their_order(landmark_model: LandmarkModel, scene: Scene) -> None:
    image = scene((72, 72, 200), (184, 72, 100), (72, 184, 0))
    boxes = [[x - 32, y - 32, x + 32, y + 32] for x, y in ((72, 72), (184, 72), (72, 184))]
    scores = landmark_model.predict(image, boxes).scores
    expected = SCORE * (1 - 0.5 * np.array([200, 100, 0]) / 255)
    np.testing.assert_allclose(scores.mean(axis=1), expected, atol=5e-3)


def test_large_batches_are_split(
    landmark_model: LandmarkModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    crops = np.random.default_rng(0).integers(0, 256, (5, CROP, CROP, 3), np.uint8)
    whole = landmark_model.predict_crops(crops)
    monkeypatch.setattr(module, "MAX_BATCH", 2)
    parts = landmark_model.predict_crops(crops)
    np.testing.assert_allclose(parts.points, whole.points, atol=1e-4)
    np.testing.assert_allclose(parts.scores, whole.scores, atol=1e-6)


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
    ],
)
def test_spec_that_does_not_fit(
    landmark_file: Path, tmp_path: Path, change: dict[str, str], message: str
) -> None:
    model = onnx.load(landmark_file)
    record = json.loads(model.metadata_props[0].value) | change
    model.metadata_props[0].value = json.dumps(record)
    onnx.save(model, tmp_path / "x.onnx")
    with pytest.raises(ModelError, match=message):
        LandmarkModel(tmp_path / "x.onnx", backend="cpu")


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
