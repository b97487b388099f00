"""RetinaFace around the network: letterbox, priors, decode (COMPAT 5.2). Numpy and OpenCV only.

The canvas is what the network sees; boxes are xyxy, points xy, in pixels whose centres have integer
coordinates.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from facemark_sdk.bilinear import resize

Float = NDArray[np.float32]
Pixels = NDArray[np.uint8]

OUTPUT_NAMES = ("loc", "scores", "landms")
"""The network's outputs, scores as probabilities."""
STRIDES = (8, 16, 32)
"""Canvas pixels a cell, by level (COMPAT 5.2)."""
PRIOR_SIZES = ((16, 32), (64, 128), (256, 512))
"""Sides of the square priors of each level's cells (COMPAT 5.2)."""
CENTRE_VARIANCE = 0.1
SIZE_VARIANCE = 0.2
"""Units of the network's offsets and of its log sizes (COMPAT 5.2)."""
MEAN_BGR = (104, 117, 123)
"""What the network's input has subtracted, and the colour of the padding (COMPAT 5.2)."""
NMS_THRESHOLD = 0.4
TOP_K = 5000
"""Overlap that suppresses, and candidates that enter the suppression at most (COMPAT 5.2)."""
BILINEAR = 3
"""Times by which an image shrinks at most by bilinear sampling alone, which leaves pixels out from
2 on. Averaging first finds no more: on the 96 held-out scenes of 512 pixels a former detector's
recall is the same at 176, 208 and 240 pixels, its average precision 0.889, 0.898 and 0.913 with,
0.884, 0.904 and 0.927 without; the letterbox takes half as long again with it."""


def letterbox(
    image: Pixels, size: int, stride: int = STRIDES[-1]
) -> tuple[Pixels, tuple[float, float]]:
    """Resize an image to a longest side; pad right and below to whole strides, not to a square.

    Args:
        image: (H, W, 3) uint8, BGR.
        size: The longest side on the canvas, in pixels, without padding.
        stride: Both sides of the canvas are multiples of this.

    Returns:
        The canvas, (h, w, 3) uint8, with the image in its top left corner, and its scales, as `fit`
        gives them.
    """
    canvas, scales = fit(image, size)
    below, beside = -canvas.shape[0] % stride, -canvas.shape[1] % stride
    if below or beside:
        padded = cv2.copyMakeBorder(
            canvas, 0, below, 0, beside, cv2.BORDER_CONSTANT, value=MEAN_BGR
        )
        canvas = np.asarray(padded, np.uint8)
    return canvas, scales


def fit(image: Pixels, size: int) -> tuple[Pixels, tuple[float, float]]:
    """Resize an image to a longest side.

    Args:
        image: (H, W, 3) uint8.
        size: The longest side in pixels.

    Returns:
        The image, (h, w, 3) uint8, and its scales (sx, sy), new pixels an old pixel. They differ by
        the rounding to whole pixels.
    """
    height, width = image.shape[:2]
    scale = size / max(height, width)
    new_width, new_height = max(1, round(width * scale)), max(1, round(height * scale))
    most = BILINEAR * size
    shrunk = _halved(image, most)
    if max(shrunk.shape[:2]) > most:
        averaged = cv2.resize(shrunk, (new_width, new_height), interpolation=cv2.INTER_AREA)
        fitted = np.asarray(averaged, np.uint8)
    else:
        fitted = resize(shrunk, new_width, new_height)
    return fitted, (new_width / width, new_height / height)


def _halved(image: Pixels, most: int) -> Pixels:
    """An image of a longest side of at most `most`, as far as halving even sides makes it so.

    Each halving is the mean of 2 x 2 pixels, for which OpenCV has a fast path: a frame of 1920 x
    1080 takes a sixth of the time that its averaging by any other factor would.
    """
    while max(image.shape[:2]) > most and not (image.shape[0] % 2 or image.shape[1] % 2):
        half = (image.shape[1] // 2, image.shape[0] // 2)
        image = np.asarray(cv2.resize(image, half, interpolation=cv2.INTER_AREA), np.uint8)
    return image


def to_image(xy: Float, scales: tuple[float, float]) -> Float:
    """Map canvas coordinates back to the image, by the half-pixel rule that OpenCV resizes by.

    Args:
        xy: (..., 2k) float32 in canvas pixels: x and y alternating, as in boxes xyxy and in points.
        scales: What `letterbox` returned.
    """
    pairs = xy.reshape(*xy.shape[:-1], xy.shape[-1] // 2, 2)
    moved = (pairs + np.float32(0.5)) / np.array(scales, np.float32) - np.float32(0.5)
    return np.asarray(moved.reshape(xy.shape), np.float32)


@lru_cache(maxsize=32)
def priors(height: int, width: int) -> Float:
    """Boxes that the network's outputs are relative to.

    Args:
        height: Canvas height in pixels.
        width: Canvas width in pixels.

    Returns:
        (A, 4) float32, cx, cy, w, h in canvas pixels: by level, row by row, a cell's sizes
        innermost. Read-only, as it is shared by all callers.
    """
    levels = []
    for stride, sizes in zip(STRIDES, PRIOR_SIZES, strict=True):
        rows, columns = -(-height // stride), -(-width // stride)
        cells = np.empty((rows, columns, len(sizes), 4), np.float32)
        cells[..., 0] = ((np.arange(columns) + 0.5) * stride)[None, :, None]
        cells[..., 1] = ((np.arange(rows) + 0.5) * stride)[:, None, None]
        cells[..., 2:] = np.asarray(sizes)[:, None]
        levels.append(cells.reshape(-1, 4))
    boxes = np.concatenate(levels)
    boxes.flags.writeable = False
    return boxes


def decode(
    loc: Float,
    scores: Float,
    landms: Float,
    priors: Float,
    *,
    score_threshold: float,
    nms_threshold: float = NMS_THRESHOLD,
    top_k: int = TOP_K,
) -> tuple[Float, Float, Float]:
    """Turn one image's network outputs into faces.

    Args:
        loc: (A, 4) box offsets in units of the variances.
        scores: (A,) probability of a face.
        landms: (A, 10) offsets of five points, x and y alternating.
        priors: (A, 4) cx, cy, w, h in canvas pixels.
        score_threshold: Faces below it are left out.
        nms_threshold: Of two boxes that overlap by more than this, the one with the lower score is
            left out.
        top_k: Candidates that enter the suppression at most.

    Returns:
        boxes (N, 4) xyxy, scores (N,), kps (N, 5, 2), float32, in canvas pixels, best score first.
    """
    candidates = np.flatnonzero(scores >= score_threshold)
    candidates = candidates[np.argsort(-scores[candidates], kind="stable")[:top_k]]
    boxes = decode_boxes(loc[candidates], priors[candidates])
    kept = suppress(boxes, nms_threshold)
    chosen = candidates[kept]
    kps = decode_points(landms[chosen], priors[chosen])
    return boxes[kept], scores[chosen].astype(np.float32, copy=False), kps


def decode_boxes(loc: Float, priors: Float) -> Float:
    """Offsets (N, 4) relative to priors (N, 4) -> boxes (N, 4) xyxy."""
    sides = priors[:, 2:]
    centres = priors[:, :2] + loc[:, :2] * CENTRE_VARIANCE * sides
    halves = 0.5 * sides * np.exp(loc[:, 2:] * SIZE_VARIANCE)
    return np.concatenate([centres - halves, centres + halves], axis=1, dtype=np.float32)


def decode_points(landms: Float, priors: Float) -> Float:
    """Offsets (N, 10) relative to priors (N, 4) -> points (N, 5, 2)."""
    offsets = landms.reshape(-1, 5, 2) * CENTRE_VARIANCE * priors[:, None, 2:]
    return (priors[:, None, :2] + offsets).astype(np.float32, copy=False)


def suppress(boxes: Float, threshold: float) -> NDArray[np.intp]:
    """Greedy non-maximum suppression; sides count a pixel more than their difference (COMPAT 5.2).

    Args:
        boxes: (N, 4) xyxy, best score first.
        threshold: Overlap above which the lower score goes.

    Returns:
        Indices of the boxes that stay, best score first.
    """
    if not len(boxes):
        return np.empty(0, np.intp)
    rectangles = boxes.astype(np.float64)
    rectangles[:, 2:] += 1 - rectangles[:, :2]
    # The boxes come in order, so ranks serve as scores: OpenCV would leave out a score of 0.
    ranks = range(len(boxes), 0, -1)
    kept = cv2.dnn.NMSBoxes(rectangles.tolist(), ranks, 0.0, threshold)
    return np.sort(np.asarray(kept, np.intp).reshape(-1))


def iou(a: Float, b: Float) -> Float:
    """Intersection over union of every box of `a` (N, 4) with every box of `b` (M, 4), xyxy -> (N,
    M).
    """
    corners = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(
        a[:, None, :2], b[None, :, :2]
    )
    shared = np.clip(corners, 0, None).prod(axis=2)
    union = area(a)[:, None] + area(b)[None] - shared
    overlaps: Float = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return overlaps


def area(boxes: Float) -> Float:
    """Areas (N,) of boxes (N, 4) xyxy; a box turned inside out has none."""
    areas: Float = np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(axis=1)
    return areas
