"""Accuracy of landmarks: errors normalised by the inter-ocular distance."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from facemark_sdk.errors import LayoutError
from facemark_sdk.layouts import Layout


def normalised_errors(
    points: NDArray[np.float32], truth: NDArray[np.float32], layout: Layout
) -> NDArray[np.float32]:
    """Each landmark's distance to the truth over the distance of the outer eye corners.

    Args:
        points: (N, L, 2) predictions.
        truth: (N, L, 2) annotations in the same coordinates.
        layout: Names the pair of eye corners (36-45 for ibug68).

    Returns:
        (N, L) float32; a face's NME is its row's mean, a failure one whose NME exceeds 0.10.

    Raises:
        LayoutError: The layout names no eye corners.
    """
    if layout.eye_corners is None:
        raise LayoutError(
            f"layout {layout.name!r} has no eye corners to normalise errors by; "
            "give the layout that says what the points are (such as 'ibug68')"
        )
    a, b = layout.eye_corners
    distance = np.linalg.norm(truth[:, a] - truth[:, b], axis=-1)
    return np.asarray(np.linalg.norm(points - truth, axis=-1) / distance[:, None], np.float32)
