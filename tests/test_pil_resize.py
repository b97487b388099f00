"""Pillow's bilinear resize in numpy, against the installed Pillow."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from facemark_sdk.crop.pil_resize import resize

lengths = st.integers(1, 300)


def noise(width: int, height: int, low: int = 0, high: int = 256) -> np.ndarray:
    return np.random.default_rng(width * height).integers(low, high, (height, width, 3), np.uint8)


def pil_bilinear(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """Rows first whatever the version: Pillow 13 chooses, its forerunners always did this."""
    picture = Image.fromarray(image)
    narrow = picture.resize((width, picture.height), Image.Resampling.BILINEAR)
    return np.asarray(narrow.resize((width, height), Image.Resampling.BILINEAR))


@given(lengths, lengths, lengths, lengths, st.data())
def test_resize_is_pillows_bit_for_bit(w: int, h: int, width: int, height: int, data) -> None:
    left, top = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    columns = slice(left, data.draw(st.integers(left + 1, width)))
    rows = slice(top, data.draw(st.integers(top + 1, height)))
    image = noise(w, h)
    expected = pil_bilinear(image, width, height)
    assert np.array_equal(resize(image, (width, height)), expected)
    assert np.array_equal(resize(image, (width, height), columns, rows), expected[rows, columns])


@pytest.mark.parametrize("before", [(1, 1), (1, 300), (400, 400), (511, 3), (5000, 7)])
@pytest.mark.parametrize("after", [(1, 1), (256, 256), (3, 700)])
@pytest.mark.parametrize("values", [(0, 256), (254, 256), (255, 256)])
def test_resize_at_extremes(before, after, values) -> None:
    image = noise(*before, *values)
    assert np.array_equal(resize(image, after), pil_bilinear(image, *after))
