from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facemark_sdk import FacemarkError
from facemark_sdk.crop import check_boxes, crop_affines, cut, to_image, warp_crops
from facemark_sdk.spec import CropRule

TIGHT = CropRule(0.0, 0.0, 0.0, 0.0, square=False)
SIZE = 64

coordinates = st.floats(-500, 1500)
sides = st.floats(1, 2000)
boxes = st.tuples(coordinates, coordinates, sides, sides).map(
    lambda b: np.array([[b[0], b[1], b[0] + b[2], b[1] + b[3]]])
)
fractions = st.floats(-0.3, 0.6)
rules = st.builds(CropRule, fractions, fractions, fractions, fractions, st.booleans())


def gradient(width: int, height: int) -> np.ndarray:
    """x and y as colours that rise slowly enough to stay within 0..255."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return np.dstack([x * 255 / width, y * 255 / height, np.full_like(x, 255)]).astype(np.uint8)


@given(boxes, rules)
def test_crop_is_the_grown_box(box: np.ndarray, rule: CropRule) -> None:
    affine = crop_affines(rule, box, SIZE)
    corners = to_image(np.array([[[0, 0], [SIZE, SIZE]]], np.float64), affine)[0]
    x1, y1, x2, y2 = box[0]
    width, height = x2 - x1, y2 - y1
    low = np.array([x1 - rule.left * width, y1 - rule.top * height])
    high = np.array([x2 + rule.right * width, y2 + rule.bottom * height])
    if rule.square:
        side = (high - low).max()
        middle = (low + high) / 2
        low, high = middle - side / 2, middle + side / 2
    np.testing.assert_allclose(corners, [low, high], rtol=1e-5, atol=1e-3)


@given(boxes, rules, st.integers(1, 5))
def test_points_go_there_and_back(box: np.ndarray, rule: CropRule, count: int) -> None:
    affine = crop_affines(rule, box, SIZE)
    points = np.random.default_rng(count).uniform(-10, SIZE + 10, (1, count, 2))
    mapped = to_image(points, affine).astype(np.float64)
    back = (mapped[0] - affine[0, :, 2]) @ np.linalg.inv(affine[0, :, :2]).T
    np.testing.assert_allclose(back, points[0], atol=SIZE * 1e-3)


def test_addends_are_added_one_after_the_other() -> None:
    """Beside 1e17 float64 loses a 1, so the order shows."""
    affines = np.array([[[1.0, 0.0, 1e17, -1e17], [0.0, 1.0, 2.0, -5.0]]])
    points = np.array([[[1.0, 7.0]]])
    assert to_image(points, affines)[0, 0].tolist() == [0, 4]


def test_whole_pixels_count_from_one_on_both_sides() -> None:
    """Truncation is toward zero: 2 (u - 1) - 3.5 of -3.5, -0.5, 0.5, 4.5 is -3, 0, 0, 4."""
    affines = np.array([[[2.0, 0.0, -3.0, -0.5], [0.0, 2.0, 0.0, -3.5]]])
    points = np.array([[[u, u] for u in (1.0, 2.5, 3.0, 5.0)]], np.float32)
    found = to_image(points, affines, integer=True)
    assert found.dtype == np.float32
    assert found[0].tolist() == [[-2, -2], [1, 1], [1, 1], [5, 5]]


def cut_one(rule: CropRule, image: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A face's crop and its matrix."""
    crop = np.empty((1, SIZE, SIZE, 3), np.uint8)
    affine = cut(rule, image, check_boxes(box), crop)
    return crop[0], affine


def corners(affine: np.ndarray) -> np.ndarray:
    """The crop's first and last edge in the image, where pixel k lies from k to k + 1."""
    pixels = to_image(np.array([[[-0.5, -0.5], [SIZE - 0.5, SIZE - 0.5]]]), affine)[0]
    return np.asarray(pixels + 0.5, np.float64)


def test_a_crop_that_leaves_the_image_is_a_warp() -> None:
    rule = CropRule(0.1, -0.1, 0.2, 0.0, square=True)
    image = gradient(200, 150)
    faces = check_boxes([[-30, 50, 40, 170], [180, 20, 250, 90], [-900, -900, -800, -800]])
    crops = np.empty((3, SIZE, SIZE, 3), np.uint8)
    affines = cut(rule, image, faces, crops)
    assert np.array_equal(affines, crop_affines(rule, faces, SIZE))
    assert np.array_equal(crops, warp_crops(image, affines, SIZE))


@given(st.floats(20, 120), st.floats(20, 120), st.floats(0.01, 150), st.floats(0.01, 150))
def test_a_crop_in_the_image_is_of_whole_pixels(
    left: float, top: float, width: float, height: float
) -> None:
    """As many as come next, of a shrunk crop as many blocks, about the same centre."""
    box = np.array([[left, top, left + width, top + height]])
    edges = corners(cut_one(TIGHT, gradient(300, 300), box)[1])
    np.testing.assert_allclose(edges, np.round(edges), atol=1e-4)
    wanted = corners(crop_affines(TIGHT, box, SIZE))
    shift = (edges - wanted).mean(axis=0)
    assert (np.abs(shift) <= 0.5 + 1e-3).all()
    growth = np.diff(edges - wanted, axis=0)[0]
    block = np.maximum(1, (box[0, 2:] - box[0, :2]) // SIZE)
    assert (np.abs(growth) <= np.maximum(block / 2, 1) + 1e-3).all()


@given(st.floats(20, 120), st.floats(20, 120), st.floats(5, 150), st.floats(5, 150))
def test_a_square_of_whole_pixels_is_one(x: float, y: float, width: float, height: float) -> None:
    rule = CropRule(0.1, -0.1, 0.1, 0.1, square=True)
    box = np.array([[x, y, x + width, y + height]])
    first, last = corners(cut_one(rule, gradient(400, 400), box)[1])
    assert np.ptp(np.round(last - first)) == 0


def test_a_crop_in_the_image_is_the_warp_of_its_matrix() -> None:
    """Up to a grey level of rounding, but for the outermost pixels, which no neighbours enter."""
    image = np.random.default_rng(1).integers(0, 256, (300, 300, 3), np.uint8)
    image = cv2.GaussianBlur(image, (0, 0), 1)
    rule = CropRule(0.1, -0.1, 0.1, 0.1, square=True)
    for box in ([50.3, 60.6, 80.1, 90.9], [50.3, 60.6, 130, 150.2], [40.2, 41, 230.7, 250]):
        crop, affine = cut_one(rule, image, np.array([box]))
        warped = warp_crops(image, affine, SIZE)[0]
        difference = np.abs(crop.astype(int) - warped)[4:-4, 4:-4]
        assert difference.max() <= 1


@settings(max_examples=60, deadline=None)
@given(
    st.integers(100, 900),
    st.integers(100, 900),
    st.floats(0.05, 0.9),
    st.floats(0.05, 0.9),
    st.floats(0.1, 0.95),
)
def test_pixels_are_where_the_affine_says(
    width: int, height: int, left: float, top: float, share: float
) -> None:
    """Shrunk by any factor, a pixel of the crop shows the image at its mapped coordinates."""
    image = gradient(width, height)
    x1, y1 = left * width * (1 - share), top * height * (1 - share)
    box = np.array([[x1, y1, x1 + share * width, y1 + share * height]])
    affine = crop_affines(TIGHT, box, SIZE)
    crop = warp_crops(image, affine, SIZE)[0].astype(np.float64)
    u, v = np.meshgrid(np.arange(SIZE), np.arange(SIZE))
    where = to_image(np.stack([u, v], -1).reshape(1, -1, 2), affine)[0].reshape(SIZE, SIZE, 2)
    # Where whole blocks fit: away from the border, where blocks are part black.
    margin = 2 * np.abs(affine[0]).max(axis=0)[:2].max() + 2
    inside = ((where > margin) & (where < np.array([width, height]) - margin)).all(axis=-1)
    expected = where * 255 / np.array([width, height])
    np.testing.assert_allclose(crop[..., :2][inside], expected[inside], atol=2.0)
    assert (crop[..., 2][inside] == 255).all()


@pytest.mark.parametrize("factor", [1, 2, 3, 5])
def test_shrinking_averages_whole_blocks(factor: int) -> None:
    """A checkerboard of single pixels turns grey instead of aliasing."""
    side = SIZE * factor
    board = ((np.indices((side * 2, side * 2)).sum(0) % 2) * 255).astype(np.uint8)
    image = np.repeat(board[..., None], 3, axis=2)
    box = np.array([[side / 2, side / 2, side * 1.5, side * 1.5]])
    warped = warp_crops(image, crop_affines(TIGHT, box, SIZE), SIZE)[0]
    for crop in (warped, cut_one(TIGHT, image, box)[0]):
        if factor == 1:
            assert set(np.unique(crop)) == {0, 255}
        else:
            assert abs(crop.astype(int) - 127).max() <= 255 / (2 * factor**2) + 2


def test_without_scaling_the_crop_is_the_image() -> None:
    image = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    affine = crop_affines(TIGHT, [[10, 20, 10 + SIZE, 20 + SIZE]], SIZE)
    crop = warp_crops(image, affine, SIZE)[0]
    assert np.array_equal(crop, image[20 : 20 + SIZE, 10 : 10 + SIZE])


@pytest.mark.parametrize("side", [SIZE // 2, SIZE, SIZE * 4])
def test_outside_is_black(side: int) -> None:
    image = np.full((side * 2, side * 2, 3), 255, np.uint8)
    half = side // 2
    box = [[-half, -half, side - half, side - half]]
    crop = warp_crops(image, crop_affines(TIGHT, box, SIZE), SIZE)[0]
    assert (crop[: SIZE // 2 - 2] == 0).all()
    assert (crop[:, : SIZE // 2 - 2] == 0).all()
    assert (crop[SIZE // 2 + 2 :, SIZE // 2 + 2 :] == 255).all()


@pytest.mark.parametrize(
    "box",
    [
        [5000, 5000, 5100, 5100],
        [-1e9, -1e9, 1e9, 1e9],
        [-1e9, 0, -1e8, 10],
        [0.1, 0.1, 0.2, 0.2],
        [19990, 0, 20010, 8],
    ],
)
def test_extreme_boxes_do_not_crash(box: list[float]) -> None:
    image = np.full((8, 40000, 3), 255, np.uint8)
    crop = warp_crops(image, crop_affines(TIGHT, [box], SIZE), SIZE)
    assert crop.shape == (1, SIZE, SIZE, 3)
    assert np.isfinite(cut_one(TIGHT, image, np.array([box]))[1]).all()


def test_wide_image_beyond_opencv_limit_is_exact() -> None:
    image = np.zeros((200, 40000, 3), np.uint8)
    image[100, 39900] = 255
    crop = warp_crops(image, crop_affines(TIGHT, [[39868, 68, 39932, 132]], SIZE), SIZE)[0]
    assert crop[32, 32, 0] == 255
    assert np.count_nonzero(crop[..., 0]) == 1
    whole, _ = cut_one(TIGHT, image, np.array([[39868.5, 68.5, 39932.5, 132.5]]))
    assert np.array_equal(whole, crop)


def test_writes_into_a_shared_batch() -> None:
    image = gradient(100, 100)
    affines = crop_affines(TIGHT, [[0, 0, 50, 50], [20, 20, 90, 90]], SIZE)
    batch = np.full((4, SIZE, SIZE, 3), 7, np.uint8)
    warp_crops(image, affines, SIZE, out=batch[1:3])
    assert np.array_equal(batch[1:3], warp_crops(image, affines, SIZE))
    assert (batch[[0, 3]] == 7).all()
    cut(TIGHT, image, check_boxes([[5, 5, 50, 50], [20, 20, 90, 90]]), batch[1:3])
    assert batch[1:3].any(axis=(1, 2, 3)).all()
    assert (batch[[0, 3]] == 7).all()


def test_same_as_one_plain_warp_when_nothing_shrinks_by_two() -> None:
    image = np.random.default_rng(1).integers(0, 256, (300, 300, 3), np.uint8)
    image = cv2.GaussianBlur(image, (0, 0), 3)
    affine = crop_affines(CropRule(0.1, -0.1, 0.1, 0.1, square=True), [[50, 60, 130, 150]], SIZE)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    plain = cv2.warpAffine(image, affine[0], (SIZE, SIZE), flags=flags)
    crop = warp_crops(image, affine, SIZE)[0]
    assert np.abs(crop.astype(int) - plain).max() <= 2


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([[0, 0, 10]], "shape"),
        ([0, 0, 10, 10], "shape"),
        ([[0, 0, np.nan, 10]], "finite"),
        ([[0, 0, np.inf, 10]], "finite"),
        ([[0, 0, 5, 5], [10, 0, 5, 10]], "x2 > x1.*box 1"),
        ([[0, 10, 5, 10]], "y2 > y1"),
        ("boxes", "numbers"),
        ([[0, 0, 5, 5], [1]], "numbers"),
    ],
)
def test_bad_boxes(bad: object, message: str) -> None:
    with pytest.raises(FacemarkError, match=message):
        crop_affines(TIGHT, bad, SIZE)  # type: ignore[arg-type]


def test_no_boxes() -> None:
    affines = crop_affines(TIGHT, [], SIZE)
    assert affines.shape == (0, 2, 3)
    assert warp_crops(gradient(50, 50), affines, SIZE).shape == (0, SIZE, SIZE, 3)


def test_a_matrix_without_a_place_gives_a_black_crop() -> None:
    image = np.full((50, 60, 3), 200, np.uint8)
    affines = np.tile(np.eye(2, 3), (2, 1, 1))
    affines[0, 0, 2] = np.nan
    affines[1, 1, 1] = np.inf
    assert not warp_crops(image, affines, 16).any()
