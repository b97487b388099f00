"""Detectors in insightface's layouts around the network (COMPAT 5.1). Numpy and OpenCV only.

RetinaFace and SCRFD as insightface publishes them: several levels, each with scores, box distances
and, in some files, five points. The canvas is what the network sees; boxes are xyxy, points xy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from facemark_sdk.detect.retinaface import suppress
from facemark_sdk.errors import ModelError

Float = NDArray[np.float32]
Pixels = NDArray[np.uint8]

DET_SIZE = 640
SCORE_THRESHOLD = 0.5
NMS_THRESHOLD = 0.4
"""What the published code takes where it is not told otherwise (COMPAT 5.1)."""


@dataclass(frozen=True, slots=True)
class Heads:
    """Which outputs a network of this kind has.

    Attributes:
        strides: Canvas pixels a cell, level by level.
        anchors: Anchors a cell, all at the cell's place.
        keypoints: Whether there are five points a face.
    """

    strides: tuple[int, ...]
    anchors: int
    keypoints: bool

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> Heads:
        """What a spec's decoder parameters say.

        Raises:
            KeyError: One is missing.
            TypeError: One is of a wrong kind.
            ValueError: One is out of range.
        """
        strides = tuple(int(stride) for stride in params["strides"])
        heads = cls(strides, int(params["anchors"]), bool(params["keypoints"]))
        if not strides or min(*strides, heads.anchors) < 1:
            raise ValueError(
                f"strides and anchors must be at least 1, got {list(strides)} and {heads.anchors}"
            )
        return heads

    @property
    def widths(self) -> dict[str, int]:
        """Numbers an anchor of each kind of output, in the order of the outputs."""
        return {"score": 1, "bbox": 4} | ({"kps": 10} if self.keypoints else {})

    @property
    def output_names(self) -> tuple[str, ...]:
        """``score_8``, ..., ``bbox_8``, ..., ``kps_8``, ...; (N, cells * anchors, width) each."""
        return tuple(f"{kind}_{stride}" for kind in self.widths for stride in self.strides)


def letterbox(image: Pixels, width: int, height: int) -> tuple[Pixels, tuple[float, float]]:
    """Fit an image into a canvas: bilinear, in the top left corner, black beside it.

    Args:
        image: (H, W, 3) uint8, BGR.
        width: Of the canvas.
        height: Likewise.

    Returns:
        The canvas, (height, width, 3) uint8, and its scale, canvas pixels an image pixel, which is
        the height's for both axes.
    """
    ratio = image.shape[0] / image.shape[1]
    if ratio > height / width:
        new_width, new_height = int(height / ratio), height
    else:
        new_width, new_height = width, int(width * ratio)
    # The published code fails where a side vanishes.
    new_width, new_height = max(1, new_width), max(1, new_height)
    canvas = np.zeros((height, width, 3), np.uint8)
    canvas[:new_height, :new_width] = cv2.resize(
        image, (new_width, new_height), interpolation=cv2.INTER_LINEAR
    )
    scale = new_height / image.shape[0]
    return canvas, (scale, scale)


def to_image(xy: Float, scales: tuple[float, float]) -> Float:
    """Map canvas coordinates back to the image, as the published code does: without half pixels.

    Args:
        xy: (..., 2k) float32 in canvas pixels: x and y alternating.
        scales: What `letterbox` returned.
    """
    return (xy / np.resize(np.asarray(scales, np.float32), xy.shape[-1])).astype(np.float32)


@lru_cache(maxsize=64)
def anchor_centres(height: int, width: int, stride: int, anchors: int) -> Float:
    """Where the anchors of a level are.

    Args:
        height: Of the canvas in pixels.
        width: Likewise.
        stride: Canvas pixels a cell.
        anchors: Anchors a cell.

    Returns:
        (A, 2) float32, x and y of each cell's top left corner, row by row, a cell's anchors one
        after the other. Read-only, as it is shared by all callers.
    """
    rows, columns = np.indices((height // stride, width // stride), np.float32)
    cells = np.stack((columns.ravel(), rows.ravel()), axis=1) * np.float32(stride)
    centres = np.repeat(cells, anchors, axis=0)
    centres.flags.writeable = False
    return centres


def decode_boxes(distances: Float, centres: Float, stride: int) -> Float:
    """Distances (N, 4) to left, top, right, bottom of centres (N, 2) -> boxes (N, 4) xyxy."""
    reach = distances * np.float32(stride)
    return np.concatenate([centres - reach[:, :2], centres + reach[:, 2:]], axis=1)


def decode_points(offsets: Float, centres: Float, stride: int) -> Float:
    """Offsets (N, 10) from centres (N, 2) -> points (N, 5, 2)."""
    points: Float = centres[:, None] + offsets.reshape(-1, 5, 2) * np.float32(stride)
    return points


def decode(
    outputs: Mapping[str, Float],
    heads: Heads,
    sides: tuple[int, int],
    *,
    score_threshold: float,
    nms_threshold: float = NMS_THRESHOLD,
) -> tuple[Float, Float, Float]:
    """Turn one image's network outputs into faces; boxes without area are left out.

    Args:
        outputs: By `Heads.output_names`, (1, A, width) each; scores are probabilities.
        heads: The network's.
        sides: Height and width of the canvas.
        score_threshold: Faces below it are left out.
        nms_threshold: Of two boxes that overlap by more than this, the one with the lower score is
            left out, whatever their levels.

    Returns:
        boxes (N, 4) xyxy, scores (N,), kps (N, 5, 2), float32, in canvas pixels, best score first.
        Without key-points, kps is (N, 0, 2).

    Raises:
        ModelError: A level has another number of anchors than its stride says.
    """
    levels = [_level(outputs, heads, stride, sides, score_threshold) for stride in heads.strides]
    scores, boxes, kps = (np.concatenate(parts) for parts in zip(*levels, strict=True))
    order = np.argsort(-scores, kind="stable")
    order = order[(boxes[order, 2:] > boxes[order, :2]).all(axis=1)]
    kept = order[suppress(boxes[order], nms_threshold)]
    return boxes[kept], scores[kept], kps[kept]


def _level(
    outputs: Mapping[str, Float],
    heads: Heads,
    stride: int,
    sides: tuple[int, int],
    threshold: float,
) -> tuple[Float, Float, Float]:
    """Scores, boxes and points of a level's anchors that reach the threshold."""
    centres = anchor_centres(*sides, stride, heads.anchors)
    for kind, width in heads.widths.items():
        if outputs[f"{kind}_{stride}"].size != len(centres) * width:
            raise ModelError(
                f"output '{kind}_{stride}' has shape {outputs[f'{kind}_{stride}'].shape}, a canvas "
                f"of {sides[1]} x {sides[0]} has {len(centres)} anchors at this stride"
            )
    scores = outputs[f"score_{stride}"].reshape(-1)
    chosen = np.flatnonzero(scores >= threshold)
    centres = centres[chosen]
    boxes = decode_boxes(outputs[f"bbox_{stride}"].reshape(-1, 4)[chosen], centres, stride)
    kps = np.empty((len(chosen), 0, 2), np.float32)
    if heads.keypoints:
        kps = decode_points(outputs[f"kps_{stride}"].reshape(-1, 10)[chosen], centres, stride)
    return scores[chosen], boxes, kps
