"""Synthetic occlusion and motion blur: where they are, how large, and always the same."""

from __future__ import annotations

import math

import numpy as np
import pytest

from facemark_sdk import FacemarkError
from facemark_sdk.robustness import (
    BLUR_LENGTHS,
    OCCLUSION_DIAMETERS,
    PROTOCOLS,
    line_kernel,
    motion_blur,
    occlude,
    perturb,
)

POINTS = np.float32([[100, 120], [220, 130], [160, 280], [180, 200]])
SIZE = math.sqrt(120 * 160)
GREY = np.full((400, 400, 3), 128, np.uint8)
NOISE = np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_same_seed_gives_the_same_picture(protocol):
    before = NOISE.copy()
    first = perturb(NOISE, POINTS, protocol, (7, 1))
    assert first.shape == NOISE.shape
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, perturb(NOISE, POINTS, protocol, (7, 1)))
    np.testing.assert_array_equal(NOISE, before)
    if protocol == "clean":
        assert first is NOISE
    else:
        assert (first != perturb(NOISE, POINTS, protocol, (7, 2))).any()


@pytest.mark.parametrize("severity", ["medium", "large"])
def test_the_ellipse_is_black_on_the_face_and_of_the_stated_size(severity):
    least, largest = OCCLUSION_DIAMETERS[severity]
    areas = []
    for seed in range(60):
        ys, xs = np.nonzero(occlude(GREY, POINTS, severity, seed)[..., 0] < 64)
        areas.append(len(xs))
        # Its middle is in the box of the points, its extent that of the diameters.
        assert 100 - 2 <= (xs.min() + xs.max()) / 2 <= 220 + 2
        assert 120 - 2 <= (ys.min() + ys.max()) / 2 <= 280 + 2
        for extent in (np.ptp(xs), np.ptp(ys)):
            assert least * SIZE - 3 <= extent <= largest * SIZE + 3
    area = math.pi / 4 * SIZE**2
    assert least**2 * area * 0.9 <= min(areas)
    assert max(areas) <= largest**2 * area * 1.1
    mean = ((least + largest) / 2) ** 2 * area  # two diameters drawn apart: the product of means
    assert np.mean(areas) == pytest.approx(mean, rel=0.2)


def test_sizes_follow_the_face_not_the_picture():
    small = occlude(GREY, POINTS / 4, "large", 3)
    large = occlude(GREY, POINTS, "large", 3)
    counts = [np.count_nonzero(picture[..., 0] < 64) for picture in (small, large)]
    assert counts[1] / counts[0] == pytest.approx(16, rel=0.15)


@pytest.mark.parametrize("length", [0.0, 0.4, 1.0, 7.3, 30.0])
@pytest.mark.parametrize("angle", [0.0, 0.5, math.pi / 2, 2.5])
def test_kernels_are_lines_through_the_middle(length, angle):
    kernel = line_kernel(length, angle).astype(float)
    assert kernel.shape[0] == kernel.shape[1]
    assert kernel.shape[0] % 2 == 1
    assert (kernel >= 0).all()
    assert kernel.sum() == pytest.approx(1, abs=1e-5)
    reach = kernel.shape[0] // 2
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    # Balanced about the middle, so that landmarks stay where they are.
    assert (kernel * x).sum() == pytest.approx(0, abs=1e-4)
    assert (kernel * y).sum() == pytest.approx(0, abs=1e-4)
    along, across = (
        x * math.cos(angle) + y * math.sin(angle),
        y * math.cos(angle) - x * math.sin(angle),
    )
    assert np.abs(across[kernel > 1e-6]).max() < 1.5
    # A line's variance is length^2 / 12; laying it over cells adds up to a quarter each way.
    assert (kernel * along**2).sum() == pytest.approx(length**2 / 12, rel=0.1, abs=0.3)


@pytest.mark.parametrize("severity", ["medium", "large"])
def test_blur_is_a_mean_along_the_movement(severity):
    """A white dot becomes a line of the stated length in the movement's direction."""
    image = np.zeros((401, 401, 3), np.uint8)
    image[200, 200] = 255
    image[196:205, 196:205] = 255
    blurred = motion_blur(image, POINTS, severity, 0, movement=(-6, 0))[..., 0].astype(float)
    columns, rows = blurred.sum(axis=0), blurred.sum(axis=1)
    assert np.count_nonzero(rows) == 9
    length = BLUR_LENGTHS[severity] * SIZE
    assert np.count_nonzero(columns) == pytest.approx(9 + length, abs=3)
    assert (columns * np.arange(401)).sum() / columns.sum() == pytest.approx(200, abs=0.1)
    assert blurred.sum() == pytest.approx(81 * 255, rel=0.05)


def test_movement_decides_instead_of_the_seed():
    one = motion_blur(NOISE, POINTS, "medium", 1, movement=(3, 4))
    np.testing.assert_array_equal(one, motion_blur(NOISE, POINTS, "medium", 2, movement=(6, 8)))
    drawn = motion_blur(NOISE, POINTS, "medium", 1)
    np.testing.assert_array_equal(drawn, motion_blur(NOISE, POINTS, "medium", 1, movement=(0, 0)))


def test_blur_leaves_grey_alone_up_to_the_border():
    np.testing.assert_array_equal(motion_blur(GREY, POINTS, "large", 0), GREY)


def test_blur_is_no_longer_than_the_picture():
    motion_blur(NOISE[:40, :40], POINTS * 1000, "large", 0)


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (lambda: perturb(GREY, POINTS, "fog", 0), "unknown protocol 'fog'; known: clean"),
        (lambda: occlude(GREY, POINTS, "huge", 0), "unknown severity 'huge'"),
        (lambda: motion_blur(GREY, POINTS, "huge", 0), "unknown severity 'huge'"),
        (lambda: occlude(GREY, POINTS[:1], "large", 0), "no extent"),
        (lambda: occlude(GREY, POINTS[0], "large", 0), r"shape \(L, 2\)"),
        (lambda: motion_blur(GREY, POINTS * np.nan, "large", 0), "must be finite"),
        (lambda: motion_blur(GREY, POINTS, "large", 0, movement=(1, np.nan)), "movement"),
        (lambda: motion_blur(GREY, POINTS, "large", 0, movement=3), "movement"),
    ],
)
def test_refusals(work, message):
    with pytest.raises(FacemarkError, match=message):
        work()
