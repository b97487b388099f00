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
    return _affines(rule, check_boxes(boxes), size)


def _affines(rule: CropRule, boxes: NDArray[np.float64], size: int) -> Affines:
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
    low, high = _regions(image, affines, size)
    # Bilinear sampling leaves pixels out, and so aliases, when it shrinks by two or more.
    factors = np.hypot(affines[:, 0, :2], affines[:, 1, :2]).min(axis=1).astype(np.int64)
    local = affines.copy()
    local[:, :, 2] -= low
    warped = np.empty((size, size, 4), np.uint8)
    corners = (low.tolist(), high.tolist())
    for (left, top), (right, bottom), factor, matrix, crop in zip(
        *corners, factors.tolist(), local, crops, strict=True
    ):
        if right <= left or bottom <= top:
            crop[:] = 0
            continue
        region = image[top:bottom, left:right]
        if factor >= 2:
            region = _shrink(region, matrix, factor)
        # OpenCV warps four channels in half the time of three, to the same values.
        cv2.warpAffine(
            cv2.cvtColor(region, cv2.COLOR_BGR2BGRA),
            matrix,
            (size, size),
            dst=warped,
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_CONSTANT,
        )
        cv2.cvtColor(warped, cv2.COLOR_BGRA2BGR, dst=crop)
    return crops


def cut(rule: CropRule, image: Image, boxes: NDArray[np.float64], out: Image) -> Affines:
    """`facemark_sdk.crop.cut` for the source ``facemark``."""
    affines = _affines(rule, boxes, out.shape[1])
    warp_crops(image, affines, out.shape[1], out=out)
    return affines


def _regions(
    image: Image, affines: Affines, size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Low and high (exclusive) corner (N, 2) of the image pixels that each crop reads.

    Reading only these keeps photos above OpenCV's warp limit of 32767 pixels a side usable.
    """
    linear, corner = affines[:, :, :2], affines[:, :, 2]
    margins = _MARGIN * np.abs(linear).sum(axis=2).clip(1)
    reach = linear * (size - 1)
    low = np.floor(corner + reach.clip(max=0).sum(axis=2) - margins)
    high = np.ceil(corner + reach.clip(0).sum(axis=2) + margins) + 1
    extent = (image.shape[1], image.shape[0])
    return low.clip(0, extent).astype(np.int64), high.clip(0, extent).astype(np.int64)


def _shrink(region: Image, affine: NDArray[np.float64], factor: int) -> Image:
    """Average blocks of factor x factor pixels; those over the right and lower end are part black.

    Args:
        region: (H, W, 3).
        affine: (2, 3) from crop to region coordinates; changed to those of the smaller region.
        factor: Pixels a side of a block, fewer where the region has fewer.
    """
    height, width = region.shape[:2]
    fx, fy = min(factor, width), min(factor, height)
    below, beside = -height % fy, -width % fx
    if below or beside:
        region = cv2.copyMakeBorder(region, 0, below, 0, beside, cv2.BORDER_CONSTANT).astype(
            np.uint8, copy=False
        )
    # A block of pixels that starts at k * factor has its centre (factor - 1) / 2 further on.
    affine[:, 2] -= ((fx - 1) / 2, (fy - 1) / 2)
    affine /= ((fx,), (fy,))
    shape = (region.shape[1] // fx, region.shape[0] // fy)
    return np.asarray(cv2.resize(region, shape, interpolation=cv2.INTER_AREA), np.uint8)
