"""Letterbox, priors and decode of RetinaFace against COMPAT 5.2, and the metrics of detections."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from facemark_sdk.bilinear import resize
from facemark_sdk.detect import retinaface
from facemark_sdk.detect.retinaface import decode, iou, letterbox, priors, to_image

sides = st.integers(1, 900)
sizes = st.sampled_from([64, 320, 512, 640])


@given(height=sides, width=sides, size=sizes)
@settings(max_examples=40, deadline=None)
def test_letterbox_fits_the_longest_side_and_pads_to_whole_strides(
    height: int, width: int, size: int
) -> None:
    canvas, (sx, sy) = letterbox(np.full((height, width, 3), 200, np.uint8), size)
    content = (round(sy * height), round(sx * width))
    assert max(content) == size
    assert min(content) >= 1
    assert [side % 32 for side in canvas.shape[:2]] == [0, 0]
    assert all(0 <= side - used < 32 for side, used in zip(canvas.shape[:2], content, strict=True))
    assert (canvas[: content[0], : content[1]] == 200).all()
    assert (canvas[content[0] :] == retinaface.MEAN_BGR).all()
    assert (canvas[:, content[1] :] == retinaface.MEAN_BGR).all()


def test_letterbox_pads_a_video_frame_to_strides_not_to_a_square() -> None:
    assert letterbox(np.zeros((480, 640, 3), np.uint8), 512)[0].shape == (384, 512, 3)


@pytest.mark.parametrize("sides", [(960, 1280), (961, 1280), (962, 1282), (1921, 2561)])
def test_letterbox_averages_what_it_shrinks(sides: tuple[int, int]) -> None:
    """A checkerboard of single pixels turns grey instead of aliasing, whatever can be halved."""
    board = ((np.indices(sides).sum(axis=0) % 2) * 255).astype(np.uint8)
    canvas = letterbox(np.dstack([board] * 3), 256)[0][:192, :256]
    assert np.abs(canvas.astype(int) - 127).max() <= 30


def test_a_frame_is_sampled_once_at_the_size_of_the_quick_look() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    canvas, scales = letterbox(frame, 256)
    assert scales == (0.4, 0.4)
    assert np.array_equal(canvas, resize(frame, 256, 192))
    opencvs = cv2.resize(frame, (256, 192), interpolation=cv2.INTER_LINEAR)
    assert np.abs(canvas.astype(int) - opencvs).max() <= 1


def test_a_halved_photo_is_the_mean_of_what_each_pixel_covers() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    blocks = photo.reshape(120, 4, 160, 4, 3).mean(axis=(1, 3))
    canvas, scales = letterbox(photo, 160)
    assert scales == (0.25, 0.25)
    np.testing.assert_allclose(canvas[:120], blocks, atol=1)


@pytest.mark.parametrize("shape", [(3, 20000, 3), (20000, 3, 3), (1, 1, 3)])
def test_letterbox_of_extreme_shapes(shape: tuple[int, int, int]) -> None:
    canvas, scales = letterbox(np.zeros(shape, np.uint8), 512)
    assert min(canvas.shape[:2]) >= 32
    assert min(scales) > 0


@given(
    height=st.integers(20, 400),
    width=st.integers(20, 400),
    size=sizes,
    points=st.lists(st.floats(-500, 500, width=32), min_size=4, max_size=4),
)
@settings(max_examples=60, deadline=None)
def test_to_image_inverts_the_letterbox(
    height: int, width: int, size: int, points: list[float]
) -> None:
    _, (sx, sy) = letterbox(np.zeros((height, width, 3), np.uint8), size)
    original = np.array(points, np.float32)
    scale = np.array([sx, sy, sx, sy])
    on_canvas = ((original + 0.5) * scale - 0.5).astype(np.float32)
    np.testing.assert_allclose(to_image(on_canvas, (sx, sy)), original, atol=1e-2)
    np.testing.assert_allclose(
        to_image(on_canvas.reshape(2, 2), (sx, sy)), original.reshape(2, 2), atol=1e-2
    )


@pytest.mark.parametrize("size", [256, 640, 1000])
def test_to_image_agrees_with_where_opencv_puts_a_blob(size: int) -> None:
    image = np.zeros((300, 400, 3), np.uint8)
    cv2.GaussianBlur(cv2.circle(image, (250, 90), 12, (255, 255, 255), -1), (0, 0), 4, dst=image)
    canvas, scales = letterbox(image, size)
    weights = canvas[: round(300 * scales[1]), : round(400 * scales[0]), 0].astype(np.float64)
    rows, columns = np.indices(weights.shape)
    centre = (
        np.array([(columns * weights).sum(), (rows * weights).sum()], np.float32) / weights.sum()
    )
    np.testing.assert_allclose(to_image(centre.astype(np.float32), scales), [250, 90], atol=0.05)


@pytest.mark.parametrize(("height", "width"), [(32, 64), (384, 512), (100, 70)])
def test_priors_match_a_plain_loop(height: int, width: int) -> None:
    expected = []
    for stride, pair in ((8, (16, 32)), (16, (64, 128)), (32, (256, 512))):
        for i in range(int(np.ceil(height / stride))):
            for j in range(int(np.ceil(width / stride))):
                for side in pair:
                    expected.append([(j + 0.5) * stride, (i + 0.5) * stride, side, side])
    np.testing.assert_array_equal(priors(height, width), np.array(expected, np.float32))


def test_priors_are_shared_and_cannot_be_written() -> None:
    assert priors(64, 64) is priors(64, 64)
    with pytest.raises(ValueError, match="read-only"):
        priors(64, 64)[0] = 0


def decode_by_loops(
    loc: NDArray[np.float32],
    scores: NDArray[np.float32],
    landms: NDArray[np.float32],
    anchors: NDArray[np.float32],
    score_threshold: float,
    nms_threshold: float,
) -> list[tuple[list[float], float, list[float]]]:
    """COMPAT 5.2, one prior at a time."""
    faces = []
    for a, (cx, cy, w, h) in enumerate(anchors.astype(float)):
        if scores[a] < score_threshold:
            continue
        x, y = cx + loc[a, 0] * 0.1 * w, cy + loc[a, 1] * 0.1 * h
        width, height = w * np.exp(loc[a, 2] * 0.2), h * np.exp(loc[a, 3] * 0.2)
        points = []
        for k in range(5):
            points += [cx + landms[a, 2 * k] * 0.1 * w, cy + landms[a, 2 * k + 1] * 0.1 * h]
        box = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
        faces.append((box, float(scores[a]), points))
    faces.sort(key=lambda face: -face[1])
    kept: list[tuple[list[float], float, list[float]]] = []
    for face in faces:
        if all(overlap_plus_one(face[0], other[0]) <= nms_threshold for other in kept):
            kept.append(face)
    return kept


def overlap_plus_one(a: list[float], b: list[float]) -> float:
    """Intersection over union where a side from x1 to x2 has x2 - x1 + 1 pixels."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]) + 1)
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]) + 1)
    sizes = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b)]
    return width * height / (sum(sizes) - width * height)


@given(seed=st.integers(0, 2**32 - 1), threshold=st.sampled_from([0.05, 0.5, 0.9]))
@settings(max_examples=25, deadline=None)
def test_decode_matches_plain_loops(seed: int, threshold: float) -> None:
    rng = np.random.default_rng(seed)
    anchors = priors(96, 64)
    loc = rng.normal(0, 1.5, (len(anchors), 4)).astype(np.float32)
    landms = rng.normal(0, 1.5, (len(anchors), 10)).astype(np.float32)
    scores = rng.permutation(len(anchors)).astype(np.float32) / len(anchors)
    boxes, kept, kps = decode(loc, scores, landms, anchors, score_threshold=threshold)
    expected = decode_by_loops(loc, scores, landms, anchors, threshold, retinaface.NMS_THRESHOLD)
    assert [array.dtype for array in (boxes, kept, kps)] == [np.float32] * 3
    np.testing.assert_allclose(boxes, [face[0] for face in expected], atol=1e-3)
    np.testing.assert_allclose(kept, [face[1] for face in expected])
    np.testing.assert_allclose(kps.reshape(-1, 10), [face[2] for face in expected], atol=1e-3)


def test_decode_without_any_face() -> None:
    anchors = priors(64, 64)
    nothing = np.zeros(len(anchors), np.float32)
    boxes, scores, kps = decode(
        np.zeros((len(anchors), 4), np.float32),
        nothing,
        np.zeros((len(anchors), 10), np.float32),
        anchors,
        score_threshold=0.5,
    )
    assert (boxes.shape, scores.shape, kps.shape) == ((0, 4), (0,), (0, 5, 2))


def test_decode_takes_the_best_candidates_only() -> None:
    anchors = priors(64, 64)
    scores = np.linspace(0.5, 1, len(anchors), dtype=np.float32)
    outputs = (
        np.zeros((len(anchors), 4), np.float32),
        scores,
        np.zeros((len(anchors), 10), np.float32),
    )
    kept = decode(*outputs, anchors, score_threshold=0.1, nms_threshold=1.0, top_k=3)[1]
    np.testing.assert_array_equal(kept, scores[::-1][:3])


boxes_strategy = st.lists(
    st.tuples(*[st.floats(-50, 50)] * 2, *[st.floats(1, 60)] * 2), min_size=1, max_size=4
).map(lambda rows: np.array([[x, y, x + w, y + h] for x, y, w, h in rows], np.float32))


@given(a=boxes_strategy, b=boxes_strategy)
@settings(max_examples=60)
def test_iou_is_a_symmetric_share(a: NDArray[np.float32], b: NDArray[np.float32]) -> None:
    overlaps = iou(a, b)
    assert overlaps.shape == (len(a), len(b))
    assert ((overlaps >= 0) & (overlaps <= 1 + 1e-5)).all()
    np.testing.assert_allclose(overlaps, iou(b, a).T, atol=1e-6)
    np.testing.assert_allclose(np.diag(iou(a, a)), 1, atol=1e-4)


def test_iou_of_a_known_pair() -> None:
    a, b = np.array([[0, 0, 10, 10]], np.float32), np.array([[5, 0, 15, 10]], np.float32)
    np.testing.assert_allclose(iou(a, b), [[1 / 3]], rtol=1e-6)
