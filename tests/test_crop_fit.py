"""Fitting the crop rule: the crops of detected boxes become the crops of training."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from facemark_export.crop_fit import box_of, fit_crop_rule
from facemark_export.training.augment import square_around
from facemark_export.training.landmark_data import AnnotatedFace
from facemark_sdk.crop import crop_affines
from facemark_sdk.detect.face_detector import Detections
from facemark_sdk.errors import DataError

GROWTH = 1.3


def make_faces(count, rng):
    encoded = cv2.imencode(".png", np.zeros((16, 16, 3), np.uint8))[1].ravel()
    shape = rng.uniform(0, 1, (68, 2))
    faces = []
    for i in range(count):
        scale, place = rng.uniform(40, 200), rng.uniform(20, 100, 2)
        points = (shape * [0.9, 1.0] * scale + place).astype(np.float32)
        faces.append(AnnotatedFace(Path(f"{i}.png"), str(i), encoded, points))
    return faces


class Sees:
    """Stands for a detector: gives, in turn, boxes made from the faces' own points."""

    def __init__(self, faces, box_from):
        self.boxes = iter([box_from(face) for face in faces])

    def __call__(self, image):
        boxes = np.float32(next(self.boxes)).reshape(-1, 4)
        count = len(boxes)
        return Detections(boxes, np.ones(count, np.float32), np.zeros((count, 5, 2), np.float32))


def box_with_forehead(face, noise=None):
    """As detectors draw them: narrower than the training crop, and reaching higher."""
    low, high = face.points.min(axis=0), face.points.max(axis=0)
    width, height = high - low
    box = np.array([low[0] + 0.03 * width, low[1] - 0.3 * height, high[0], high[1] + 0.02 * height])
    return box if noise is None else box + noise.normal(0, 0.02 * height, 4)


def test_the_rule_turns_detected_boxes_into_training_crops():
    faces = make_faces(40, np.random.default_rng(0))
    fit = fit_crop_rule(Sees(faces, box_with_forehead), faces, GROWTH)
    assert (fit.faces, fit.missed) == (40, 0)
    for face in faces:
        (affine,) = crop_affines(fit.rule, box_with_forehead(face)[None], 100)
        x, y, side = square_around(face.points, GROWTH)
        centre = affine @ [50, 50, 1]
        assert affine[0, 0] * 100 == pytest.approx(side, rel=0.01)
        assert np.linalg.norm(centre - [x, y]) < 0.03 * side
    assert fit.size_spread < 0.01


def test_noisy_boxes_and_a_few_wrong_ones_do_not_move_the_rule_far():
    rng = np.random.default_rng(1)
    faces = make_faces(200, rng)
    clean = fit_crop_rule(Sees(faces, box_with_forehead), faces, GROWTH).rule

    def box(face):
        wrong = rng.random() < 0.05
        grown = face.points.max(axis=0) - face.points.min(axis=0)
        return box_with_forehead(face, rng) + (
            np.array([-1, -1, 1, 1]) * grown.max() if wrong else 0
        )

    noisy = fit_crop_rule(Sees(faces, box), faces, GROWTH)
    for side in ("left", "top", "right", "bottom"):
        assert getattr(noisy.rule, side) == pytest.approx(getattr(clean, side), abs=0.03)
    assert noisy.size_spread > 0.01


def test_faces_that_are_not_found_are_counted():
    faces = make_faces(10, np.random.default_rng(2))
    elsewhere = np.array([900, 900, 950, 950])
    found = Sees(faces, lambda f: elsewhere if f.path.stem == "3" else box_with_forehead(f))
    fit = fit_crop_rule(found, faces, GROWTH)
    assert (fit.faces, fit.missed) == (9, 1)
    with pytest.raises(DataError, match="none of the faces"):
        fit_crop_rule(Sees(faces, lambda _: np.empty((0, 4))), faces, GROWTH)


def test_among_several_boxes_the_one_that_fits_the_points_is_taken():
    (face,) = make_faces(1, np.random.default_rng(3))
    right = box_with_forehead(face)
    around = right + np.array([-150, -20, 150, 20])  # holds all points, but is another box
    boxes = np.stack([right + 400, around, right, right - 300])
    np.testing.assert_allclose(
        box_of(Sees([face], lambda _: boxes), face.image(), face.points), right, rtol=1e-6
    )
