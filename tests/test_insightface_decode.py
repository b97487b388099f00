"""Letterbox and decode of insightface's detectors against COMPAT 5.1, one anchor at a time."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from facemark_sdk import ModelError
from facemark_sdk.detect.insightface import Heads, anchor_centres, decode, letterbox, to_image

THREE, FIVE = (8, 16, 32), (8, 16, 32, 64, 128)
HEADS = [
    Heads(THREE, 2, False),
    Heads(THREE, 2, True),
    Heads(FIVE, 1, False),
    Heads(FIVE, 1, True),
]

Face = tuple[list[float], float, list[list[float]]]


def letterbox_by_compat(
    image: NDArray[np.uint8], net_h: int, net_w: int
) -> tuple[NDArray[np.uint8], float]:
    h, w = image.shape[:2]
    if h / w > net_h / net_w:
        new_h, new_w = net_h, int(net_h / (h / w))
    else:
        new_w, new_h = net_w, int(net_w * (h / w))
    canvas = np.zeros((net_h, net_w, 3), np.uint8)
    canvas[:new_h, :new_w] = cv2.resize(image, (new_w, new_h), interpolation=cv2.INTER_LINEAR)
    return canvas, new_h / h


def overlap_plus_one(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]) + 1)
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]) + 1)
    areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


def decode_by_loops(
    outputs: Mapping[str, NDArray[np.float32]],
    heads: Heads,
    net_h: int,
    net_w: int,
    threshold: float = 0.5,
    nms: float = 0.4,
) -> list[Face]:
    """Faces on the canvas in float64, best first; outputs are (anchors, width)."""
    faces: list[Face] = []
    for stride in heads.strides:
        scores, boxes = (
            outputs[f"{kind}_{stride}"].astype(np.float64) for kind in ("score", "bbox")
        )
        row = 0
        for y in range(net_h // stride):
            for x in range(net_w // stride):
                for _ in range(heads.anchors):
                    if scores[row, 0] >= threshold:
                        left, top, right, bottom = boxes[row] * stride
                        cx, cy = x * stride, y * stride
                        points = []
                        if heads.keypoints:
                            kps = outputs[f"kps_{stride}"].astype(np.float64)[row] * stride
                            points = [[cx + kps[2 * k], cy + kps[2 * k + 1]] for k in range(5)]
                        box = [cx - left, cy - top, cx + right, cy + bottom]
                        faces.append((box, float(scores[row, 0]), points))
                    row += 1
        assert row == len(scores)
    faces.sort(key=lambda face: -face[1])
    kept: list[Face] = []
    for face in faces:
        if all(overlap_plus_one(face[0], other[0]) <= nms for other in kept):
            kept.append(face)
    return kept


def random_outputs(
    rng: np.random.Generator, heads: Heads, net_h: int, net_w: int
) -> dict[str, NDArray[np.float32]]:
    outputs = {}
    for stride in heads.strides:
        count = (net_h // stride) * (net_w // stride) * heads.anchors
        for kind, width in heads.widths.items():
            values = rng.normal(0, 1, (1, count, width))
            if kind == "score":
                values = rng.uniform(0, 1, (1, count, 1))
            elif kind == "bbox":
                values = rng.uniform(0.2, 4, (1, count, 4))
            outputs[f"{kind}_{stride}"] = values.astype(np.float32)
    return outputs


@pytest.mark.parametrize("heads", HEADS, ids=lambda heads: str(len(heads.output_names)))
@given(seed=st.integers(0, 2**32 - 1), threshold=st.sampled_from([0.3, 0.5, 0.95]))
@settings(max_examples=10)
def test_decode_matches_plain_loops(heads: Heads, seed: int, threshold: float) -> None:
    outputs = random_outputs(np.random.default_rng(seed), heads, 256, 128)
    boxes, scores, kps = decode(outputs, heads, (256, 128), score_threshold=threshold)
    flat = {name: values[0] for name, values in outputs.items()}
    expected = decode_by_loops(flat, heads, 256, 128, threshold)
    assert [array.dtype for array in (boxes, scores, kps)] == [np.float32] * 3
    assert kps.shape == (len(expected), 5 if heads.keypoints else 0, 2)
    np.testing.assert_allclose(boxes, [face[0] for face in expected], atol=1e-3)
    np.testing.assert_allclose(scores, [face[1] for face in expected])
    if heads.keypoints:
        np.testing.assert_allclose(kps, [face[2] for face in expected], atol=1e-3)


@pytest.mark.parametrize("heads", HEADS, ids=lambda heads: str(len(heads.output_names)))
def test_a_planted_face_comes_out_where_it_was_planted(heads: Heads) -> None:
    outputs = {name: np.zeros_like(v) for name, v in _empty(heads).items()}
    # The last anchor of the cell in row 3, column 5 at stride 16: centre (80, 48), no half cell.
    row = (3 * (256 // 16) + 5) * heads.anchors + heads.anchors - 1
    outputs["score_16"][0, row] = 0.75
    outputs["bbox_16"][0, row] = [1, 2, 3, 0.5]
    if heads.keypoints:
        outputs["kps_16"][0, row] = [-0.5, -1, 0.5, -1, 0, 0, -0.25, 1, 0.25, 1]
    boxes, scores, kps = decode(outputs, heads, (128, 256), score_threshold=0.5)
    np.testing.assert_array_equal(boxes, [[64, 16, 128, 56]])
    np.testing.assert_array_equal(scores, np.float32([0.75]))
    if heads.keypoints:
        np.testing.assert_array_equal(kps[0], [[72, 32], [88, 32], [80, 48], [76, 64], [84, 64]])


def _empty(heads: Heads) -> dict[str, NDArray[np.float32]]:
    return random_outputs(np.random.default_rng(0), heads, 128, 256)


def test_the_better_of_two_levels_stays_and_the_threshold_is_inclusive() -> None:
    heads = HEADS[0]
    outputs = {name: np.zeros_like(v) for name, v in _empty(heads).items()}
    outputs["score_8"][0, 0], outputs["bbox_8"][0, 0] = 0.5, [0, 0, 4, 4]  # 0 0 32 32
    assert len(decode(outputs, heads, (128, 256), score_threshold=0.5)[0]) == 1
    outputs["score_32"][0, 1], outputs["bbox_32"][0, 1] = 0.9, [0, 0, 1, 1]  # the same box
    boxes, scores, _ = decode(outputs, heads, (128, 256), score_threshold=0.5)
    assert (boxes.tolist(), scores.tolist()) == ([[0, 0, 32, 32]], [np.float32(0.9)])


def test_boxes_without_area_are_left_out() -> None:
    heads = HEADS[0]
    outputs = {name: np.zeros_like(v) for name, v in _empty(heads).items()}
    outputs["score_8"][0, :3] = 0.9
    outputs["bbox_8"][0, 0] = [-1, 1, 0.5, 1]  # inside out
    outputs["bbox_8"][0, 1] = [1, 0, 1, 0]  # flat
    outputs["bbox_8"][0, 2] = [np.nan, 0, 1, 1]
    assert len(decode(outputs, heads, (128, 256), score_threshold=0.5)[0]) == 0


def test_nothing_found_is_empty_arrays() -> None:
    for heads, points in zip(HEADS, (0, 5, 0, 5), strict=True):
        boxes, scores, kps = decode(_empty(heads), heads, (128, 256), score_threshold=1.1)
        assert (boxes.shape, scores.shape, kps.shape) == ((0, 4), (0,), (0, points, 2))


def test_outputs_of_another_size_are_refused() -> None:
    with pytest.raises(ModelError, match=r"'score_8' has shape .*1024.* has 512"):
        decode(_empty(HEADS[0]), HEADS[0], (128, 128), score_threshold=0.5)


@given(
    height=st.integers(20, 700),
    width=st.integers(20, 700),
    net=st.sampled_from([(640, 640), (256, 384), (384, 256), (32, 32)]),
)
@settings(max_examples=60)
def test_letterbox_is_the_published_one(height: int, width: int, net: tuple[int, int]) -> None:
    image = np.random.default_rng(height * 1000 + width).integers(
        0, 256, (height, width, 3), np.uint8
    )
    canvas, (sx, sy) = letterbox(image, net[1], net[0])
    expected, scale = letterbox_by_compat(image, *net)
    np.testing.assert_array_equal(canvas, expected)
    assert sx == sy == scale


def test_letterbox_of_known_shapes() -> None:
    # 480 x 640 is 0.75: 640 wide, 480 high. 500 x 333: trunc(640 / (500 / 333)) = 426 wide.
    for shape, used in (((480, 640), (480, 640)), ((500, 333), (640, 426))):
        canvas, (scale, _) = letterbox(np.full((*shape, 3), 9, np.uint8), 640, 640)
        assert (canvas[: used[0], : used[1]] == 9).all()
        assert canvas.sum() == 9 * 3 * used[0] * used[1]
        assert scale == used[0] / shape[0]


@pytest.mark.parametrize("shape", [(3, 20000, 3), (20000, 3, 3), (1, 1, 3)])
def test_letterbox_of_extreme_shapes(shape: tuple[int, int, int]) -> None:
    canvas, (scale, _) = letterbox(np.zeros(shape, np.uint8), 640, 640)
    assert canvas.shape == (640, 640, 3)
    assert scale > 0


def test_canvas_coordinates_are_divided_by_the_scale() -> None:
    xy = np.array([[10, 20, 30, 40]], np.float32)
    np.testing.assert_allclose(to_image(xy, (0.5, 0.5)), [[20, 40, 60, 80]])
    assert to_image(np.empty((2, 0, 2), np.float32), (0.5, 0.5)).shape == (2, 0, 2)


def test_anchors_are_shared_and_cannot_be_written() -> None:
    centres = anchor_centres(64, 96, 32, 2)
    assert centres is anchor_centres(64, 96, 32, 2)
    assert centres.tolist() == [
        [x, y] for y in (0.0, 32.0) for x in (0.0, 32.0, 64.0) for _ in range(2)
    ]
    with pytest.raises(ValueError, match="read-only"):
        centres[0] = 0


@pytest.mark.parametrize(
    ("params", "error"),
    [
        ({"strides": [8], "anchors": 2}, KeyError),
        ({"strides": 8, "anchors": 2, "keypoints": True}, TypeError),
        ({"strides": [], "anchors": 2, "keypoints": True}, ValueError),
        ({"strides": [8, 0], "anchors": 2, "keypoints": True}, ValueError),
        ({"strides": [8], "anchors": 0, "keypoints": True}, ValueError),
    ],
)
def test_impossible_heads(params: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error):
        Heads.from_params(params)
