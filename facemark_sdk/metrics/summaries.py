"""Mean errors of a face, of a landmark, of a part of the face; and their variance."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facemark_sdk.errors import FacemarkError, LayoutError
from facemark_sdk.layouts import Layout
from facemark_sdk.metrics.rates import checked_errors


def mean_per_face(errors: ArrayLike) -> NDArray[np.float64]:
    """The NME of each face (N,): the mean over its landmarks (Wasserstein, equation 1).

    Args:
        errors: (N, L) of `normalised_errors`.

    Raises:
        FacemarkError: No face, or errors that are NaN or negative.
    """
    return np.asarray(checked_errors(errors, 2).mean(axis=1))


def landmark_means(errors: ArrayLike) -> NDArray[np.float64]:
    """The mean error of each landmark (L,) over all faces.

    Args:
        errors: (N, L) of `normalised_errors`.

    Raises:
        FacemarkError: No face, or errors that are NaN or negative.
    """
    return np.asarray(checked_errors(errors, 2).mean(axis=0))


def group_means(errors: ArrayLike, layout: Layout) -> dict[str, float]:
    """The mean error of each part of the face that the layout names, over all faces.

    Args:
        errors: (N, L) of `normalised_errors`.
        layout: What the L points are; a layout without groups gives an empty result.

    Raises:
        LayoutError: The layout has another number of points.
        FacemarkError: No face, or errors that are NaN or negative.
    """
    means = landmark_means(errors)
    if len(means) != layout.num_points:
        raise LayoutError(
            f"errors are of {len(means)} landmarks, layout {layout.name!r} has {layout.num_points}"
        )
    return {name: float(means[list(points)].mean()) for name, points in layout.groups.items()}


def point_variance(differences: NDArray[Any]) -> float:
    """Point-Var of PIPNet 4.3.2: how much the errors within a face differ from one another.

    "The variance of the difference between the ground-truth and the predictions for each test
    image, then average them over a test set." The paper leaves open in which unit, and how x and y
    go together; here differences are normalised as the NME's are, and the variance of a face is
    that of its difference vectors, the mean of |d - mean d|^2 over its landmarks: a face that is
    shifted as a whole has none.

    Args:
        differences: (N, L, 2) of `normalised_differences`.

    Returns:
        The mean over the faces, in squared units of the normaliser.

    Raises:
        FacemarkError: Another shape, no face, or values that are not finite.
    """
    differences = np.asarray(differences, np.float64)
    if differences.ndim != 3 or differences.shape[2] != 2 or not differences.size:
        raise FacemarkError(
            f"differences must have shape (N, L, 2) with a face at least, got {differences.shape}"
        )
    if not np.isfinite(differences).all():
        raise FacemarkError("differences must be finite")
    return float(differences.var(axis=1).sum(axis=1).mean())
