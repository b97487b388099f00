"""PIPNet decoding: pixel-in-pixel regression with the neighbour regression module (NRM).

PIPNet paper section 3.1-3.2; exact conventions of the published code from COMPAT 1.3-1.4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facemark_sdk.errors import ModelError
from facemark_sdk.layouts import get_layout

if TYPE_CHECKING:
    from facemark_sdk.spec import ModelSpec

OUTPUT_NAMES = ("cls", "x", "y", "nb_x", "nb_y")

Floats = NDArray[np.float32]


def nearest_neighbours(mean_face: ArrayLike, count: int) -> NDArray[np.intp]:
    """The `count` landmarks nearest to each landmark on the mean face (COMPAT 1.3).

    Args:
        mean_face: (L, 2) points; only ratios of distances matter.
        count: C, the number of neighbours, 0 <= C < L.

    Returns:
        (L, C) landmark indices, nearest first.
    """
    points = np.asarray(mean_face, np.float64)
    distances = ((points[:, None] - points[None]) ** 2).sum(-1)
    np.fill_diagonal(distances, -1.0)  # a landmark is its own first entry, which is dropped
    return np.argsort(distances, axis=1, kind="stable")[:, 1 : count + 1]


def merge_weights(neighbours: NDArray[np.intp]) -> tuple[Floats, Floats]:
    """How each landmark averages its own prediction with its neighbours' opinions.

    The published code pads every landmark's list of opinions cyclically to the longest
    list's length M, so opinions do not weigh the same: in a list of n, the first M mod n
    count ceil(M / n) times, the rest floor(M / n) times, each 1 / (M + 1) (COMPAT 1.4).
    A landmark that nobody names as a neighbour keeps its own prediction.

    Args:
        neighbours: (L, C) indices from `nearest_neighbours`.

    Returns:
        own: (L,) weight of the own prediction.
        others: (L, L * C) weight of opinion i * C + j (landmark i about its j-th neighbour).
    """
    landmarks, count = neighbours.shape
    opinions = [np.flatnonzero(neighbours.ravel() == t) for t in range(landmarks)]
    longest = max(len(pairs) for pairs in opinions) if count else 0
    own = np.ones(landmarks, np.float32)
    others = np.zeros((landmarks, landmarks * count), np.float32)
    for t, pairs in enumerate(opinions):
        if len(pairs):
            own[t] = 1.0 / (longest + 1)
            np.add.at(others[t], np.resize(pairs, longest), 1.0 / (longest + 1))
    return own, others


def decode_pip(outputs: Mapping[str, Floats], own: Floats, others: Floats) -> tuple[Floats, Floats]:
    """Points from PIPNet's five maps, for a whole batch at once (COMPAT 1.4).

    Args:
        outputs: ``cls``, ``x``, ``y`` of shape (N, L, G, G) and ``nb_x``, ``nb_y`` of shape
            (N, L * C, G, G), float32, raw. Without neighbours (C = 0) the last two may be absent.
        own: (L,) and
        others: (L, L * C) from `merge_weights`.

    Returns:
        points: (N, L, 2) float32 as fractions of the crop side; may lie outside 0..1.
        scores: (N, L) float32, the score map's maximum clipped to 0..1.
    """
    scores = outputs["cls"]
    faces, landmarks, rows, columns = scores.shape
    cells = rows * columns
    scores = scores.reshape(faces * landmarks, cells)
    best = scores.argmax(axis=1)
    every = np.arange(faces * landmarks)
    corner = np.stack((best % columns, best // columns), axis=-1).astype(np.float32)

    def picked(name: str) -> Floats:
        """The map's value at each landmark's best cell: (N * L, maps per landmark)."""
        maps = outputs[name]
        values = maps.reshape(faces * landmarks, maps.shape[1] // landmarks, cells)
        return values[every, :, best]

    offsets = np.concatenate((picked("x"), picked("y")), axis=1)
    predictions = (corner + offsets).reshape(faces, landmarks, 2)
    points = predictions * own[None, :, None]
    if others.shape[1]:
        offsets = np.stack((picked("nb_x"), picked("nb_y")), axis=-1)
        opinions = (corner[:, None] + offsets).reshape(faces, others.shape[1], 2)
        points += others @ opinions
    points /= np.array([columns, rows], np.float32)
    return points, np.clip(scores[every, best], 0.0, 1.0).reshape(faces, landmarks)


def pip_decoder(
    spec: ModelSpec,
) -> Callable[[Mapping[str, Floats]], tuple[Floats, Floats]]:
    """The decoder of a PIPNet model, from its spec's ``neighbours`` table ((L, C) indices).

    Raises:
        ModelError: The table is missing or malformed.
    """
    try:
        neighbours = np.asarray(spec.decoder_params["neighbours"], np.intp)
    except (KeyError, ValueError, TypeError) as error:
        raise ModelError(f"model {spec.name!r} has no usable neighbours table: {error}") from None
    landmarks = get_layout(spec.layout).num_points
    if (
        neighbours.ndim != 2
        or len(neighbours) != landmarks
        or ((neighbours < 0) | (neighbours >= landmarks)).any()
    ):
        raise ModelError(
            f"model {spec.name!r}: the neighbours table of layout {spec.layout!r} must be "
            f"({landmarks}, C) landmark indices, got shape {neighbours.shape}"
        )
    own, others = merge_weights(neighbours)
    return lambda outputs: decode_pip(outputs, own, others)
