"""The crop of HRNet's published code (COMPAT 2.2): whole pixels, Pillow's resize, contrast.

The region is a square about the box's middle, in pixels that truncation chose; a region of twice
the network's side or more is taken from the image shrunk before. Points are mapped back with the
square itself (COMPAT 2.3), whatever truncation and shrinking did to its pixels. The image is uint8,
which the source's resize does not stretch: contrast is stretched once, in the crop.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from facemark_sdk.crop.affines import Affines
from facemark_sdk.crop.pil_resize import resize
from facemark_sdk.image import Image
from facemark_sdk.spec import CropRule

_UNIT = 200.0
"""Pixels that a scale of 1 stands for."""

_SHRINK_FROM = 2.0
"""Pixels of the region a pixel of the crop, from which the image is shrunk first."""


def cut(rule: CropRule, image: Image, boxes: NDArray[np.float64], out: Image) -> Affines:
    """`facemark_sdk.crop.cut` for the source ``hrnet``; a box that leaves no pixels is black."""
    size = out.shape[1]
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    scales = (boxes[:, 2:] - boxes[:, :2]).max(axis=1) / _UNIT
    sides = _UNIT * ((1 + rule.left + rule.right) * scales)
    for centre, side, crop in zip(centres, sides.tolist(), out, strict=True):
        region = _region(image, centre, side, size)
        if not region.size:
            crop[:] = 0
            continue
        if rule.stretch:
            region = _stretch(region)
        crop[:] = resize(region, (size, size))
    return _affines(centres, sides, size, integer=rule.integer)


def _affines(
    centres: NDArray[np.float64], sides: NDArray[np.float64], size: int, *, integer: bool
) -> Affines:
    """Points are at (u - 1) * side / S + centre - side / 2: crop units count from 1.

    With `integer` the addends stay apart and u - 1 is left to `to_image`.
    """
    affines = np.zeros((len(centres), 2, 4 if integer else 3))
    scales = sides / size
    affines[:, 0, 0] = affines[:, 1, 1] = scales
    if integer:
        affines[:, :, 2] = centres
        affines[:, :, 3] = -sides[:, None] / 2
    else:
        affines[:, :, 2] = centres - (sides / 2 + scales)[:, None]
    return affines


def _region(image: Image, centre: NDArray[np.float64], side: float, size: int) -> Image:
    """The square's pixels (h, w, 3), black outside the image; none where it is too small."""
    extent = np.array([image.shape[1], image.shape[0]])
    factor = side / size
    shrinks = factor >= _SHRINK_FROM
    if shrinks:
        extent = np.floor(extent / factor).astype(np.int64)
        centre, side = centre / factor, float(size)
    low, high = (_to_pixels(grid, centre, side, size) for grid in (0, size))
    first, end = np.clip(low, 0, extent), np.clip(high, 0, extent)
    width, height = np.maximum(high - low, 0).tolist()
    region = np.zeros((height, width, 3), np.uint8)
    if (end > first).all():
        columns, rows = (slice(*ends) for ends in zip(first.tolist(), end.tolist(), strict=True))
        seen = resize(image, extent.tolist(), columns, rows) if shrinks else image[rows, columns]
        left, top = (first - low).tolist()
        region[top : top + seen.shape[0], left : left + seen.shape[1]] = seen
    return region


def _to_pixels(grid: int, centre: NDArray[np.float64], side: float, size: int) -> NDArray[np.int64]:
    """COMPAT 2.2's inverse map of a corner of the grid; it truncates toward zero."""
    return np.trunc((grid - 1) * side / size + centre - side / 2).astype(np.int64) + 1


def _stretch(pixels: Image) -> Image:
    """Darkest value to 0, brightest to 255, all channels together, rounded half up.

    As in SciPy up to 1.2, one colour all over becomes black.
    """
    low, high = int(pixels.min()), int(pixels.max())
    levels = (np.arange(256) - low) * (255 / max(high - low, 1))
    table = (np.clip(levels, 0, 255) + 0.5).astype(np.uint8)
    return np.asarray(cv2.LUT(pixels, table), np.uint8)
