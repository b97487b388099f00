"""The faces of quantisation.py: annotated shapes without photos, in the papers' crops."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facemark_export.training.datasets.pipnet_crop import PIPNET_RULES, pipnet_box
from facemark_sdk.crop import CROP_RULES, crop_affines
from facemark_sdk.spec import CropRule

INPUT = 256
FACE_PIXELS = 220
"""Of a face in Subpixel's crop of 256 (section 5.1)."""
EASY = {"illumination", "makeup"}
"""Attributes of WFLW that say nothing about the shape."""
WFLW_TEST = 2500
NO_PHOTO = 10**6
"""Width and height of a photo whose size nobody wrote down."""
PIPNET_SETS = {"wflw98": "wflw", "ibug68": "300w"}

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Shapes:
    """A set of annotated faces.

    Attributes:
        layout: Of the points.
        points: (N, L, 2) in pixels.
        easy: (N,) faces whose attributes say nothing about the shape; none where none are known.
    """

    layout: str
    points: Floats
    easy: NDArray[np.bool_]


def square(growth: float) -> CropRule:
    """The square about a box, `growth` times its longer side."""
    edge = (growth - 1) / 2
    return CropRule(edge, edge, edge, edge, square=True)


SQUARES = {"hih": CROP_RULES["hih"], "subpixel": square(INPUT / FACE_PIXELS)}
"""Square crops; the third, ``pipnet``, is not one."""


def read_shapes(folder: Path) -> list[Shapes]:
    """WFLW's test faces that are in one of its subsets, and 300W's full test set."""
    lines = (folder / "wflw98_test_subsets.jsonl").read_text().splitlines()
    wflw = [json.loads(line) for line in lines]
    easy = np.array([set(face["subsets"]) <= EASY for face in wflw])
    full = json.loads((folder / "spiga_300wpublic_test.json").read_text())
    return [
        Shapes("wflw98", np.array([face["points"] for face in wflw]), easy),
        Shapes("ibug68", np.array([face["landmarks"] for face in full]), np.zeros(len(full), bool)),
    ]


def in_crop(shapes: Shapes, crop: str) -> Floats:
    """The points (N, L, 2) as fractions of the crop about each face's points.

    WFLW's own boxes, which PIPNet's crop is taken around, are not in the file: the tight box of the
    points in whole pixels stands for them.
    """
    if crop in SQUARES:
        return in_square(shapes.points, SQUARES[crop])
    boxes = np.trunc(tight(shapes.points))
    published = PIPNET_RULES[PIPNET_SETS[shapes.layout]]
    cropped = [
        pipnet_box(published, points, box, NO_PHOTO, NO_PHOTO).points
        for points, box in zip(shapes.points, boxes, strict=True)
    ]
    return np.array(cropped)


def in_square(points: Floats, rule: CropRule) -> Floats:
    """The points as fractions of the crop that a rule makes of their tight box."""
    affines = crop_affines(rule, tight(points), 1)
    sides = affines[:, [0, 1], [0, 1]]
    return (points - affines[:, None, :, 2]) / sides[:, None]


def tight(points: Floats) -> Floats:
    """The bounding boxes (N, 4) of points (N, L, 2)."""
    return np.concatenate((points.min(axis=1), points.max(axis=1)), axis=1)
