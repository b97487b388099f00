"""PIPNet decoding: pixel-in-pixel regression with the neighbour regression module (NRM).

PIPNet paper section 3.1-3.2; exact conventions of the published code from COMPAT 1.3-1.4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facemark_sdk.decode.decoded import Decoded, Decoder, Floats, output_of
from facemark_sdk.decode.peaks import find_peaks, first_cells
from facemark_sdk.errors import ModelError
from facemark_sdk.layouts import get_layout

if TYPE_CHECKING:
    from facemark_sdk.spec import ModelSpec

OUTPUT_NAMES = ("cls", "x", "y", "nb_x", "nb_y")


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


def padded_opinions(neighbours: NDArray[np.intp]) -> list[list[int]]:
    """Whose opinions each landmark's position is averaged with (COMPAT 1.3).

    The published code pads every landmark's list of opinions cyclically to the longest list's
    length M, so that opinions do not weigh the same: in a list of n, the first M mod n stand
    there ceil(M / n) times, the rest floor(M / n) times.

    Args:
        neighbours: (L, C) indices from `nearest_neighbours`.

    Returns:
        For each landmark M numbers i * C + j: what landmark i says of its j-th neighbour. A
        landmark that nobody names as a neighbour has none; the published code cannot run then.
    """
    landmarks, count = neighbours.shape
    named = [np.flatnonzero(neighbours.ravel() == t) for t in range(landmarks)]
    longest = max(map(len, named)) if count else 0
    return [np.resize(pairs, longest).tolist() if len(pairs) else [] for pairs in named]


@dataclass(frozen=True, slots=True, eq=False)
class Merging:
    """How each landmark averages its own prediction with the opinions about it.

    Attributes:
        own: (L,) weight of the own prediction.
        pairs: (M, L) numbers i * C + j of opinions; lists shorter than the longest are filled up
            with 0.
        weights: (M, L) float32 of these opinions, 0 where filled up.
        count: C, the number of neighbours.
    """

    own: Floats
    pairs: NDArray[np.intp]
    weights: Floats
    count: int

    @property
    def others(self) -> Floats:
        """(L, L * C): the weight of every opinion about every landmark, most of them 0."""
        landmarks = len(self.own)
        table = np.zeros((landmarks, landmarks * self.count), np.float32)
        np.add.at(table, (np.arange(landmarks), self.pairs), self.weights)
        return table


def merge_opinions(opinions: Sequence[Sequence[int]], count: int) -> Merging:
    """Each landmark's mean of its own prediction and M opinions, each 1 / (M + 1).

    A landmark without opinions keeps its own prediction (COMPAT 1.4).

    Args:
        opinions: L lists from `padded_opinions`.
        count: C, the number of neighbours.
    """
    landmarks = len(opinions)
    longest = max(map(len, opinions), default=0)
    own = np.ones(landmarks, np.float32)
    pairs = np.zeros((longest, landmarks), np.intp)
    weights = np.zeros((longest, landmarks), np.float32)
    for t, numbers in enumerate(opinions):
        own[t] = 1.0 / (len(numbers) + 1)
        pairs[: len(numbers), t] = numbers
        weights[: len(numbers), t] = own[t]
    return Merging(own, pairs, weights, count)


def decode_pip(outputs: Mapping[str, Floats], merging: Merging) -> Decoded:
    """Points from PIPNet's five maps, for a whole batch at once (COMPAT 1.4).

    Args:
        outputs: ``cls``, ``x``, ``y`` of shape (N, L, G, G) and ``nb_x``, ``nb_y`` of shape
            (N, L * C, G, G), float32, raw. Without neighbours (C = 0) the last two may be absent.
        merging: From `merge_opinions`.

    Returns:
        Points and scores; a score is the score map's maximum clipped to 0..1.
    """
    maps = outputs["cls"]
    faces, landmarks, rows, columns = maps.shape
    peaks = find_peaks(maps)
    corner = np.empty((2, faces, landmarks), np.float32)
    corner[0], corner[1] = peaks.columns, peaks.rows
    # Flat indices: what is read lies far apart, and every pass over it takes its time.
    at = peaks.cell + first_cells(maps.shape)
    predictions = np.empty_like(corner)
    for axis, name in enumerate(("x", "y")):
        predictions[axis] = output_of(outputs, name, maps.shape).take(at)
    predictions += corner
    points = predictions * merging.own
    if merging.count:
        shape = faces, landmarks * merging.count, rows, columns
        at = first_cells(shape).reshape(faces, landmarks, merging.count) + peaks.cell[..., None]
        opinions = np.empty((2, *at.shape), np.float32)
        for axis, name in enumerate(("nb_x", "nb_y")):
            opinions[axis] = output_of(outputs, name, shape).take(at)
        opinions += corner[..., None]
        # No matrix product: BLAS wakes threads for it, which then take the network's cores.
        about = opinions.reshape(2 * faces, shape[1]).take(merging.pairs, axis=1)
        points += np.einsum("nml,ml->nl", about, merging.weights).reshape(points.shape)
    fractions = np.empty((faces, landmarks, 2), np.float32)
    np.divide(points[0], columns, out=fractions[..., 0])
    np.divide(points[1], rows, out=fractions[..., 1])
    return Decoded(fractions, peaks.scores)


def pip_decoder(spec: ModelSpec) -> Decoder:
    """The decoder of a PIPNet model, from its spec's tables.

    ``neighbours`` holds (L, C) indices, ``opinions`` what `padded_opinions` makes of them; files
    without the second are read as if it were there.

    Raises:
        ModelError: A table is missing or malformed.
    """
    return partial(decode_pip, merging=pip_merging(spec))


def pip_merging(spec: ModelSpec) -> Merging:
    """`merge_opinions` of a model's tables.

    Raises:
        ModelError: A table is missing or malformed.
    """
    try:
        neighbours = np.asarray(spec.decoder_params["neighbours"], np.intp)
    except (KeyError, ValueError, TypeError, OverflowError) as error:
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
    opinions = spec.decoder_params.get("opinions")
    if opinions is None:
        opinions = padded_opinions(neighbours)
    flat = neighbours.ravel().tolist()
    if not (
        isinstance(opinions, list)
        and len(opinions) == landmarks
        and all(isinstance(pairs, list) for pairs in opinions)
        and all(
            type(pair) is int and 0 <= pair < len(flat) and flat[pair] == t
            for t, pairs in enumerate(opinions)
            for pair in pairs
        )
    ):
        raise ModelError(
            f"model {spec.name!r}: the opinions table must list, for each of {landmarks} "
            "landmarks, numbers of pairs whose neighbour it is"
        )
    return merge_opinions(opinions, neighbours.shape[1])
