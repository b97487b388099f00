"""How many faces, or landmarks, are good enough: failure rates, the CED curve and its area.

A face or landmark that was not found has the error infinity: it fails at every threshold.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facemark_sdk.errors import FacemarkError

AUC_INTERVALS = 1000
"""COMPAT 1.7: 1001 thresholds from 0 to the limit."""


def failure_rate(nme: ArrayLike, threshold: float = 0.10) -> float:
    """The share of faces whose NME exceeds a threshold; equal to it is none (COMPAT 2.6).

    At 0.10 that is PIPNet's 1 - share of NME <= 0.10 (COMPAT 1.7).

    Args:
        nme: (N,) one a face (`mean_per_face`).
        threshold: The largest error that is no failure; 0.08 and 0.10 are usual.

    Raises:
        FacemarkError: No face, or errors that are NaN or negative.
    """
    return float((checked_errors(nme, 1) > threshold).mean())


def landmark_failure_rate(errors: ArrayLike, threshold: float = 0.10) -> float:
    """The share of landmarks whose error exceeds a threshold, the mean over all landmarks.

    FR^L of the Wasserstein paper (section 4.3, landmark-wise FR), there at 0.1, 0.15 and 0.2.

    Args:
        errors: (N, L) of `normalised_errors`.
        threshold: The largest error that is no failure.

    Raises:
        FacemarkError: No face, or errors that are NaN or negative.
    """
    return float((checked_errors(errors, 2) > threshold).mean())


def ced(nme: ArrayLike, thresholds: ArrayLike) -> NDArray[np.float64]:
    """The cumulative error distribution: the share of faces with NME <= each threshold.

    Args:
        nme: (N,) one a face.
        thresholds: (T,) fractions.

    Returns:
        (T,) in 0..1.

    Raises:
        FacemarkError: No face, or errors that are NaN or negative.
    """
    rising = np.sort(checked_errors(nme, 1))
    return np.searchsorted(rising, np.asarray(thresholds), side="right") / len(rising)


def auc(nme: ArrayLike, limit: float = 0.10) -> float:
    """The area under the CED curve from 0 to `limit`, over `limit`: 1 when no face errs.

    Simpson's rule at 1001 thresholds; for 0.10 these are 0, 0.0001, ..., 0.1 (COMPAT 1.7).

    Args:
        nme: (N,) one a face.
        limit: The largest threshold.

    Raises:
        FacemarkError: No face, errors that are NaN or negative, or a limit that is not positive.
    """
    thresholds = auc_thresholds(limit)
    return simpson(ced(nme, thresholds), limit / AUC_INTERVALS) / limit


def auc_thresholds(limit: float = 0.10) -> NDArray[np.float64]:
    """The thresholds (1001,) of `auc`.

    Raises:
        FacemarkError: The limit is not positive.
    """
    if not 0 < limit < np.inf:
        raise FacemarkError(f"limit must be a positive number, got {limit}")
    return np.asarray(np.arange(AUC_INTERVALS + 1) * (limit / AUC_INTERVALS), np.float64)


def simpson(values: NDArray[Any], step: float) -> float:
    """The integral of equally spaced values by Simpson's composite rule.

    Args:
        values: (2k + 1,), k at least 1.
        step: The distance between two of them.

    Raises:
        FacemarkError: The number of values is not odd, or less than 3.
    """
    if values.ndim != 1 or len(values) < 3 or len(values) % 2 == 0:
        raise FacemarkError(
            f"Simpson's rule wants an odd number of values, 3 at least, got shape {values.shape}"
        )
    ends = values[0] + values[-1]
    return float(step / 3 * (ends + 4 * values[1::2].sum() + 2 * values[2:-1:2].sum()))


def checked_errors(errors: ArrayLike, dimensions: int) -> NDArray[np.float64]:
    """Errors as float64, if they are such as rates and means can be taken of.

    Raises:
        FacemarkError: Another number of dimensions, no face, errors that are NaN or negative.
    """
    checked = np.asarray(errors, np.float64)
    if checked.ndim != dimensions:
        wanted = "(N,), one NME a face" if dimensions == 1 else "(N, L), one a landmark"
        raise FacemarkError(f"errors must have shape {wanted}, got {checked.shape}")
    if not checked.size:
        raise FacemarkError("there are no faces to say anything of: the set is empty")
    if not (checked >= 0).all():  # NaN fails the comparison too
        raise FacemarkError("errors must be 0 or more and not NaN")
    return checked
