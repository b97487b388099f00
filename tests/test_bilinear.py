"""What the networks see is sampled bilinearly, by half-pixel centres, and rounded."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from facemark_sdk.bilinear import SMALL, resize

ROUNDING = 0.9
"""Grey values: OpenCV's own kernel rounds twice."""
ONCE = 0.6
"""IPP rounds once."""


def by_hand(image: NDArray[np.uint8], width: int, height: int) -> NDArray[np.float64]:
    """Bilinear sampling in float64, axis by axis."""
    sampled = image.astype(np.float64)
    for axis, count in enumerate((height, width)):
        extent = image.shape[axis]
        places = np.clip((np.arange(count) + 0.5) * extent / count - 0.5, 0, extent - 1)
        low = places.astype(int)
        high = np.minimum(low + 1, extent - 1)
        share = (places - low).reshape(-1, *(1,) * (2 - axis))
        sampled = sampled.take(low, axis) * (1 - share) + sampled.take(high, axis) * share
    return sampled


@given(
    seed=st.integers(0, 99),
    size=st.tuples(st.integers(1, 80), st.integers(1, 80)),
    wanted=st.tuples(st.integers(1, 300), st.integers(1, 300)),
)
def test_pixels_are_bilinear_samples(
    seed: int, size: tuple[int, int], wanted: tuple[int, int]
) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    resized = resize(image, *wanted)
    assert resized.dtype == np.uint8
    assert np.abs(resized - by_hand(image, *wanted)).max() <= ROUNDING


@pytest.mark.parametrize("side", [256, 300])
def test_a_part_is_resized_into_a_part_of_a_batch(side: int) -> None:
    assert 256 * 256 <= SMALL < 300 * 300
    image = np.random.default_rng(0).integers(0, 256, (200, 320, 3), np.uint8)
    batch = np.zeros((3, side, side, 3), np.uint8)
    resize(image[20:120, 30:140], side, side, out=batch[1])
    wanted = by_hand(image[20:120, 30:140], side, side)
    assert np.abs(batch[1] - wanted).max() <= ROUNDING
    assert not batch[[0, 2]].any()


@pytest.fixture
def inexact() -> Iterator[None]:
    """Put back what the other tests find."""
    before = cv2.ipp.useIPP_NotExact()
    yield
    cv2.ipp.setUseIPP_NotExact(before)


@pytest.mark.usefixtures("inexact")
@pytest.mark.parametrize("size", [(480, 640, 256, 192), (125, 125, 256, 256), (300, 200, 96, 112)])
def test_ipp_rounds_once(size: tuple[int, int, int, int]) -> None:
    cv2.ipp.setUseIPP_NotExact(True)
    if not cv2.ipp.useIPP_NotExact():
        pytest.skip("this OpenCV has no IPP")
    cv2.ipp.setUseIPP_NotExact(False)
    rows, columns, width, height = size
    image = np.random.default_rng(0).integers(0, 256, (rows, columns, 3), np.uint8)
    assert np.abs(resize(image, width, height) - by_hand(image, width, height)).max() <= ONCE
    plain = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    assert np.abs(plain - by_hand(image, width, height)).max() > ONCE


@pytest.mark.usefixtures("inexact")
@pytest.mark.parametrize("wanted", [False, True])
def test_opencv_is_left_as_it_was(wanted: bool) -> None:
    """Also after an error, and in other threads."""
    seen = []
    image = np.zeros((8, 8, 3), np.uint8)
    cv2.ipp.setUseIPP_NotExact(wanted)
    before = cv2.ipp.useIPP_NotExact()  # False where OpenCV has no IPP
    resize(image, 16, 16)
    with pytest.raises(cv2.error):
        resize(image, 0, 16)
    assert cv2.ipp.useIPP_NotExact() == before

    def work() -> None:
        seen.append(cv2.ipp.useIPP_NotExact())
        resize(image, 16, 16)
        seen.append(cv2.ipp.useIPP_NotExact())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen[0] == seen[1]
