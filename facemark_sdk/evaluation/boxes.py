"""Where the boxes of annotated faces come from: a detector, their points, the annotations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from facemark_sdk.detect.face_detector import FaceDetector
from facemark_sdk.detect.retinaface import iou
from facemark_sdk.errors import DataError
from facemark_sdk.evaluation.annotations import AnnotatedFace
from facemark_sdk.image import Image

LEAST_IOU = 0.3
"""Detectors box the forehead as well, landmarks do not: a good box reaches about 0.75."""

Box: TypeAlias = NDArray[np.float32]
BoxesOf: TypeAlias = Callable[[Image, Sequence[AnnotatedFace]], "list[Box | None]"]
"""From a photo and faces annotated in it to a box (4,) xyxy each, None where none was found."""


def detected_boxes(detector: FaceDetector) -> BoxesOf:
    """Each face's box is the detection that fits its points best, as crop rules expect."""

    def boxes_of(image: Image, faces: Sequence[AnnotatedFace]) -> list[Box | None]:
        found = detector(image).boxes
        return [fitting_box(found, face.points) for face in faces]

    return boxes_of


def tight_boxes(image: Image, faces: Sequence[AnnotatedFace]) -> list[Box | None]:
    """Each face's box is the bounding box of its annotated points."""
    return [tight_box(face.points) for face in faces]


def annotated_boxes(image: Image, faces: Sequence[AnnotatedFace]) -> list[Box | None]:
    """Each face's box is the annotated one.

    Raises:
        DataError: A face has none.
    """
    return [annotated_box(face) for face in faces]


def fitting_box(boxes: NDArray[np.float32], points: NDArray[np.float32]) -> Box | None:
    """The detected box that belongs to a face with annotated points.

    Args:
        boxes: (N, 4) xyxy of all detections.
        points: (L, 2).

    Returns:
        The box (4,) that overlaps the bounding box of the points most; None when none overlaps it
        by an IoU of `LEAST_IOU` or more.
    """
    if not len(boxes):
        return None
    overlaps = iou(boxes, tight_box(points)[None])[:, 0]
    best = int(np.argmax(overlaps))
    return boxes[best] if overlaps[best] >= LEAST_IOU else None


def tight_box(points: NDArray[np.float32]) -> Box:
    """The bounding box (4,) of points (L, 2)."""
    return np.concatenate((points.min(axis=0), points.max(axis=0)))


def annotated_box(face: AnnotatedFace) -> Box:
    """The annotated box (4,) of a face.

    Raises:
        DataError: It has none.
    """
    if face.box is None:
        raise DataError(f"{face.where}: no 'box' is annotated, take the points' or a detector's")
    return face.box
