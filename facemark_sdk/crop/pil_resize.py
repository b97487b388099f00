"""Pillow's bilinear resize, bit for bit, without Pillow.

Pillow averages with a triangle that widens when it shrinks, so nothing aliases. It runs along rows,
rounds to uint8, then along columns and rounds again (13 and later turn that round where it is
faster: there the bits can differ). Its weights are whole numbers, so the order of sums does not
matter.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from facemark_sdk.image import Image

_PRECISION = 22
"""Binary digits of a weight behind the point: 32, less 8 for the pixel and 2 to spare."""

_BLOCK = 128
"""Values of a line worked on at once: few enough for sums of 256 lines to stay in the cache."""

_ALL = slice(None)


def resize(image: Image, size: Sequence[int], columns: slice = _ALL, rows: slice = _ALL) -> Image:
    """What `PIL.Image.resize(size, BILINEAR)` gives in Pillow 12, or a part of it.

    Args:
        image: (H, W, 3) uint8.
        size: Width and height of the whole result.
        columns: Columns of the result that are wanted.
        rows: Rows likewise.

    Returns:
        (rows, columns, 3) uint8.
    """
    width, height = size
    seen_columns, lefts, across = _weights(image.shape[1], width, columns)
    seen_rows, tops, down = _weights(image.shape[0], height, rows)
    narrow = _average(_transpose(image[seen_rows, seen_columns]), lefts, across)
    return _average(_transpose(narrow), tops, down)


def _weights(
    before: int, after: int, wanted: slice
) -> tuple[slice, NDArray[np.int64], NDArray[np.int32]]:
    """How a line of pixels is resized.

    Returns:
        The pixels of the line that are seen; for each of the O wanted pixels the first of them
        that it sees; and (O, K) weights from there, 0 behind its last one.
    """
    scale = before / after
    reach = max(scale, 1.0)
    centres = (np.arange(after)[wanted] + 0.5) * scale
    first = np.maximum((centres - reach + 0.5).astype(np.int64), 0)
    counts = np.minimum((centres + reach + 0.5).astype(np.int64), before) - first
    taps = np.arange(counts.max())
    distances = np.abs((taps + first[:, None] - centres[:, None] + 0.5) * (1 / reach))
    weights = np.where(taps < counts[:, None], np.maximum(1 - distances, 0), 0)
    weights /= np.cumsum(weights, axis=1)[:, -1:]  # sums in Pillow's order, as sum() does not
    seen = slice(int(first[0]), int(first[-1] + counts[-1]))
    return seen, first - first[0], (weights * (1 << _PRECISION) + 0.5).astype(np.int32)


def _average(lines: Image, first: NDArray[np.int64], weights: NDArray[np.int32]) -> Image:
    """Weighted sums of whole lines: (I, J, 3) to (O, J, 3)."""
    flat = lines.reshape(len(lines), -1)
    averaged = np.empty((len(first), flat.shape[1]), np.uint8)
    seen = np.minimum(first[:, None] + np.arange(weights.shape[1]), len(lines) - 1)
    for start in range(0, flat.shape[1], _BLOCK):
        part = flat[:, start : start + _BLOCK].astype(np.int32)
        total = np.full((len(first), part.shape[1]), 1 << (_PRECISION - 1), np.int32)
        for source, weight in zip(seen.T, weights.T, strict=True):
            total += part[source] * weight[:, None]
        averaged[:, start : start + _BLOCK] = total >> _PRECISION
    return averaged.reshape(len(first), *lines.shape[1:])


def _transpose(image: Image) -> Image:
    return np.asarray(cv2.transpose(image), np.uint8)
