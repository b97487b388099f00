"""Pose bins: which faces are turned how far, so that training can see all poses alike often.

Anisotropic paper, section 3.2, after Feng et al. (Wing loss, CVPR 2018): Procrustes alignment, then
the first principal component of the aligned shapes, which is the turn to left or right (52 % of the
variance of HELEN and AFW), cut into K bins of equal width.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BINS = 9
"""K for 300W."""

_ROUNDS = 100
_SETTLED = 1e-10


def aligned_shapes(shapes: NDArray[np.floating]) -> NDArray[np.float64]:
    """Shapes without their place, size and rotation in the image: generalised Procrustes analysis.

    Args:
        shapes: (N, L, 2).

    Returns:
        (N, L, 2), each centred, of size (root of the sum of squares) 1, and rotated, not mirrored,
        to fit the mean of all best.
    """
    centred = shapes.astype(np.float64) - shapes.mean(axis=1, keepdims=True)
    centred /= np.linalg.norm(centred, axis=(1, 2), keepdims=True)
    mean = centred[0]
    for _ in range(_ROUNDS):
        aligned = _rotated(centred, mean)
        new = aligned.mean(axis=0)
        new /= np.linalg.norm(new)
        moved = np.abs(new - mean).max()
        mean = new
        if moved < _SETTLED:
            break
    return aligned


def _rotated(shapes: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shapes (N, L, 2) turned about 0, each to be as near to `target` (L, 2) as it gets."""
    # In the plane the best angle is known: that of the sum of conj(z) w, points as complex numbers.
    z, w = (p[..., 0] + 1j * p[..., 1] for p in (shapes, target))
    turn = (z.conj() * w).sum(axis=-1, keepdims=True)
    turned = z * turn / np.abs(turn)
    return np.stack((turned.real, turned.imag), axis=-1)


def pose_coordinates(shapes: NDArray[np.floating]) -> NDArray[np.float64]:
    """Each shape's coordinate along the first principal component of the aligned shapes.

    Args:
        shapes: (N, L, 2).

    Returns:
        (N,); which side is positive is of no meaning, but always the same for the same shapes.
    """
    aligned = aligned_shapes(shapes).reshape(len(shapes), -1)
    away = aligned - aligned.mean(axis=0)
    component = np.linalg.eigh(away.T @ away)[1][:, -1]
    return away @ component * np.sign(component[np.abs(component).argmax()])


def pose_bins(shapes: NDArray[np.floating], count: int = BINS) -> NDArray[np.intp]:
    """The bin of each shape, of equal widths; some may be empty.

    Args:
        shapes: (N, L, 2).
        count: K.

    Returns:
        (N,) from 0 to K - 1.
    """
    pose = pose_coordinates(shapes)
    low, width = pose.min(), (pose.max() - pose.min()) / count
    if width == 0:
        return np.zeros(len(pose), np.intp)
    return np.minimum((pose - low) / width, count - 1).astype(np.intp)


def mean_of_bin_means(shapes: NDArray[np.floating], bins: NDArray[np.intp]) -> NDArray[np.float64]:
    """The mean (L, 2) over the occupied bins of each one's mean shape."""
    return np.mean(
        [shapes[bins == k].mean(axis=0, dtype=np.float64) for k in np.unique(bins)], axis=0
    )


def undersample(bins: NDArray[np.intp], rng: np.random.Generator) -> NDArray[np.intp]:
    """As many faces from each occupied bin as the emptiest one has, at random, shuffled."""
    members = [np.flatnonzero(bins == k) for k in np.unique(bins)]
    fewest = min(map(len, members))
    return rng.permutation(
        np.concatenate([rng.choice(faces, fewest, replace=False) for faces in members])
    )


def balanced_epoch(bins: NDArray[np.intp], rng: np.random.Generator) -> NDArray[np.intp]:
    """An epoch about as long as one over all faces: one undersampling after the other.

    The paper's epochs are one undersampling each, and it has 10,000 of them; an epoch here costs
    the same with and without balancing.
    """
    first = undersample(bins, rng)
    rest = round(len(bins) / len(first)) - 1
    return np.concatenate([first, *(undersample(bins, rng) for _ in range(rest))])
