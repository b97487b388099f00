"""How good landmarks are: errors over a distance of the face, and what is said of many of them.

Errors are fractions (0.05 is 5 %), float64: thresholds are compared strictly, as the published
implementations do (COMPAT 1.7, 2.6, 3.3).
"""

from facemark_sdk.metrics.normalise import (
    NORMALISERS,
    Normaliser,
    normalised_differences,
    normalised_errors,
    scales,
)
from facemark_sdk.metrics.rates import (
    auc,
    auc_thresholds,
    ced,
    failure_rate,
    landmark_failure_rate,
    simpson,
)
from facemark_sdk.metrics.summaries import (
    group_means,
    landmark_means,
    mean_per_face,
    point_variance,
)

__all__ = [
    "NORMALISERS",
    "Normaliser",
    "auc",
    "auc_thresholds",
    "ced",
    "failure_rate",
    "group_means",
    "landmark_failure_rate",
    "landmark_means",
    "mean_per_face",
    "normalised_differences",
    "normalised_errors",
    "point_variance",
    "scales",
    "simpson",
]
