"""The figures of judged faces, and the parts of a test that have figures of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from facemark_sdk.evaluation.annotations import AnnotatedFace
from facemark_sdk.evaluation.judge import Judged
from facemark_sdk.metrics import auc, failure_rate, landmark_failure_rate, point_variance

FAILURES = (0.08, 0.10)
"""COMPAT 2.6."""
LANDMARK_FAILURES = (0.10, 0.15, 0.20)
"""Wasserstein paper, tables 8 and 9."""
AUC_LIMIT = 0.10
"""COMPAT 1.7."""

WFLW_SUBSETS = ("largepose", "expression", "illumination", "makeup", "occlusion", "blur")
"""In the order of the published tables."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What is said of a set of faces.

    Attributes:
        faces: How many.
        missed: How many of them were not found.
        nme_percent: Mean NME, missed faces with the error of a mean face in the photo's middle.
        median_nme_percent: Median of the same.
        failure_percent: By threshold, the share of faces whose NME exceeds it or that were missed.
        auc: Area under the CED curve up to `AUC_LIMIT`, 0..1.
        landmark_failure_percent: By threshold, the share of landmarks whose error exceeds it.
        point_variance: PIPNet's Point-Var, in squared units of the norm.
    """

    faces: int
    missed: int
    nme_percent: float
    median_nme_percent: float
    failure_percent: dict[str, float]
    auc: float
    landmark_failure_percent: dict[str, float]
    point_variance: float


def figures(judged: Judged) -> Figures:
    """The figures of judged faces.

    Raises:
        FacemarkError: There is no face.
    """
    nme, rated = judged.nme, judged.rated_nme
    errors = judged.rated_errors
    return Figures(
        faces=len(judged.faces),
        missed=int(np.count_nonzero(~judged.found)),
        nme_percent=100 * float(nme.mean()),
        median_nme_percent=100 * float(np.median(nme)),
        failure_percent={f"{t:.2f}": 100 * failure_rate(rated, t) for t in FAILURES},
        auc=auc(rated, AUC_LIMIT),
        landmark_failure_percent={
            f"{t:.2f}": 100 * landmark_failure_rate(errors, t) for t in LANDMARK_FAILURES
        },
        point_variance=point_variance(judged.differences),
    )


def parts(
    faces: Sequence[AnnotatedFace],
) -> tuple[dict[str, NDArray[np.bool_]], dict[str, NDArray[np.bool_]]]:
    """Masks (N,) of the sets and of the subsets by name; WFLW's subsets in their usual order."""
    sets = {face.set_name: None for face in faces}
    named = {subset for face in faces for subset in face.subsets}
    ordered = [name for name in WFLW_SUBSETS if name in named]
    ordered += sorted(named.difference(ordered))
    return (
        {name: np.array([face.set_name == name for face in faces]) for name in sets},
        {name: np.array([name in face.subsets for face in faces]) for name in ordered},
    )
