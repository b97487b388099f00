"""The crop as one affine warp: the SDK's own rule, without anybody's truncations.

One 2x3 matrix a face maps crop coordinates to image coordinates, x = x0 + u * w / S. It is what
`cv2.warpAffine` reads pixels by (`WARP_INVERSE_MAP`) and what points are mapped back with, so
nothing is ever inverted or rounded.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from facemark_sdk.crop.affines import Affines
from facemark_sdk.crop.boxes import check_boxes
from facemark_sdk.image import Image
from facemark_sdk.spec import CropRule

_MARGIN = 2
"""Pixels around a crop's region that bilinear sampling may touch."""


def crop_affines(rule: CropRule, boxes: ArrayLike, size: int) -> Affines:
    """The crop of each box, as the matrix from crop to image coordinates.

    Args:
        rule: How a box grows.
        boxes: (N, 4) xyxy in image pixels.
        size: Side S of the crop in pixels.

    Returns:
        (N, 2, 3) float64.

    Raises:
        FacemarkError: The boxes are malformed.
    """
    boxes = check_boxes(boxes)
    sides = boxes[:, 2:] - boxes[:, :2]
    low = boxes[:, :2] - sides * (rule.left, rule.top)
    high = boxes[:, 2:] + sides * (rule.right, rule.bottom)
    grown = high - low
    if rule.square:
        side = grown.max(axis=1, keepdims=True)
        low = (low + high - side) / 2
        grown = np.repeat(side, 2, axis=1)
    affines = np.zeros((len(boxes), 2, 3))
    affines[:, 0, 0], affines[:, 1, 1] = (grown / size).T
    affines[:, :, 2] = low
    return affines


def warp_crops(image: Image, affines: Affines, size: int, out: Image | None = None) -> Image:
    """Cut one crop a face out of an image, black outside of it.

    Args:
        image: (H, W, 3) uint8.
        affines: (N, 2, 3) from crop to image coordinates.
        size: Side S of the crops in pixels.
        out: (N, S, S, 3) uint8 to write to, so that several images share one batch.

    Returns:
        (N, S, S, 3) uint8.
    """
    crops = np.empty((len(affines), size, size, 3), np.uint8) if out is None else out
    for affine, crop in zip(affines, crops, strict=True):
        _warp(image, affine, size, crop)
    return crops


def cut(rule: CropRule, image: Image, boxes: NDArray[np.float64], out: Image) -> Affines:
    """`facemark_sdk.crop.cut` for the source ``facemark``."""
    affines = crop_affines(rule, boxes, out.shape[1])
    warp_crops(image, affines, out.shape[1], out=out)
    return affines


def _warp(image: Image, affine: NDArray[np.float64], size: int, crop: Image) -> None:
    (left, top), (right, bottom) = _region(image, affine, size)
    if right <= left or bottom <= top:
        crop[:] = 0
        return
    region = image[top:bottom, left:right]
    # Bilinear sampling leaves pixels out, and so aliases, when it shrinks by two or more.
    factor = int(np.hypot(*affine[:, :2]).min())
    local = affine.copy()
    local[:, 2] -= (left, top)
    if factor >= 2:
        factors = np.minimum(factor, (right - left, bottom - top))
        region = _shrink(region, *factors.tolist())
        # A block of pixels that starts at k * factor has its centre (factor - 1) / 2 further on.
        local[:, 2] -= (factors - 1) / 2
        local /= factors[:, None]
    cv2.warpAffine(
        region,
        local,
        (size, size),
        dst=crop,
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
    )


def _region(
    image: Image, affine: NDArray[np.float64], size: int
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Low and high (exclusive) corner of the image pixels that a crop reads.

    Reading only these keeps photos above OpenCV's warp limit of 32767 pixels a side usable.
    """
    last = size - 1
    corners = np.array([(0, 0, 1), (last, 0, 1), (0, last, 1), (last, last, 1)]) @ affine.T
    margin = _MARGIN * np.maximum(1, np.abs(affine[:, :2]).sum(axis=1))
    height, width = image.shape[:2]
    low = np.clip(np.floor(corners.min(axis=0) - margin), 0, (width, height))
    high = np.clip(np.ceil(corners.max(axis=0) + margin) + 1, 0, (width, height))
    return (int(low[0]), int(low[1])), (int(high[0]), int(high[1]))


def _shrink(region: Image, fx: int, fy: int) -> Image:
    """Average blocks of fx x fy pixels; those over the right and lower end are part black."""
    height, width = region.shape[:2]
    below, beside = -height % fy, -width % fx
    if below or beside:
        region = cv2.copyMakeBorder(region, 0, below, 0, beside, cv2.BORDER_CONSTANT).astype(
            np.uint8, copy=False
        )
    shape = (region.shape[1] // fx, region.shape[0] // fy)
    return np.asarray(cv2.resize(region, shape, interpolation=cv2.INTER_AREA), np.uint8)
