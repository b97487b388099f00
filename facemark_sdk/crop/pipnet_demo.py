"""The crop of PIPNet's published demo (COMPAT 1.2): whole pixels, the top cut, no square."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from facemark_sdk.crop.affines import Affines
from facemark_sdk.image import Image
from facemark_sdk.spec import CropRule


def cut(rule: CropRule, image: Image, boxes: NDArray[np.float64], out: Image) -> Affines:
    """`facemark_sdk.crop.cut` for the source ``pipnet-demo``.

    A box that leaves no pixels gives a black crop. The points' scale counts the last row and
    column, which the pixels leave out: so it is published.
    """
    low, high = _corners(rule, boxes, image.shape[1], image.shape[0])
    size = out.shape[1]
    for (left, top), (right, bottom), crop in zip(low.tolist(), high.tolist(), out, strict=True):
        region = image[top:bottom, left:right]
        if region.size:
            cv2.resize(region, (size, size), dst=crop, interpolation=cv2.INTER_LINEAR)
        else:
            crop[:] = 0
    affines = np.zeros((len(boxes), 2, 3))
    affines[:, 0, 0], affines[:, 1, 1] = ((high - low + 1) / size).T
    affines[:, :, 2] = low
    return affines


def _corners(
    rule: CropRule, boxes: NDArray[np.float64], width: int, height: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and last pixel (N, 2) of each grown box, within the image.

    The detector's whole-numbered x, y, w, h are the truncated corner and the distance of the
    truncated corners.
    """
    whole = np.trunc(boxes).astype(np.int64)
    low, sides = whole[:, :2], whole[:, 2:] - whole[:, :2]
    high = low + sides - 1
    low = low - np.trunc(sides * (rule.left, rule.top)).astype(np.int64)
    high = high + np.trunc(sides * (rule.right, rule.bottom)).astype(np.int64)
    last = (width - 1, height - 1)
    return np.clip(low, 0, last), np.clip(high, 0, last)
