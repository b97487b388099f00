"""Matching of detections with truths, precision, recall and average precision."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facemark_sdk.detect.metrics import (
    HIT,
    IGNORED,
    MISS,
    average_precision,
    curve_over_images,
    match_detections,
    precision_recall,
)

FACE = np.array([[10, 10, 50, 60]], np.float32)
OTHER = np.array([[100, 10, 140, 60]], np.float32)
NONE_IGNORED = np.array([False])


def test_a_truth_is_found_once_and_by_the_best_score() -> None:
    outcomes = match_detections(
        np.concatenate([FACE, FACE]), np.array([0.6, 0.9], np.float32), FACE, NONE_IGNORED
    )
    assert outcomes.tolist() == [MISS, HIT]


def test_an_ignored_truth_is_neither_found_nor_missed_however_often() -> None:
    boxes = np.concatenate([FACE, FACE, OTHER])
    outcomes = match_detections(
        boxes, np.array([0.9, 0.8, 0.7], np.float32), FACE, np.array([True])
    )
    assert outcomes.tolist() == [IGNORED, IGNORED, MISS]


def test_a_truth_that_counts_goes_before_an_ignored_one() -> None:
    truths = np.concatenate([FACE, FACE + 4])
    outcomes = match_detections(
        FACE + 3, np.array([0.9], np.float32), truths, np.array([False, True])
    )
    assert outcomes.tolist() == [HIT]


def test_images_without_truths_or_detections() -> None:
    nothing = np.empty((0, 4), np.float32)
    assert match_detections(FACE, np.ones(1, np.float32), nothing, np.empty(0, bool)).tolist() == [
        MISS
    ]
    assert match_detections(nothing, np.empty(0, np.float32), FACE, NONE_IGNORED).shape == (0,)
    curve = precision_recall(np.empty(0, np.float32), np.empty(0, np.int8), 3)
    assert (average_precision(curve), curve.at(0.5), curve.best()) == (
        0.0,
        (1.0, 0.0),
        (1.0, 0.0),
    )


def test_a_known_curve() -> None:
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5], np.float32)
    outcomes = np.array([HIT, MISS, HIT, IGNORED, MISS], np.int8)
    curve = precision_recall(scores, outcomes, 4)
    np.testing.assert_allclose(curve.precision, [1, 1 / 2, 2 / 3, 1 / 2])
    np.testing.assert_allclose(curve.recall, [1 / 4, 1 / 4, 2 / 4, 2 / 4])
    assert curve.at(0.65) == (pytest.approx(2 / 3), 0.5)
    assert curve.best() == (pytest.approx(0.6), pytest.approx(4 / 7))
    assert average_precision(curve) == pytest.approx(1 / 4 + 1 / 4 * 2 / 3)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=50)
def test_curves_are_well_formed(seed: int) -> None:
    rng = np.random.default_rng(seed)
    outcomes = rng.choice(np.array([HIT, MISS, IGNORED], np.int8), 30)
    truths = int((outcomes == HIT).sum()) + int(rng.integers(0, 5))
    scores = rng.integers(0, 8, 30).astype(np.float32) / 8
    curve = precision_recall(scores, outcomes, truths)
    assert (np.diff(curve.recall) >= 0).all()
    assert (np.diff(curve.thresholds) < 0).all()
    assert 0 <= average_precision(curve) <= 1
    order = rng.permutation(30)
    assert average_precision(
        precision_recall(scores[order], outcomes[order], truths)
    ) == average_precision(curve)


def test_the_best_threshold_is_between_two_scores() -> None:
    scores = np.float32([0.9, 0.8, 0.6, 0.4])
    curve = precision_recall(scores, np.int8([HIT, HIT, MISS, HIT]), 4)
    threshold, f1 = curve.best()
    assert f1 == pytest.approx(0.75)  # three quarters found, one detection of four wrong
    assert threshold == pytest.approx(0.2)
    assert curve.at(threshold) == (0.75, 0.75)
    nothing = precision_recall(np.empty(0, np.float32), np.empty(0, np.int8), 4)
    assert nothing.best() == (1.0, 0.0)


def test_the_curve_over_images_joins_their_matches() -> None:
    few = np.array([True])
    images = [
        (FACE, np.float32([0.9]), FACE, NONE_IGNORED),
        (OTHER, np.float32([0.8]), FACE, NONE_IGNORED),  # a miss and a false one
        (FACE, np.float32([0.7]), FACE, few),  # counts neither way
    ]
    curve = curve_over_images(images)
    np.testing.assert_allclose(curve.thresholds, [0.9, 0.8])
    np.testing.assert_allclose(curve.precision, [1, 1 / 2])
    np.testing.assert_allclose(curve.recall, [1 / 2, 1 / 2])
    assert curve_over_images([]).best() == (1.0, 0.0)
