"""The crop rules of published sources, against plain loops written from COMPAT 1.2, 2.2 and 2.3."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_pil_resize import pil_bilinear

from facemark_sdk import LandmarkModel
from facemark_sdk.crop import CROP_RULES, check_boxes, cut, to_image

SMALL = 32
"""A network's side at which plain loops are quick."""
HEATMAP = 64
CROPPED = [25.6, 25.6, 230.4, 230.4]
"""The box of a face that is cropped already (COMPAT 2.2): centre (128, 128), s = 1.28."""
SHIFTS = (-0.25, 0.0, 0.25)

lengths = st.integers(8, 200)
boxes = st.tuples(
    st.floats(-150, 250), st.floats(-150, 250), st.floats(0.05, 400), st.floats(0.05, 400)
).map(lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]])


def noise(width: int, height: int, low: int = 20, high: int = 240) -> np.ndarray:
    return np.random.default_rng(width * height).integers(low, high, (height, width, 3), np.uint8)


def cut_one(
    rule: str, image: np.ndarray, box: list[float], size: int = SMALL
) -> tuple[np.ndarray, np.ndarray]:
    crops = np.full((1, size, size, 3), 7, np.uint8)
    return crops, cut(CROP_RULES[rule], image, check_boxes([box]), crops)


def demo(image: np.ndarray, box: list[float], size: int) -> tuple[np.ndarray, list[int]]:
    """COMPAT 1.2 in its words: the crop, and xmin ymin width height for mapping back."""
    height, width = image.shape[:2]
    xmin, ymin = int(box[0]), int(box[1])
    w, h = int(box[2]) - xmin, int(box[3]) - ymin
    xmax, ymax = xmin + w - 1, ymin + h - 1
    a, b = int(w * (1.2 - 1) / 2), int(h * (1.2 - 1) / 2)
    xmin, ymin, xmax, ymax = xmin - a, ymin + b, xmax + a, ymax + b
    xmin, xmax = (min(max(x, 0), width - 1) for x in (xmin, xmax))
    ymin, ymax = (min(max(y, 0), height - 1) for y in (ymin, ymax))
    crop = np.zeros((size, size, 3), np.uint8)
    if xmax > xmin and ymax > ymin:
        crop = cv2.resize(image[ymin:ymax, xmin:xmax], (size, size))
    return crop, [xmin, ymin, xmax - xmin + 1, ymax - ymin + 1]


def imresize(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """SciPy <= 1.2's: float arrays are stretched to 0..255, uint8 ones are not."""
    if pixels.dtype != np.uint8:
        low, high = pixels.min(), pixels.max()
        gain = 255.0 / (high - low if high > low else 1)
        pixels = np.floor((pixels - low) * gain + 0.5).astype(np.uint8)
    return pil_bilinear(pixels, width, height)


def square_of(box: list[float]) -> tuple[list[float], float]:
    """Centre and side h in source pixels."""
    scale = max(box[2] - box[0], box[3] - box[1]) / 200
    return [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2], 200 * (1.25 * scale)


def hrnet(image: np.ndarray, box: list[float], size: int, stretch: bool) -> np.ndarray:
    """COMPAT 2.2 in its words, pixel by pixel."""
    centre, h = square_of(box)
    factor = h / size
    if factor >= 2:
        width, height = (math.floor(side / factor) for side in image.shape[1::-1])
        if not width or not height:
            return np.zeros((size, size, 3), np.uint8)
        image = imresize(image, width, height)
        centre, h = [c / factor for c in centre], h / factor
    ul = [math.trunc((0 - 1) * h / size + c - h / 2) + 1 for c in centre]
    br = [math.trunc((size - 1) * h / size + c - h / 2) + 1 for c in centre]
    if br[0] <= ul[0] or br[1] <= ul[1]:
        return np.zeros((size, size, 3), np.uint8)
    region = np.zeros((br[1] - ul[1], br[0] - ul[0], 3))
    for y in range(ul[1], br[1]):
        for x in range(ul[0], br[0]):
            if 0 <= y < image.shape[0] and 0 <= x < image.shape[1]:
                region[y - ul[1], x - ul[0]] = image[y, x]
    return imresize(region if stretch else region.astype(np.uint8), size, size)


def decoded() -> list[float]:
    """Every X (= Y) that COMPAT 2.3 can decode, the guard's 0 + 0.5 first."""
    return [0.5] + [c + 1 + shift + 0.5 for c in range(HEATMAP) for shift in SHIFTS]


def in_crop_units(decoded_x: list[float], size: int = 256) -> np.ndarray:
    units = [size / HEATMAP * (x - 1) + 1 for x in decoded_x]
    return np.array([[[u, u] for u in units]], np.float32)


def published(decoded_x: list[float], box: list[float]) -> list[list[int]]:
    """COMPAT 2.3: whole pixels that count from 1, in float64 from left to right."""
    centre, h = square_of(box)
    return [[math.trunc((x - 1) * h / 64 + c - h / 2) + 1 for c in centre] for x in decoded_x]


# pipnet-demo


@given(lengths, lengths, boxes)
def test_demo_crops_and_positions(width: int, height: int, box: list[float]) -> None:
    image = noise(width, height)
    crops, affines = cut_one("pipnet-demo", image, box)
    expected, (xmin, ymin, w, h) = demo(image, box, SMALL)
    assert np.array_equal(crops[0], expected)
    fractions = np.array([[0.0, 0.0], [1.0, 1.0], [0.3, -0.2]], np.float32)
    found = to_image(fractions[None] * np.float32(SMALL), affines)[0]
    assert found.tolist() == [
        [np.float32(xmin + float(x) * w), np.float32(ymin + float(y) * h)] for x, y in fractions
    ]


def test_demo_growth_is_the_published_expression() -> None:
    growth = CROP_RULES["pipnet-demo"].left
    assert all(w * (1.2 - 1) / 2 == w * growth for w in range(10_001))


@pytest.mark.parametrize(("w", "growth"), [(180, 17), (181, 18), (220, 21), (221, 22), (9, 0)])
def test_demo_grows_sides_of_10k_by_one_less(w: int, growth: int) -> None:
    _, affines = cut_one("pipnet-demo", noise(600, 600), [200.9, 200.2, 200.5 + w, 200.7 + w])
    corners = to_image(np.array([[[0, 0], [SMALL, SMALL]]], np.float32), affines)[0]
    # The top is cut; sides count the last row and column, which show no pixels.
    assert corners.tolist() == [
        [200 - growth, 200 + growth],
        [200 + w + growth, 200 + w + growth],
    ]


# hrnet


@settings(max_examples=150)
@given(lengths, lengths, boxes, st.booleans())
def test_hrnet_crops(width: int, height: int, box: list[float], stretch: bool) -> None:
    image = noise(width, height)
    crops, _ = cut_one("hrnet" if stretch else "hrnet-plain", image, box)
    assert np.array_equal(crops[0], hrnet(image, box, SMALL, stretch))


@pytest.mark.parametrize(
    "box",
    [
        [180.3, 60.2, 270.9, 170.8],
        [100, 20, 420, 340],
        [-80.5, -40.25, 300, 330],
        [0, 0, 409.6, 409.6],  # twice the crop: just shrunk
        [0, 0, 409.5, 300],
        [-300, -200, 900, 700],
    ],
)
@pytest.mark.parametrize("stretch", [True, False])
def test_hrnet_crops_of_a_photo(photo: Path, box: list[float], stretch: bool) -> None:
    image = cv2.imread(str(photo))
    crops, _ = cut_one("hrnet" if stretch else "hrnet-plain", image, box, 256)
    assert np.array_equal(crops[0], hrnet(image, box, 256, stretch))


def test_hrnet_takes_a_cropped_face_as_it_is() -> None:
    image = noise(256, 256)
    crops, affines = cut_one("hrnet-plain", image, CROPPED, 256)
    assert np.array_equal(crops[0], image)
    assert affines.tolist() == [[[1, 0, -1], [0, 1, -1]]]
    stretched, _ = cut_one("hrnet", image, CROPPED, 256)
    assert np.array_equal(stretched[0], imresize(image.astype(np.float64), 256, 256))
    assert (image.min(), image.max(), stretched.min(), stretched.max()) == (20, 239, 0, 255)


@pytest.mark.parametrize("contrast", [1, 50, 210, 255])
def test_hrnet_stretch_divides_before_it_multiplies(contrast: int) -> None:
    """255 / 50 x 25 is just below 127.5 in float64, 255 x 25 / 50 is not."""
    image = noise(256, 256, 0, contrast + 1)
    crops, _ = cut_one("hrnet", image, CROPPED, 256)
    assert np.array_equal(crops[0], imresize(image.astype(np.float64), 256, 256))


def test_hrnet_stretch_of_one_colour_is_black() -> None:
    crops, _ = cut_one("hrnet", np.full((90, 90, 3), 200, np.uint8), [30, 30, 60, 60])
    assert not crops.any()


@given(boxes)
def test_hrnet_sub_pixel_positions_count_from_zero(box: list[float]) -> None:
    _, affines = cut_one("hrnet", noise(50, 40), box, 256)
    centre, h = square_of(box)
    expected = [[(x - 1) * h / 64 + c - h / 2 for c in centre] for x in decoded()]
    found = to_image(in_crop_units(decoded()), affines)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-5)


@given(boxes)
def test_hrnet_whole_positions(box: list[float]) -> None:
    _, affines = cut_one("hrnet-integer", noise(50, 40), box, 256)
    found = to_image(in_crop_units(decoded()), affines, integer=True)[0]
    assert found.tolist() == published(decoded(), box)


@settings(max_examples=300)
@given(st.floats(20, 500), st.integers(0, len(decoded()) - 1), st.integers(-20, 400))
def test_hrnet_positions_at_the_edge_of_a_whole_pixel(side: float, index: int, at: int) -> None:
    """Where the order of float64's sums decides which pixel it is."""
    x = decoded()[index]
    centre = at - (x - 1 - 32) * 1.25 * side / 64
    box = [centre - side / 2, centre - side / 2, centre + side / 2, centre + side / 2]
    _, affines = cut_one("hrnet-integer", noise(50, 40), box, 256)
    found = to_image(in_crop_units([x]), affines, integer=True)[0]
    assert found.tolist() == published([x], box)


def test_hrnet_whole_positions_in_a_cropped_face() -> None:
    """h = 256, so what is truncated is whole: 4 (c + 0.5 + shift) + 1, from 1; -2 below zero."""
    _, affines = cut_one("hrnet-integer", noise(256, 256), CROPPED, 256)
    found = to_image(in_crop_units(decoded()), affines, integer=True)[0]
    expected = [-1] + [4 * c + 3 + round(4 * shift) for c in range(HEATMAP) for shift in SHIFTS]
    assert found[:, 0].tolist() == found[:, 1].tolist() == expected


def test_a_model_gives_published_positions(
    landmark_model: LandmarkModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(landmark_model, "_rule", CROP_RULES["hrnet-integer"])
    images, faces = [noise(300, 200), noise(80, 90)], [[[20, 30, 150.5, 170]], [[5, 5, 60, 70.2]]]
    crops, affines = landmark_model.crop([*images, images[0]], [*faces, []])
    found = landmark_model.to_image(landmark_model.predict_crops(crops), affines)
    alone = [landmark_model.predict(*face) for face in zip(images, faces, strict=True)]
    assert np.array_equal(found.points, np.concatenate([out.points for out in alone]))
    assert np.array_equal(found.points, np.round(found.points))
    assert landmark_model.crop([], [])[1].shape == (0, 2, 3)


# all rules


@pytest.mark.parametrize("rule", CROP_RULES)
@pytest.mark.parametrize(
    "box",
    [
        [5000, 5000, 5100, 5100],
        [-900, -900, -800, -700],
        [-1e9, -1e9, 1e9, 1e9],
        [3.1, 3.1, 3.2, 3.2],
        [-1e9, 10, -9e8, 11],
    ],
)
def test_boxes_without_pixels(rule: str, box: list[float]) -> None:
    crops, affines = cut_one(rule, np.full((40, 30, 3), 255, np.uint8), box)
    assert np.isfinite(affines).all()
    if box[0] == 5000 or box[2] < 0:
        assert not crops.any()


@pytest.mark.parametrize("rule", CROP_RULES)
def test_no_boxes(rule: str) -> None:
    affines = cut(
        CROP_RULES[rule], noise(50, 50), check_boxes([]), np.empty((0, 8, 8, 3), np.uint8)
    )
    assert len(to_image(np.empty((0, 5, 2), np.float32), affines)) == 0


UNIT_OF_PIXEL_0 = {"facemark": 0.0, "pipnet-demo": 0.5, "hrnet": 1.0}
"""Where the centre of a crop's first pixel is: counted from 0, from the edge, from 1."""


@pytest.mark.parametrize("rule", CROP_RULES)
@pytest.mark.parametrize("side", [90, 150, 400])
@pytest.mark.parametrize(("right", "down"), [(0.4, 0.5), (0.7, 0.3), (0.55, 0.8)])
def test_a_dot_is_where_its_crop_says(rule: str, side: int, right: float, down: float) -> None:
    image = np.zeros((700, 700, 3), np.uint8)
    x, y = round(120.3 + right * side), round(90.6 + down * side)
    cv2.circle(image, (x, y), 4, (255, 255, 255), -1)
    size = 128
    crops, affines = cut_one(rule, image, [120.3, 90.6, 120.3 + side, 90.6 + side * 0.9], size)
    light = crops[0, :, :, 0].astype(np.float64)
    seen = [(light.sum(axis) * np.arange(size)).sum() / light.sum() for axis in (0, 1)]
    chosen = CROP_RULES[rule]
    point = np.array([[seen]], np.float64) + UNIT_OF_PIXEL_0[chosen.source]
    found = to_image(point, affines, integer=chosen.integer)[0, 0] - chosen.integer
    pixel_of_crop = affines[0, 0, 0]
    assert np.abs(found - (x, y)).max() <= 1 + max(pixel_of_crop, 0.5 * chosen.integer)
