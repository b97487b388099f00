"""A face cut out of its image: as PIPNet was trained, or with room for augmentation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePosixPath

import cv2
import numpy as np

from facemark_export.training.datasets.pipnet_crop import (
    AroundBox,
    AroundPoints,
    Float,
    pipnet_box,
)
from facemark_export.training.datasets.sample import Sample
from facemark_sdk.errors import DataError
from facemark_sdk.image import MIN_SIDE

PIPNET_SIDE = 256
"""COMPAT 1.2: crops are resized to the network's input by OpenCV, bilinearly."""
FOREHEAD = 0.25
"""What the landmarks' box grows upward, in heights, to hold the forehead."""
ROOM = 1.4
"""Side of the crop over that box's longer side: shifts and turns find pixels there."""
LONGEST_SIDE = 320
"""Larger crops are shrunk; smaller ones stay."""


def pipnet_crop(sample: Sample, rule: AroundPoints | AroundBox) -> Sample:
    """The face as PIPNet's preprocessing cuts it, 256 x 256.

    Points are the normalised ones x 256, as `LandmarkModel.predict_crops` counts, and the box
    is the crop's in the same way.

    Raises:
        DataError: What the rule needs is missing, or no pixel is left.
        ImageError: The image cannot be read.
    """
    image = sample.pixels()
    height, width = image.shape[:2]
    crop = pipnet_box(rule, sample.points, sample.box, width, height)
    left, top, right, bottom = crop.pixels
    side = PIPNET_SIDE
    pixels = cv2.resize(image[top:bottom, left:right], (side, side))
    return replace(
        sample,
        image=np.asarray(pixels, np.uint8),
        name=str(PurePosixPath(sample.name).with_suffix(".png")),  # keeps every pixel
        points=None if crop.points is None else crop.points * side,
        box=np.array([0.0, 0.0, side, side]),
        norm=None,
    )


def face_crop(sample: Sample) -> Sample:
    """The face with a margin, square but for the image's border, at most 320 pixels a side.

    Raises:
        DataError: The face has no points, or lies outside its image.
        ImageError: The image cannot be read.
    """
    if sample.points is None:
        raise DataError(f"{sample.name}: --crop face is taken around points, the face has none")
    image = sample.pixels()
    size = np.array(image.shape[1::-1])
    low, high = sample.points.min(axis=0), sample.points.max(axis=0)
    low[1] -= FOREHEAD * (high[1] - low[1])
    half = ROOM * (high - low).max() / 2
    first = np.maximum(np.floor((low + high) / 2 - half), 0).astype(int)
    end = np.minimum(np.ceil((low + high) / 2 + half), size).astype(int)
    if (end - first < MIN_SIDE).any():
        raise DataError(f"{sample.name}: the face has no {MIN_SIDE} pixels inside the image")
    pixels = image[first[1] : end[1], first[0] : end[0]]
    longest = int((end - first).max())
    if longest > LONGEST_SIDE:
        shrunk = np.maximum(np.rint((end - first) * (LONGEST_SIDE / longest)), MIN_SIDE).astype(int)
        pixels = cv2.resize(pixels, shrunk.tolist(), interpolation=cv2.INTER_AREA)
    scale = np.array(pixels.shape[1::-1]) / (end - first)

    def moved(points: Float) -> Float:
        return (points - first + 0.5) * scale - 0.5  # a pixel's centre is a whole number

    return replace(
        sample,
        image=np.ascontiguousarray(pixels, np.uint8),
        name=str(PurePosixPath(sample.name).with_suffix(".jpg")),
        points=moved(sample.points),
        box=None if sample.box is None else moved(sample.box.reshape(2, 2)).ravel(),
        norm=None if sample.norm is None else sample.norm * float(np.sqrt(scale.prod())),
    )
