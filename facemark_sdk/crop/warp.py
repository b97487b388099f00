"""The SDK's own crop: one 2x3 matrix a face, without anybody's truncations.

The matrix maps crop coordinates to image coordinates, x = x0 + u * w / S. Pixels are read by it and
points are mapped back with it, so nothing is ever inverted.

`cut` takes what most crops are, a part of the image, in whole image pixels: at 256 px `resize`
takes a third of the processor time of `cv2.warpAffine`, two thirds where OpenCV has no IPP, and
seldom any of OpenCV's threads, which would take the network's cores. The matrix is that of the
whole pixels, so points lose nothing. Crops that reach out of the image are warped (`warp_crops`).
"""

from __future__ import annotations

import math
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from facemark_sdk.bilinear import resize
from facemark_sdk.crop.affines import Affines
from facemark_sdk.crop.boxes import check_boxes
from facemark_sdk.image import Image
from facemark_sdk.spec import CropRule

_MARGIN = 2
"""Pixels around a crop's region that bilinear sampling may touch."""

_Row: TypeAlias = tuple[float, float, float, float, float, float]
"""An affine, row by row: for a few faces numbers one by one take less time than numpy's calls."""


def crop_affines(rule: CropRule, boxes: ArrayLike, size: int) -> Affines:
    """The crop of each box, as the matrix from crop to image coordinates.

    `cut` moves it to whole pixels where it lies in the image.

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
    return _stacked([_affine(rule, size, *box) for box in boxes.tolist()])


def _stacked(rows: list[_Row]) -> Affines:
    return np.array(rows, np.float64).reshape(-1, 2, 3)


def _affine(rule: CropRule, size: int, x1: float, y1: float, x2: float, y2: float) -> _Row:
    width, height = x2 - x1, y2 - y1
    left, right = x1 - width * rule.left, x2 + width * rule.right
    top, bottom = y1 - height * rule.top, y2 + height * rule.bottom
    width, height = right - left, bottom - top
    if rule.square:
        width = height = side = max(width, height)
        left, top = (left + right - side) / 2, (top + bottom - side) / 2
    return width / size, 0.0, left, 0.0, height / size, top


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
    height, width = image.shape[:2]
    warped = np.empty((size, size, 4), np.uint8)
    for ((a, b, x), (c, d, y)), crop in zip(affines.tolist(), crops, strict=True):
        left, right = _reach(a, b, x, size, width)
        top, bottom = _reach(c, d, y, size, height)
        if right <= left or bottom <= top:
            crop[:] = 0
            continue
        region = image[top:bottom, left:right]
        matrix = np.array(((a, b, x - left), (c, d, y - top)))
        # Bilinear sampling leaves pixels out, and so aliases, when it shrinks by two or more.
        factor = int(min(math.hypot(a, c), math.hypot(b, d)))
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
    size = out.shape[1]
    rows = [_affine(rule, size, *box) for box in boxes.tolist()]
    for index, (row, crop) in enumerate(zip(rows, out, strict=True)):
        whole = _resize(image, row, crop)
        if whole is None:
            warp_crops(image, _stacked([row]), size, out=crop[None])
        else:
            rows[index] = whole
    return _stacked(rows)


def _resize(image: Image, affine: _Row, crop: Image) -> _Row | None:
    """Cut a crop of whole image pixels, where all of them lie in the image.

    Args:
        image: (H, W, 3).
        affine: From crop to image coordinates, without rotation.
        crop: (S, S, 3) to write to.

    Returns:
        The affine of the whole pixels; None where the crop reaches out of the image.
    """
    size = len(crop)
    a, _, x, _, d, y = affine
    left, columns, fx = _whole(x, a, size)
    top, rows, fy = _whole(y, d, size)
    right, bottom = left + columns * fx, top + rows * fy
    if left < 0 or top < 0 or right > image.shape[1] or bottom > image.shape[0]:
        return None
    region = image[top:bottom, left:right]
    if fx > 1 or fy > 1:
        region = np.asarray(cv2.resize(region, (columns, rows), interpolation=cv2.INTER_AREA))
    resize(region, size, size, out=crop)
    a, d = (right - left) / size, (bottom - top) / size
    # `resize` shows (u + 0.5) * a - 0.5 of the region at u.
    return a, 0.0, left + 0.5 * a - 0.5, 0.0, d, top + 0.5 * d - 0.5


def _whole(start: float, pitch: float, size: int) -> tuple[int, int, int]:
    """A crop's side in whole pixels of the image.

    Args:
        start: Where in the image the crop's first pixel is wanted.
        pitch: Image pixels a crop pixel.
        size: Side of the crop.

    Returns:
        The image's first pixel, how many blocks of pixels follow and the pixels of a block: two
        and more are averaged, as bilinear sampling then leaves pixels out, and so aliases.
    """
    edge, side = start + 0.5 - 0.5 * pitch, pitch * size  # where pixel k lies from k to k + 1
    block = max(1, int(pitch))
    blocks = max(1, round(side / block))  # alike for both sides of a square
    return round(edge + (side - blocks * block) / 2), blocks, block


def _reach(a: float, b: float, start: float, size: int, extent: int) -> tuple[int, int]:
    """Low and high (exclusive) pixel, along one side of the image, that a crop reads.

    Reading only these keeps photos above OpenCV's warp limit of 32767 pixels a side usable.

    Args:
        a: What a pixel to the right in the crop moves along that side.
        b: What a pixel down does.
        start: Where the crop's corner is.
        size: Side of the crop.
        extent: Pixels that the image has.
    """
    margin = _MARGIN * max(1.0, abs(a) + abs(b))
    low = start + (min(a, 0.0) + min(b, 0.0)) * (size - 1) - margin
    high = start + (max(a, 0.0) + max(b, 0.0)) * (size - 1) + margin
    if not math.isfinite(low + high):
        return 0, 0
    return min(max(math.floor(low), 0), extent), min(max(math.ceil(high) + 1, 0), extent)


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
