"""The default size of a RetinaFace detector: a quick look, and a full one unless that is sure."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import detector_graph, detector_spec, save
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from facemark_sdk import Detector, FaceDetector, FacemarkError, load_image
from facemark_sdk.detect import quick, retinaface
from facemark_sdk.detect.retinaface import priors

OWN = 0.5
"""The bundled detector's score threshold."""
FULL = 512
"""Its size."""

Found = list[tuple[float, int]]
"""Scores and sides (16, 32, 64, ...) of faces; none overlaps another."""


class Watched:
    """A backend that notes the longer side of each canvas and, told so, makes the outputs up."""

    def __init__(self, detector: FaceDetector, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sides: list[int] = []
        self.answers: dict[int, Found] = {}
        self._run = detector._backend.run
        monkeypatch.setattr(detector._backend, "run", self.run)

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        height, width = inputs["image"].shape[1:3]
        self.sides.append(max(height, width))
        if self.sides[-1] not in self.answers:
            return self._run(inputs)
        boxes = priors(height, width)
        scores = np.zeros((1, len(boxes)), np.float32)
        for place, (score, side) in enumerate(self.answers[self.sides[-1]]):
            alike = np.flatnonzero((boxes[:, 2] == side) & (boxes[:, 1] > 100 * place))
            scores[0, alike[0]] = score
        zeros = np.zeros((1, len(boxes), 10), np.float32)
        return {"loc": zeros[..., :4], "scores": scores, "landms": zeros}


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[FaceDetector, Watched]]:
    """The bundled detector with its backend watched."""

    def make(**options: Any) -> tuple[FaceDetector, Watched]:
        detector = FaceDetector("retinaface_mnet025", backend="cpu", threads=1, **options)
        return detector, Watched(detector, monkeypatch)

    return make


@pytest.fixture
def face(photo: Path) -> NDArray[np.uint8]:
    """One face and nothing that looks like one, 512 x 384."""
    return np.ascontiguousarray(load_image(photo)[:384])


SQUARE = np.zeros((64, 64, 3), np.uint8)


def test_a_single_clear_face_takes_one_run(watch: Any, face: NDArray[np.uint8]) -> None:
    detector, watched = watch()
    assert len(detector(face)) == 1
    assert watched.sides == [quick.SIZE]


def test_a_crowd_takes_two(watch: Any, face: NDArray[np.uint8]) -> None:
    """Nine photos beside each other: what the full look finds counts."""
    crowd = np.ascontiguousarray(np.tile(face, (3, 3, 1)))
    detector, watched = watch()
    found = detector(crowd)
    assert watched.sides == [quick.SIZE, FULL]
    alone = watch(det_size=FULL)[0](crowd)
    assert len(alone) == 9
    np.testing.assert_allclose(found.boxes, alone.boxes, atol=1e-3)
    np.testing.assert_allclose(found.kps, alone.kps, atol=1e-3)


@pytest.mark.parametrize("times", [2, 3, 4])
def test_a_large_photo_is_seen_as_the_same_one_smaller(
    watch: Any, face: NDArray[np.uint8], times: int
) -> None:
    detector, watched = watch()
    expected = detector(face)
    large = np.ascontiguousarray(face.repeat(times, axis=0).repeat(times, axis=1))
    assert max(large.shape) > 3 * quick.SIZE
    found = detector(large)
    assert watched.sides == [quick.SIZE, quick.SIZE]
    np.testing.assert_allclose(found.boxes, (expected.boxes + 0.5) * times - 0.5, atol=1e-2)
    np.testing.assert_allclose(found.kps, (expected.kps + 0.5) * times - 0.5, atol=1e-2)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)


@pytest.mark.parametrize(("side", "shrunk"), [(400, 0), (512, 0), (768, 0), (769, 1), (2000, 1)])
def test_a_large_image_is_made_small_once_for_both_looks(
    watch: Any, monkeypatch: pytest.MonkeyPatch, side: int, shrunk: int
) -> None:
    fitted: list[tuple[int, int]] = []
    fit = retinaface.fit

    def note(image: NDArray[np.uint8], size: int) -> Any:
        fitted.append((max(image.shape[:2]), size))
        return fit(image, size)

    monkeypatch.setattr(retinaface, "fit", note)
    detector, watched = watch()
    detector(np.full((side // 2, side, 3), 127, np.uint8))
    assert watched.sides == [quick.SIZE, FULL]
    seen = FULL if shrunk else side
    assert fitted == [(side, FULL)] * shrunk + [(seen, quick.SIZE), (seen, FULL)]


def test_no_face_takes_two(watch: Any) -> None:
    detector, watched = watch()
    grey = np.full((480, 640, 3), 127, np.uint8)
    assert len(detector(grey)) == 0
    assert watched.sides == [quick.SIZE, FULL]


def test_a_close_up_takes_one(watch: Any, face: NDArray[np.uint8]) -> None:
    detector, watched = watch()
    x1, y1, x2, y2 = detector(face).boxes[0].astype(int)
    del watched.sides[:]
    close = np.ascontiguousarray(face[y1:y2, x1:x2])
    (box,) = detector(close).boxes
    assert watched.sides == [quick.SIZE]
    assert np.prod(box[2:] - box[:2]) > 0.5 * close.shape[0] * close.shape[1]


def test_a_face_that_only_the_quick_look_shows_is_kept(watch: Any) -> None:
    """The full look is taken for the second's sake, and finds neither."""
    detector, watched = watch()
    watched.answers = {quick.SIZE: [(0.7, 64), (0.2, 64)], FULL: []}
    found = detector(SQUARE)
    assert watched.sides == [quick.SIZE, FULL]
    np.testing.assert_allclose(found.scores, [0.7])
    assert found.boxes.shape == (1, 4)
    assert found.kps.shape == (1, 5, 2)


@pytest.mark.parametrize(
    ("seen", "looks"),
    [
        ([(0.9, 64)], 1),
        ([(0.9, 64), (0.6, 64)], 1),
        ([(0.9, 64), (0.49, 64)], 2),
        ([(0.9, 64), (0.031, 16)], 2),
        ([(0.9, 64), (0.029, 16)], 1),
        ([(0.9, 16)], 2),
        ([(0.9, 64), (0.9, 16)], 2),
        ([(0.3, 64)], 2),
        ([], 2),
    ],
)
def test_doubtful_and_small_faces_take_a_full_look(watch: Any, seen: Found, looks: int) -> None:
    detector, watched = watch()
    watched.answers = {quick.SIZE: seen, FULL: [(0.95, 128)]}
    found = detector(SQUARE)
    assert watched.sides == [quick.SIZE, FULL][:looks]
    expected = [score for score, _ in seen if score >= OWN] if looks == 1 else [0.95]
    np.testing.assert_allclose(found.scores, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("threshold", "seen", "looks"),
    [
        # A low threshold asks for weak faces: even fainter ones call for the full look.
        (0.02, [(0.9, 64)], 1),
        (0.02, [(0.9, 64), (0.002, 64)], 2),
        (0.02, [(0.9, 64), (0.001, 64)], 1),
        (0.02, [(0.3, 64)], 2),  # over the threshold, but doubtful to the model
        # A high one calls for it where a face misses it, and has no other effect.
        (0.9, [(0.95, 64)], 1),
        (0.9, [(0.95, 64), (0.04, 64)], 2),
        (0.9, [(0.95, 64), (0.029, 64)], 1),
        (0.9, [(0.8, 64)], 2),
        (0.0, [(0.9, 64)], 2),
    ],
)
def test_the_users_threshold(watch: Any, threshold: float, seen: Found, looks: int) -> None:
    detector, watched = watch(score_threshold=threshold)
    watched.answers = {quick.SIZE: seen, FULL: [(0.95, 128), (0.5, 128), (0.03, 128)]}
    found = detector(SQUARE)
    assert watched.sides == [quick.SIZE, FULL][:looks]
    assert (found.scores >= threshold).all()
    if threshold == 0.02 and looks == 2:
        np.testing.assert_allclose(found.scores, [0.95, 0.5, 0.03], rtol=1e-6)


def test_a_low_threshold_on_a_photo_loses_no_face(watch: Any, face: NDArray[np.uint8]) -> None:
    crowd = np.ascontiguousarray(np.tile(face, (3, 3, 1)))
    detector, _ = watch(score_threshold=0.02)
    alone, _ = watch(score_threshold=0.02, det_size=FULL)
    np.testing.assert_allclose(detector(crowd).boxes, alone(crowd).boxes, atol=1e-3)
    assert len(detector(face)) >= 1


@pytest.mark.parametrize("size", [256, FULL, 640])
def test_an_explicit_size_is_one_look_and_a_half_where_nothing_is_found(
    watch: Any, face: NDArray[np.uint8], size: int
) -> None:
    detector, watched = watch(det_size=size)
    assert detector.quick_size is None
    assert len(detector(face)) == 1
    assert watched.sides == [size]
    del watched.sides[:]
    assert len(detector(np.full((300, 300, 3), 127, np.uint8))) == 0
    assert watched.sides == [size, size // 2]


def test_each_image_of_a_batch_has_its_own_looks(
    monkeypatch: pytest.MonkeyPatch, face: NDArray[np.uint8]
) -> None:
    detector = Detector(backend="cpu", threads=1)
    grey = np.full((480, 640, 3), 127, np.uint8)
    watched = Watched(detector.face_detector, monkeypatch)
    assert [len(faces) for faces in detector.detect_batch([face, grey, face])] == [1, 0, 1]
    assert watched.sides == [quick.SIZE, quick.SIZE, FULL, quick.SIZE]


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"det_size": 640}, None),
        ({"det_size": 512, "quick_size": 256}, 256),
        ({"det_size": 511, "quick_size": 256}, None),
        ({"det_size": 320, "quick_size": 160}, 160),
        ({"det_size": 640, "quick_size": 640}, None),
        ({"det_size": 640, "quick_size": None}, None),
    ],
)
def test_a_spec_states_the_quick_size(
    tmp_path: Path, params: dict[str, int], expected: int | None
) -> None:
    assert with_params(tmp_path, params).quick_size == expected


@pytest.mark.parametrize("size", [0, 2.5, "256"])
def test_a_bad_quick_size(tmp_path: Path, size: object) -> None:
    with pytest.raises(FacemarkError, match="quick_size must be a whole number"):
        with_params(tmp_path, {"quick_size": size})


def with_params(folder: Path, params: Mapping[str, object]) -> FaceDetector:
    """The tiny detector with other decoder parameters."""
    spec = detector_spec()
    spec = dataclasses.replace(spec, decoder_params={**spec.decoder_params, **params})
    save(detector_graph(), spec, folder / "x.onnx")
    return FaceDetector(folder / "x.onnx", backend="cpu")


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(1, 256)), max_size=4),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_sure_by_plain_loops(
    seen: list[tuple[float, float]], threshold: float, own_threshold: float
) -> None:
    seen = [each for each in seen if each[0] >= quick.least_score(threshold, own_threshold)]
    expected = len(seen) > 0
    for score, side in seen:
        if score < threshold or score < own_threshold or side < quick.LEAST_SIDE:
            expected = False
    scores, sides = np.array(seen, np.float64).reshape(-1, 2).T
    assert quick.is_sure(scores, sides, threshold, own_threshold) is expected
