"""From a detector's box to the network's crop, and back with the points.

One 2x3 matrix a face maps crop coordinates to image coordinates, x = x0 + u * w / S. It is what
`cv2.warpAffine` reads pixels by (`WARP_INVERSE_MAP`) and what points are mapped back with, so
nothing is ever inverted or rounded.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from facemark_sdk.errors import FacemarkError
from facemark_sdk.image import Image
from facemark_sdk.spec import CropRule

Affines: TypeAlias = NDArray[np.float64]

_FARTHEST = 1e9
_MARGIN = 2
"""Pixels around a crop's region that bilinear sampling may touch."""


def check_boxes(boxes: ArrayLike) -> NDArray[np.float64]:
    """Boxes as (N, 4) float64 xyxy; an empty list is (0, 4).

    Raises:
        FacemarkError: Wrong shape, values that are not finite, or a box without area.
    """
    try:
        checked = np.asarray(boxes, np.float64)
    except (TypeError, ValueError) as error:
        raise FacemarkError(f"boxes must be numbers of shape (N, 4): {error}") from None
    if checked.size == 0:
        return np.empty((0, 4))
    if checked.ndim != 2 or checked.shape[1] != 4:
        raise FacemarkError(
            f"boxes must have shape (N, 4), x1 y1 x2 y2 each, got {checked.shape}; "
            "one box is boxes=[[x1, y1, x2, y2]]"
        )
    if not (np.abs(checked) <= _FARTHEST).all():  # NaN fails the comparison too
        raise FacemarkError(
            f"boxes must be finite pixels of an image, at most {_FARTHEST:.0e} from its corner"
        )
    empty = np.flatnonzero((checked[:, 2:] <= checked[:, :2]).any(axis=1))
    if empty.size:
        raise FacemarkError(
            f"boxes must be x1 y1 x2 y2 with x2 > x1 and y2 > y1, "
            f"got {checked[empty[0]].tolist()} as box {empty[0]}"
        )
    return checked


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
    """Cut the crop of each box by a model's rule.

    Args:
        rule: The rule.
        image: (H, W, 3) uint8.
        boxes: (N, 4) xyxy in image pixels, from `check_boxes`.
        out: (N, S, S, 3) uint8, which the crops are written to.

    Returns:
        (N, 2, 3), from crop units to image pixels: what `to_image` maps points with.
    """
    affines = crop_affines(rule, boxes, out.shape[1])
    warp_crops(image, affines, out.shape[1], out=out)
    return affines


def to_image(
    points: NDArray[Any], affines: Affines, *, integer: bool = False
) -> NDArray[np.float32]:
    """Points (N, L, 2) in crop units as (N, L, 2) float32 in image pixels."""
    mapped = points @ affines[:, :, :2].transpose(0, 2, 1) + affines[:, None, :, 2]
    return mapped.astype(np.float32)


def covariances_to_image(spreads: NDArray[np.float32], affines: Affines) -> NDArray[np.float32]:
    """Covariances (N, L, 2, 2) of points in crop units as those of the points in image pixels."""
    linear = affines[:, None, :, :2]
    return (linear @ spreads @ linear.transpose(0, 1, 3, 2)).astype(np.float32)


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
