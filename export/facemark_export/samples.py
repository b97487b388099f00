"""The images that a written file is proven on: structured ones, and real faces or photos."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from facemark_export.graph import example_image
from facemark_sdk import FaceDetector, crop, load_image
from facemark_sdk.models import DEFAULT_DETECTOR
from facemark_sdk.spec import CropRule, ModelSpec

BATCHES = (1, 3, 17)
"""Sizes of the structured batches: the file's batch is dynamic, which is proven with them."""
_BATCH = 16

Pixels = NDArray[np.uint8]


def structured_batches(spec: ModelSpec) -> list[Pixels]:
    """Noise, blurred noise, ramps and flat images, of several sizes where the graph takes any."""
    batches = []
    for seed, count in enumerate(BATCHES):
        batch = example_image(spec, count, seed).numpy()
        if not spec.input.width:
            batch = np.ascontiguousarray(batch[:, : 256 - 96 * seed, : 320 - 64 * seed])
        for i in range(1, count):
            kind = i % 4
            if kind in (1, 2):
                blurred = cv2.GaussianBlur(batch[i], (0, 0), 4.0 * kind)
                batch[i] = cv2.normalize(blurred, None, 0, 255, cv2.NORM_MINMAX)  # type: ignore[call-overload]
            elif kind == 3:
                ramp = np.linspace(0, 255, batch.shape[2]).astype(np.uint8)
                batch[i] = ramp[None, :, None]
            elif i % 8 == 0:
                batch[i] = 16 * i % 256
        batches.append(batch)
    return batches


def photo_batches(spec: ModelSpec, photos: Sequence[Path]) -> list[Pixels]:
    """Photos as the network sees them.

    A landmark network gets the faces that the bundled detector finds, cut by the model's own crop
    rule, and the whole photo where none is found; a detector gets whole photos.

    Raises:
        ImageError: A photo cannot be read.
    """
    if not photos:
        return []
    height, width = example_image(spec, 1).shape[1:3]
    finder = None if spec.crop is None else FaceDetector(DEFAULT_DETECTOR, backend="cpu")
    seen: list[Pixels] = []
    for photo in photos:
        image = load_image(photo)
        boxes = np.empty((0, 4)) if finder is None else finder(image).boxes
        if spec.crop is not None and len(boxes):
            seen.extend(_crops(spec.crop, image, boxes, width))
        else:
            seen.append(np.asarray(cv2.resize(image, (width, height)), np.uint8))
    return [np.stack(seen[i : i + _BATCH]) for i in range(0, len(seen), _BATCH)]


def _crops(rule: CropRule, image: Pixels, boxes: NDArray[np.float32], size: int) -> Pixels:
    crops = np.empty((len(boxes), size, size, 3), np.uint8)
    crop.cut(rule, image, crop.check_boxes(boxes), out=crops)
    return crops
