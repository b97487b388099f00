from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import SCORE, detector_graph, detector_spec, save
from numpy.typing import NDArray

from facemark_sdk import BackendError, Detector, FaceDetector, FacemarkError, ImageError, load_image
from facemark_sdk.cli import run
from facemark_sdk.detect.face_detector import Detections
from facemark_sdk.detector import largest_first

Scene = Callable[..., NDArray[np.uint8]]


@pytest.fixture(scope="module")
def make(landmark_file: Path, detector_file: Path) -> Callable[..., Detector]:
    def make(**options: Any) -> Detector:
        options = {"backend": "cpu", "threads": 1, **options}
        return Detector(landmark_file, detector_file, **options)

    return make


def test_box_is_the_square(face_detector: FaceDetector, scene: Scene) -> None:
    found = face_detector(scene((136, 72, 255)))
    np.testing.assert_allclose(found.boxes, [[104, 40, 168, 104]], atol=1e-3)
    np.testing.assert_allclose(found.scores, [1.0], atol=1e-5)
    assert found.kps.shape == (1, 5, 2)
    np.testing.assert_allclose(found.kps[0, 2], [136, 72], atol=1e-3)


@pytest.mark.parametrize("factor", [2, 3])
def test_larger_image_gives_larger_boxes(
    face_detector: FaceDetector, scene: Scene, factor: int
) -> None:
    image = np.kron(scene((136, 72, 255)), np.ones((factor, factor, 1), np.uint8))
    centre = (np.array([136, 72]) + 0.5) * factor - 0.5
    found = face_detector(image)
    np.testing.assert_allclose(found.boxes[0, :2], centre - 32 * factor, atol=0.01)
    np.testing.assert_allclose(found.boxes[0, 2:], centre + 32 * factor, atol=0.01)


def test_score_threshold(detector_file: Path, scene: Scene) -> None:
    image = scene((136, 136, 220))  # scores 0.744
    assert len(FaceDetector(detector_file, backend="cpu")(image)) == 1
    assert len(FaceDetector(detector_file, backend="cpu", score_threshold=0.75)(image)) == 0
    assert len(FaceDetector(detector_file, backend="cpu", score_threshold=0.73)(image)) == 1


@pytest.mark.parametrize("option", [{"score_threshold": 1.5}, {"det_size": 0}, {"det_size": 2.5}])
def test_bad_face_detector_options(detector_file: Path, option: dict[str, Any]) -> None:
    with pytest.raises(FacemarkError, match=next(iter(option))):
        FaceDetector(detector_file, backend="cpu", **option)


def test_the_detectors_own_threshold_counts_unless_told(
    landmark_file: Path, tmp_path: Path, scene: Scene
) -> None:
    strict = dataclasses.replace(
        detector_spec(),
        decoder_params={**detector_spec().decoder_params, "score_threshold": 0.9},
    )
    save(detector_graph(), strict, tmp_path / "strict.onnx")
    grey = scene((72, 72, 230))  # scores (230 / 255) ** 2 = 0.81
    assert Detector(landmark_file, tmp_path / "strict.onnx", backend="cpu")(grey) == []
    told = Detector(landmark_file, tmp_path / "strict.onnx", backend="cpu", score_threshold=0.5)
    assert len(told(grey)) == 1


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"stride": 7}, "stride must be 32"),
        ({"det_size": 10**9}, "det_size"),
        ({"det_size": 2.5}, "det_size"),
        ({"nms_threshold": 10**400}, "nms_threshold|too large"),
    ],
)
def test_a_detectors_spec_that_is_of_no_use(
    tmp_path: Path, params: dict[str, Any], message: str
) -> None:
    spec = detector_spec()
    spec = dataclasses.replace(spec, decoder_params={**spec.decoder_params, **params})
    save(detector_graph(), spec, tmp_path / "x.onnx")
    with pytest.raises(FacemarkError, match=message):
        FaceDetector(tmp_path / "x.onnx", backend="cpu")


def test_faces_with_landmarks(
    make: Callable[..., Detector], scene: Scene, mean_face: NDArray[np.float64]
) -> None:
    face, other = make()(scene((72, 72, 255), (184, 184, 200)))
    # the crops of 128 px begin at the nearest whole pixels, a quarter of one before
    np.testing.assert_allclose(face.landmarks, [39.75, 39.75] + mean_face * 64, atol=0.01)
    np.testing.assert_allclose(other.landmarks, [151.75, 151.75] + mean_face * 64, atol=0.01)
    assert face.layout.name == "ibug68"
    for array in (face.bbox, face.kps, face.landmarks, face.landmark_scores):
        assert array.dtype == np.float32
    assert isinstance(face.score, float)
    # The crop's last row and column sample half a pixel beyond the square.
    assert face.landmark_scores.mean() == pytest.approx(SCORE * 0.5, abs=0.02)


def test_largest_first() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 30, 30], [0, 0, 20, 20]], np.float32)
    found = Detections(boxes, np.array([3, 1, 2], np.float32), np.zeros((3, 5, 2), np.float32))
    assert largest_first(found).scores.tolist() == [1, 2, 3]
    assert largest_first(found, 2).scores.tolist() == [1, 2]


def test_max_faces(make: Callable[..., Detector], scene: Scene) -> None:
    image = scene((72, 72, 255), (184, 184, 255), (72, 184, 255))
    assert len(make()(image)) == 3
    assert len(make(max_faces=2)(image)) == 2


def test_det_size_is_the_side_that_the_detector_sees(
    make: Callable[..., Detector], scene: Scene
) -> None:
    """The tiny detector sees squares of 64 pixels on its canvas: of 128 at half the size."""
    assert make().face_detector.det_size == 256
    large = np.kron(scene((72, 72, 255), size=(128, 128)), np.ones((2, 2, 1), np.uint8))
    assert len(make()(large)) > 1
    (face,) = make(det_size=128)(large)
    np.testing.assert_allclose(face.bbox, [80.5, 80.5, 208.5, 208.5], atol=0.1)


def test_det_size_on_the_command_line(
    landmark_file: Path,
    detector_file: Path,
    scene: Scene,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    picture = tmp_path / "large.png"
    large = np.kron(scene((72, 72, 255), size=(128, 128)), np.ones((2, 2, 1), np.uint8))
    cv2.imwrite(str(picture), large)
    models = ["--model", str(landmark_file), "--detector", str(detector_file)]
    assert run(["detect", str(picture), *models, "--det-size", "128", "--backend", "cpu"]) == 0
    assert "1 face" in capsys.readouterr().out


def test_no_face_is_an_empty_list(make: Callable[..., Detector], scene: Scene) -> None:
    detector = make()
    assert detector(scene()) == []
    assert detector.detect_batch([scene(), scene()]) == [[], []]
    assert detector.detect_batch([]) == []


def test_batch_is_the_same_as_one_by_one_and_one_network_run(
    make: Callable[..., Detector], scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = make()
    images = [
        scene((72, 72, 255), (184, 184, 200)),
        scene(size=(300, 200)),
        scene((104, 104, 220), size=(256, 200)),
    ]
    alone = [detector(image) for image in images]
    runs = []
    infer = detector.landmark_model.infer
    monkeypatch.setattr(
        detector.landmark_model, "infer", lambda crops: runs.append(len(crops)) or infer(crops)
    )
    together = detector.detect_batch(images)
    assert runs == [3]
    assert [len(faces) for faces in together] == [2, 0, 1]
    for one, many in zip(itertools.chain(*alone), itertools.chain(*together), strict=True):
        np.testing.assert_allclose(one.landmarks, many.landmarks, atol=1e-4)
        np.testing.assert_allclose(one.landmark_scores, many.landmark_scores, atol=1e-6)


def test_batch_accepts_a_generator_of_all_kinds(make: Callable[..., Detector], photo: Path) -> None:
    image = load_image(photo)
    results = make().detect_batch(part for part in (photo, str(photo), image, image[..., 0]))
    assert len(results) == 4


def test_batch_errors(make: Callable[..., Detector], scene: Scene) -> None:
    with pytest.raises(ImageError, match="image 1 of the batch: image 'nix"):
        make().detect_batch([scene(), "nix.jpg"])
    with pytest.raises(ImageError, match="list of images"):
        make().detect_batch(scene())
    with pytest.raises(ImageError, match=r"^image 'nix"):
        make()("nix.jpg")


@pytest.mark.parametrize("shape", [(20000, 8), (8, 20000), (8, 8)])
def test_extreme_shapes_do_not_crash(make: Callable[..., Detector], shape: tuple[int, int]) -> None:
    for value in (0, 255):
        assert isinstance(make()(np.full((*shape, 3), value, np.uint8)), list)


def test_threads_share_a_detector(make: Callable[..., Detector], scene: Scene) -> None:
    detector = make()
    images = [scene((72 + 16 * i, 72, 255)) for i in range(7)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(detector, images * 4))
    for i, faces in enumerate(results):
        assert faces[0].bbox[0] == pytest.approx(40 + 16 * (i % 7), abs=1e-3)


@pytest.mark.parametrize(
    ("option", "error"),
    [
        ({"score_threshold": -0.1}, FacemarkError),
        ({"score_threshold": float("nan")}, FacemarkError),
        ({"score_threshold": "high"}, FacemarkError),
        ({"max_faces": 0}, FacemarkError),
        ({"max_faces": 1.5}, FacemarkError),
        ({"det_size": 0}, FacemarkError),
        ({"threads": 0}, BackendError),
        ({"backend": "tensorrt"}, BackendError),
    ],
)
def test_bad_options(
    make: Callable[..., Detector], option: dict[str, Any], error: type[FacemarkError]
) -> None:
    with pytest.raises(error):
        make(**option)


def test_bundled_models_find_the_astronaut(photo: Path) -> None:
    (face, *_) = faces = Detector(backend="cpu")(photo)
    assert len(faces) == 1
    x1, y1, x2, y2 = face.bbox
    assert 130 < x1 < 200 < x2 < 310
    assert 20 < y1 < 120 < y2 < 250
    kps = face.to_layout("kps5").landmarks
    assert np.linalg.norm(kps - face.kps, axis=1).max() < 0.15 * (x2 - x1)


def test_bundled_models_find_nobody_in_noise() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
    assert Detector(backend="cpu")(noise) == []
