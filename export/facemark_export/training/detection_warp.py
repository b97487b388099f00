"""Photos and faces under one affine map: sampling, boxes, points, what stays visible."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from facemark_export.training.detection_scenes import Scene
from facemark_sdk.detect.retinaface import area

Float = NDArray[np.float32]
Pixels = NDArray[np.uint8]
Affine = NDArray[np.float64]
"""(2, 3), photo pixels to tile pixels."""

FLIP_KPS = (1, 0, 2, 4, 3)
"""Where each of the five points comes from in the mirror."""


def about(
    source: NDArray[np.float64], target: NDArray[np.float64], linear: NDArray[np.float64]
) -> Affine:
    """The affine map with the given linear part that takes point `source` to point `target`."""
    return np.column_stack([linear, target - linear @ source])


def warp(scene: Scene, affine: Affine, tile: Pixels) -> None:
    """Sample a photo into a tile, in place, from the halving that loses nothing and aliases little.

    Pixels outside the photo stay as they are; so do some within a pixel of its border.
    """
    scale = np.sqrt(abs(np.linalg.det(affine[:, :2])))
    level = scene.levels[int(np.clip(np.floor(-np.log2(scale)), 0, len(scene.levels) - 1))]
    zoom = np.array(scene.image.shape[1::-1]) / np.array(level.shape[1::-1])
    # Level pixel -> photo pixel by the half-pixel rule, then photo -> tile.
    from_level = np.column_stack(
        [affine[:, :2] * zoom, affine[:, :2] @ (0.5 * zoom - 0.5) + affine[:, 2]]
    )
    size = (tile.shape[1], tile.shape[0])
    cv2.warpAffine(
        level, from_level, size, dst=tile, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_TRANSPARENT
    )


def move_boxes(boxes: Float, affine: Affine) -> Float:
    """Boxes (M, 4) xyxy around the images of the ellipses that they are around.

    A face fills its box as an ellipse does: the corners' bounding box would grow by up to 40 % when
    turned.
    """
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2 @ affine[:, :2].T + affine[:, 2]
    halves = (boxes[:, 2:] - boxes[:, :2]) / 2
    extents = np.sqrt(halves**2 @ (affine[:, :2] ** 2).T)
    return np.concatenate([centres - extents, centres + extents], axis=1).astype(np.float32)


def move_points(kps: Float, affine: Affine) -> Float:
    """Points (M, 5, 2) under an affine map; a mirror exchanges left and right."""
    moved = (kps @ affine[:, :2].T + affine[:, 2]).astype(np.float32)
    return moved[:, FLIP_KPS] if np.linalg.det(affine[:, :2]) < 0 else moved


def visible_share(boxes: Float, width: int, height: int) -> Float:
    """Share (M,) of each box that is inside a tile."""
    limits = np.array([width, height, width, height], np.float32)
    return area(np.clip(boxes, 0, limits)) / np.maximum(area(boxes), 1e-6)


def cover(scene: Scene, affine: Affine, width: int, height: int) -> Affine:
    """Move a warp so that the photo's bounding box covers the tile, or lies in it, along each axis.

    What was in both the photo and the tile stays in the tile.
    """
    columns, rows = scene.image.shape[1], scene.image.shape[0]
    corners = (
        np.array([(0, 0), (columns, 0), (0, rows), (columns, rows)]) @ affine[:, :2].T
        + affine[:, 2]
    )
    near, far = corners.min(axis=0), corners.max(axis=0) - (width, height)
    move = np.where((near > 0) ^ (far < 0), np.where(np.abs(near) < np.abs(far), -near, -far), 0)
    return np.column_stack([affine[:, :2], affine[:, 2] + move])


def fills(scene: Scene, affine: Affine, width: int, height: int) -> bool:
    """Whether a warped photo leaves nothing of its tile open."""
    inverse = cv2.invertAffineTransform(affine)
    corners = (
        np.array([(0, 0), (width, 0), (0, height), (width, height)]) @ inverse[:, :2].T
        + inverse[:, 2]
    )
    return bool(((corners >= 0) & (corners <= scene.image.shape[1::-1])).all())
