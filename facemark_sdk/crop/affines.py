"""From crop units back to image pixels, with points and their covariances."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Affines: TypeAlias = NDArray[np.float64]
"""(N, 2, 3): for each face the matrix [A | b] that maps a point u of the crop to A u + b in the
image. (N, 2, 4) holds b as two addends, which are added one after the other: float64 rounds sums,
and a position that is cut to whole pixels shows in which order they were made."""


def to_image(
    points: NDArray[Any], affines: Affines, *, integer: bool = False
) -> NDArray[np.float32]:
    """Points in crop units as points in image pixels.

    Args:
        points: (N, L, 2) in crop units.
        affines: (N, 2, 3) or (N, 2, 4), from `cut`.
        integer: The published HRNet code's whole pixels (COMPAT 2.3), trunc(A (u - 1) + b) + 1:
            it counts from 1 in the crop and in the image; the affine counts from 0.

    Returns:
        (N, L, 2) float32.
    """
    mapped = (points - 1 if integer else points) @ affines[:, :, :2].transpose(0, 2, 1)
    for column in range(2, affines.shape[2]):
        mapped = mapped + affines[:, None, :, column]
    if integer:
        mapped = np.trunc(mapped) + 1
    return mapped.astype(np.float32)


def covariances_to_image(spreads: NDArray[np.float32], affines: Affines) -> NDArray[np.float32]:
    """Covariances (N, L, 2, 2) of points in crop units as those of the points in image pixels."""
    linear = affines[:, None, :, :2]
    return (linear @ spreads @ linear.transpose(0, 1, 3, 2)).astype(np.float32)
