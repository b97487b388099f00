"""Fitting the crop rule: which growth of a detector's box gives the crop a model was trained on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from facemark_export.training.augment import square_around
from facemark_export.training.landmark_data import AnnotatedFace
from facemark_sdk.detect.face_detector import FaceDetector
from facemark_sdk.errors import DataError
from facemark_sdk.evaluation import fitting_box
from facemark_sdk.spec import CropRule


@dataclass(frozen=True)
class CropFit:
    """A fitted rule and how well it fits.

    Attributes:
        rule: The rule.
        faces: Faces it was fitted on.
        missed: Faces that the detector did not find.
        size_spread: Standard deviation of log(fitted side / trained side).
        shift_spread: Mean distance of the centres over the trained side.
    """

    rule: CropRule
    faces: int
    missed: int
    size_spread: float
    shift_spread: float


def fit_crop_rule(detector: FaceDetector, faces: Iterable[AnnotatedFace], growth: float) -> CropFit:
    """Fit the rule on annotated faces by medians, so that a few wrong boxes do not matter.

    Left and right grow alike, as training mirrors faces.

    Args:
        detector: Whose boxes the rule is for.
        faces: Training faces of the landmark model.
        growth: The training crop's side over the longer side of the points' box.

    Raises:
        DataError: The detector finds none of the faces.
    """
    boxes, squares, missed = [], [], 0
    for face in faces:
        box = box_of(detector, face.image(), face.points)
        if box is None:
            missed += 1
        else:
            boxes.append(box)
            squares.append(square_around(face.points, growth))
    if not boxes:
        raise DataError("the detector finds none of the faces: no crop rule can be fitted")
    box_array, square = np.asarray(boxes, np.float64), np.asarray(squares)
    centres = (box_array[:, :2] + box_array[:, 2:]) / 2
    sides = box_array[:, 2:] - box_array[:, :2]
    wanted = square[:, 2]
    grow = np.median(wanted[:, None] / sides, axis=0)
    # The crop takes the longer of the two grown sides, which is biased up: scale both down.
    grow *= np.median(wanted / (sides * grow).max(axis=1))
    down = float(np.median((square[:, 1] - centres[:, 1]) / sides[:, 1]))
    across, upright = (grow - 1) / 2
    rule = CropRule(
        left=round(float(across), 4),
        top=round(float(upright - down), 4),
        right=round(float(across), 4),
        bottom=round(float(upright + down), 4),
        square=True,
    )
    fitted = (sides * grow).max(axis=1)
    shift = centres + np.stack((np.zeros(len(sides)), down * sides[:, 1]), 1) - square[:, :2]
    return CropFit(
        rule=rule,
        faces=len(boxes),
        missed=missed,
        size_spread=float(np.log(fitted / wanted).std()),
        shift_spread=float((np.linalg.norm(shift, axis=1) / wanted).mean()),
    )


def box_of(
    detector: FaceDetector, image: NDArray[np.uint8], points: NDArray[np.float32]
) -> NDArray[np.float32] | None:
    """The detected box (4,) that fits a face with annotated points (L, 2); None if none does."""
    return fitting_box(detector(image).boxes, points)
