"""How good detections are: matching with the truth, precision, recall, average precision."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from facemark_sdk.detect.retinaface import iou

Float = NDArray[np.float32]

HIT, MISS, IGNORED = 1, 0, -1
"""Outcomes of a detection: found a face, found none, found a face that does not count."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Precision and recall as the score threshold falls.

    Every array has shape (N,): entry k holds when the detections with `thresholds[k]` or more are
    taken.
    """

    thresholds: NDArray[np.float64]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]

    def at(self, threshold: float) -> tuple[float, float]:
        """Precision and recall at a score threshold; (1, 0) without any detection."""
        taken = int(np.count_nonzero(self.thresholds >= threshold))
        if not taken:
            return 1.0, 0.0
        return float(self.precision[taken - 1]), float(self.recall[taken - 1])

    def best(self) -> tuple[float, float]:
        """Where F1, the harmonic mean of precision and recall, is highest.

        Returns:
            The score threshold, in the middle between the two detections' scores between which it
            may lie, and the F1; (1, 0) without any detection.
        """
        if not len(self.thresholds):
            return 1.0, 0.0
        total = self.precision + self.recall
        f1 = 2 * self.precision * self.recall / np.where(total > 0, total, 1)
        best = int(np.argmax(f1))
        below = self.thresholds[best + 1] if best + 1 < len(f1) else 0.0
        return float((self.thresholds[best] + below) / 2), float(f1[best])


def match_detections(
    boxes: Float,
    scores: Float,
    truths: Float,
    ignored: NDArray[np.bool_],
    *,
    threshold: float = 0.5,
) -> NDArray[np.int8]:
    """Say of every detection of one image what it found.

    In order of falling score, each detection takes the free truth that it overlaps most; truths
    that count go before ignored ones. An ignored truth may be taken any number of times, any other
    once.

    Args:
        boxes: (N, 4) xyxy, detections.
        scores: (N,) of the detections.
        truths: (M, 4) xyxy.
        ignored: (M,) truths that count neither as found nor as missed.
        threshold: The least IoU of a match.

    Returns:
        (N,) int8, HIT, MISS or IGNORED, in the order of `boxes`.
    """
    overlaps = iou(boxes, truths)
    outcomes = np.full(len(boxes), MISS, np.int8)
    free = ~ignored
    for detection in np.argsort(-scores, kind="stable"):
        overlap = np.where(free, overlaps[detection], -1)
        best = int(np.argmax(overlap)) if len(truths) else 0
        if len(truths) and overlap[best] >= threshold:
            free[best] = False
            outcomes[detection] = HIT
        elif np.any(overlaps[detection, ignored] >= threshold):
            outcomes[detection] = IGNORED
    return outcomes


def precision_recall(scores: Float, outcomes: NDArray[np.int8], truths: int) -> Curve:
    """Precision and recall over all thresholds.

    Args:
        scores: (N,) of the detections of all images.
        outcomes: (N,) what `match_detections` returned for them.
        truths: Truths of all images that count.
    """
    counted = outcomes != IGNORED
    falling = np.argsort(-scores[counted], kind="stable")
    thresholds = scores[counted][falling].astype(np.float64)
    found = np.cumsum(outcomes[counted][falling] == HIT)
    precision = found / np.arange(1, len(found) + 1)
    # Equal scores pass a threshold together.
    last = np.flatnonzero(np.diff(thresholds, append=-np.inf))
    return Curve(thresholds[last], precision[last], found[last] / max(truths, 1))


def curve_over_images(
    images: Iterable[tuple[Float, Float, Float, NDArray[np.bool_]]], *, threshold: float = 0.5
) -> Curve:
    """Precision and recall over all thresholds and images.

    Args:
        images: For each, the boxes (N, 4) and scores (N,) of its detections, its truths (M, 4), and
            which of them (M,) do not count.
        threshold: The least IoU of a match.
    """
    scores, outcomes, truths = [np.empty(0, np.float32)], [np.empty(0, np.int8)], 0
    for boxes, found, faces, ignored in images:
        scores.append(found)
        outcomes.append(match_detections(boxes, found, faces, ignored, threshold=threshold))
        truths += int(np.count_nonzero(~ignored))
    return precision_recall(np.concatenate(scores), np.concatenate(outcomes), truths)


def average_precision(curve: Curve) -> float:
    """Area under the precision-recall curve, precision made monotonic first (PASCAL VOC 2010)."""
    envelope = np.maximum.accumulate(curve.precision[::-1])[::-1]
    return float(np.sum(envelope * np.diff(curve.recall, prepend=0.0)))
