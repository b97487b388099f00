"""PIPNet's and HRNet's boxes against COMPAT 1.6 and 2.4, written again in plain Python."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from facemark_export.training.datasets import PIPNET_RULES, Sample, pipnet_box
from facemark_export.training.datasets.crops import face_crop, pipnet_crop
from facemark_export.training.datasets.hrnet_csv import (
    box_of_points,
    centre_and_scale,
    square,
)
from facemark_sdk.errors import DataError

SIZES = st.integers(20, 2000)
COORDINATES = st.floats(-50, 2000, width=32)
POINTS = st.lists(st.tuples(COORDINATES, COORDINATES), min_size=3, max_size=6)
BOXES = st.tuples(
    st.integers(-30, 1000), st.integers(-30, 1000), st.integers(3, 900), st.integers(3, 900)
)


def crop_of(name, points, box, width, height):
    points = None if points is None else np.array(points, np.float64)
    box = None if box is None else np.array(box, np.float64)
    return pipnet_box(PIPNET_RULES[name], points, box, width, height)


def clamp(value, low, high):
    return min(max(value, low), high)


def table_300w(points, width, height, growth):
    """'points truncated to int; tight box of points; ...', one number after the other."""
    whole = [(int(x), int(y)) for x, y in points]
    x0, y0 = min(x for x, _ in whole), min(y for _, y in whole)
    w, h = max(x for x, _ in whole) - x0, max(y for _, y in whole) - y0
    x0 -= int((growth - 1) / 2 * w)
    y0 -= int((growth - 1) / 2 * h)
    w, h = int(growth * w), int(growth * h)
    x0, y0 = max(x0, 0), max(y0, 0)
    w, h = min(w, width - x0 - 1), min(h, height - y0 - 1)
    return (x0, y0, w, h), whole


@pytest.mark.parametrize(("name", "growth"), [("300w", 1.1), ("300w-gssl", 1.3)])
@given(points=POINTS, width=SIZES, height=SIZES)
def test_300w_as_the_table_says(name, growth, points, width, height):
    (x0, y0, w, h), whole = table_300w(points, width, height, growth)
    if w < 1 or h < 1:
        with pytest.raises(DataError, match="no pixels"):
            crop_of(name, points, None, width, height)
        return
    crop = crop_of(name, points, None, width, height)
    assert crop.pixels == (x0, y0, x0 + w, y0 + h)
    assert crop.points.tolist() == [[(x - x0) / w, (y - y0) / h] for x, y in whole]


def test_growth_is_evaluated_in_float64_before_it_is_truncated():
    # (1.3 - 1) / 2 * 20 is 3.0000000000000004 in float64 and 2.9999995 in float32;
    # 1.3 * 90 is 117.0 and 116.99999.
    wide = [(100.9, 100.9), (120.2, 190.7)]
    assert crop_of("300w-gssl", wide, None, 500, 500).pixels == (97, 87, 123, 204)
    # Each step is truncated: 0.05 x 19 = 0.95 to nothing, 1.1 x 19 = 20.9 to 20.
    assert crop_of("300w", [(100, 100), (119, 119)], None, 500, 500).pixels == (100, 100, 120, 120)


# name: sides, top (negative: cut), bottom, last pixel counted, points clamped
TABLE = {
    "wflw": (0.1, 0.1, 0.1, False, True),
    "cofw": (0.0, 0.0, 0.0, False, False),
    "aflw": (0.0, 0.0, 0.0, False, True),
    "wflw68-gssl": (0.1, -0.1, 0.1, False, True),
    "celeba-gssl": (0.1, -0.15, 0.1, True, False),
    "cofw68-gssl": (0.15, 0.15, 0.15, True, False),
}


def test_every_rule_is_in_a_table():
    assert set(TABLE) | {"300w", "300w-gssl"} == set(PIPNET_RULES)


@pytest.mark.parametrize("name", TABLE)
@given(points=POINTS, corner_and_size=BOXES, width=SIZES, height=SIZES)
def test_boxes_as_the_table_says(name, points, corner_and_size, width, height):
    sides, top, bottom, last, clamped = TABLE[name]
    xmin, ymin, w, h = corner_and_size
    xmax, ymax = xmin + w - 1, ymin + h - 1
    share_w, share_h = (w, h) if last else (xmax - xmin, ymax - ymin)
    x0 = clamp(xmin - sides * share_w, 0, width - 1)
    x1 = clamp(xmax + sides * share_w, 0, width - 1)
    y0 = clamp(ymin - top * share_h, 0, height - 1)
    y1 = clamp(ymax + bottom * share_h, 0, height - 1)
    if int(x1) <= int(x0) or int(y1) <= int(y0):
        with pytest.raises(DataError, match="no pixels"):
            crop_of(name, points, (xmin, ymin, xmax, ymax), width, height)
        return
    crop = crop_of(name, points, (xmin, ymin, xmax, ymax), width, height)
    assert crop.box.tolist() == [x0, y0, x1, y1]
    assert crop.pixels == (int(x0), int(y0), int(x1), int(y1))
    if clamped:
        points = [(clamp(x, 0, width), clamp(y, 0, height)) for x, y in points]
    for (x, y), normalised in zip(points, crop.points.tolist(), strict=True):
        assert normalised == [(x - x0) / (x1 - x0), (y - y0) / (y1 - y0)]


def test_pixels_are_truncated_but_points_are_not():
    crop = crop_of("wflw", [(15.0, 20.0)] * 3, (10, 10, 23, 27), 100, 100)
    np.testing.assert_allclose(crop.box, [8.7, 8.3, 24.3, 28.7])
    assert crop.pixels == (8, 8, 24, 28)
    np.testing.assert_allclose(crop.points[0], [6.3 / 15.6, 11.7 / 20.4])


def test_points_outside_are_moved_to_the_border_of_wflw_only():
    points, box = [(-7.0, 130.0)] * 3, (0, 0, 99, 99)
    assert crop_of("wflw", points, box, 100, 100).points[0].tolist() == [0, 100 / 99]
    assert crop_of("cofw", points, box, 100, 100).points[0].tolist() == [-7 / 99, 130 / 99]


def test_faces_that_lack_what_the_rule_needs():
    with pytest.raises(DataError, match="around points, the face has none"):
        crop_of("300w", None, (1, 2, 30, 40), 100, 100)
    with pytest.raises(DataError, match="box, the face has none"):
        crop_of("wflw", [(1, 2), (30, 40)], None, 100, 100)
    assert crop_of("celeba-gssl", None, (1, 2, 30, 40), 100, 100).points is None


@given(corner_and_size=BOXES)
def test_centre_is_the_midpoint_and_scale_the_longer_side_by_200(corner_and_size):
    x, y, w, h = corner_and_size
    centre, scale = centre_and_scale(np.array([x, y, x + w, y + h]))
    assert centre.tolist() == [(x + x + w) / 2, (y + y + h) / 2]
    assert scale == max(w, h) / 200


@given(x=COORDINATES, y=COORDINATES, scale=st.floats(0.1, 10))
def test_square_of_centre_and_scale_gives_them_back(x, y, scale):
    centre, again = centre_and_scale(square(x, y, scale))
    np.testing.assert_allclose(centre, (x, y), atol=1e-9)
    assert again == pytest.approx(scale)


@given(points=POINTS)
def test_box_of_points_is_whole(points):
    box = box_of_points(np.array(points, np.float64))
    xs, ys = zip(*points, strict=True)
    expected = [math.floor(min(xs)), math.floor(min(ys)), math.ceil(max(xs)), math.ceil(max(ys))]
    assert box.tolist() == expected


def gradient(width, height):
    """Red is the column and green the row, where both are under 256."""
    y, x = np.mgrid[:height, :width]
    return np.stack([np.zeros_like(x), y, x], axis=-1).astype(np.uint8)


def sample_of(points, width=200, height=240, **fields):
    return Sample(
        image=gradient(width, height),
        name="a/face.jpg",
        points=np.array(points, np.float64),
        layout="points3",
        photo="face",
        **fields,
    )


def test_pipnet_crop_is_the_box_at_256_with_points_in_its_pixels():
    sample = sample_of([(60, 80), (100, 160), (80, 120)])
    crop = pipnet_crop(sample, PIPNET_RULES["300w"])
    # 40 x 80 points: x0 = 60 - 2, w = 44, y0 = 80 - 4, h = 88
    assert crop.image.shape == (256, 256, 3)
    assert crop.name == "a/face.png"
    np.testing.assert_allclose(crop.points[2], [22 / 44 * 256, 44 / 88 * 256])
    assert crop.image[0, 0].tolist() == [0, 76, 58]
    assert crop.image[-1, -1].tolist() == [0, 76 + 87, 58 + 43]
    assert crop.box.tolist() == [0, 0, 256, 256]


@given(
    points=st.lists(
        st.tuples(st.floats(-20, 620), st.floats(-20, 420)), min_size=3, max_size=3, unique=True
    )
)
def test_face_crop_keeps_points_on_their_pixels(points):
    low, high = np.min(points, axis=0), np.max(points, axis=0)
    centre = (low + high) / 2
    assume((high - low).max() > 30)
    assume((centre > 30).all() and (centre < (570, 370)).all())
    y, x = np.mgrid[:400, :600].astype(np.float64)
    ramp = np.stack([x * 0, y / 2, x / 3], axis=-1).round().astype(np.uint8)
    box = np.concatenate([low, high])
    whole = Sample(ramp, "f.png", np.array(points), "points3", "f", box=box, norm=100.0)
    crop = face_crop(whole)
    height, width = crop.image.shape[:2]
    assert max(height, width) <= 320
    # A ramp says where its pixels were: the crop's middle pixel, moved as the points were.
    scale = (crop.points.max(axis=0) - crop.points.min(axis=0)) / np.maximum(high - low, 1e-9)
    middle = np.array([width // 2, height // 2])
    at_middle = crop.image[middle[1], middle[0]]
    for axis, (unit, channel) in enumerate([(3, 2), (2, 1)]):
        if high[axis] - low[axis] > 5:
            was = low[axis] + (middle[axis] - crop.points[:, axis].min()) / scale[axis]
            assert abs(was - float(at_middle[channel]) * unit) <= 3.5
    np.testing.assert_allclose(crop.box[:2], crop.points.min(axis=0), atol=1e-9)
    assert crop.norm <= 100.0 + 1e-9


def test_face_crop_has_room_and_is_not_enlarged():
    crop = face_crop(sample_of([(80, 100), (120, 140), (100, 120)]))
    # 40 x 40 points, 10 more above: a square of 70 about (100, 115)
    assert crop.image.shape[:2] == (70, 70)
    assert crop.image[0, 0].tolist() == [0, 80, 65]
    assert crop.points[0].tolist() == [15, 20]
    assert crop.name == "a/face.jpg"


def test_face_crop_is_shrunk_about_the_corner_of_its_first_pixel():
    # 400 x 400 with the forehead: a square of 560 from (120, 140), shrunk to 320. The outer edge
    # of the first pixel, half a pixel from its centre, stays in place.
    crop = face_crop(sample_of([(200, 300), (600, 620)], 900, 900, norm=70.0))
    assert crop.image.shape[:2] == (320, 320)
    expected = [(80 + 0.5) * 320 / 560 - 0.5, (160 + 0.5) * 320 / 560 - 0.5]
    np.testing.assert_allclose(crop.points[0], expected)
    assert crop.norm == pytest.approx(40)


def test_face_crop_ends_at_the_border():
    crop = face_crop(sample_of([(0, 0), (40, 40), (20, 20)]))
    assert crop.image.shape[:2] == (50, 55)
    assert crop.points[0].tolist() == [0, 0]
    with pytest.raises(DataError, match="inside the image"):
        face_crop(sample_of([(400, 400), (440, 440), (420, 420)]))


def test_face_crop_wants_points():
    face = Sample(gradient(99, 99), "a.jpg", None, None, "a")
    with pytest.raises(DataError, match=r"a\.jpg: --crop face is taken around points"):
        face_crop(face)
