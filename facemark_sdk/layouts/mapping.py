"""Landmarks of one layout as landmarks of another.

A mapping weighs every target point's x and y separately: the published 98 to 68 mapping takes
the two from different points.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from functools import cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from facemark_sdk.errors import LayoutError
from facemark_sdk.layouts.known import get_layout

Row = dict[int, float]
"""One coordinate of one target point: source index to weight."""


def _mean(*indices: int) -> Row:
    return {i: 1.0 / len(indices) for i in indices}


def _points(*indices: int) -> list[Row]:
    return [_mean(i) for i in indices]


def _towards(corner: int, middle: int) -> Row:
    # As published. The weights sum to 0.999, so the point lies 0.1 % of its coordinate nearer to
    # the origin than a true blend would: 1 px at x = 1000.
    return {corner: 0.666, middle: 0.333}


def _wflw98_to_ibug68() -> tuple[list[Row], list[Row]]:
    """COMPAT 1.6, last paragraph."""
    jaw = _points(*range(0, 33, 2))
    eyes = [
        *_points(60),
        *(_towards(61, 62), _towards(63, 62)),
        *_points(64),
        *(_towards(65, 66), _towards(67, 66)),
        *_points(68),
        *(_towards(69, 70), _towards(71, 70)),
        *_points(72),
        *(_towards(73, 74), _towards(75, 74)),
    ]
    nose_on = [*_points(*range(51, 60)), *eyes, *_points(*range(76, 96))]
    # Brows: x of the upper edge, y halfway between the two edges.
    brows_x = _points(*range(33, 38), *range(42, 47))
    brows_y = [
        *_points(33),
        *(_mean(34, 41), _mean(35, 40), _mean(36, 39), _mean(37, 38)),
        *(_mean(42, 50), _mean(43, 49), _mean(44, 48), _mean(45, 47)),
        *_points(46),
    ]
    return [*jaw, *brows_x, *nose_on], [*jaw, *brows_y, *nose_on]


def _means(*points: int | Iterable[int]) -> tuple[list[Row], list[Row]]:
    """For each target point the source point, or the several whose mean it is."""
    rows = [_mean(*([point] if isinstance(point, int) else point)) for point in points]
    return rows, rows


_DIRECT: dict[tuple[str, str], tuple[list[Row], list[Row]]] = {
    ("wflw98", "ibug68"): _wflw98_to_ibug68(),
    # The points in common in the Wasserstein paper's protocols (section 4.3: COFW to AFLW "with 19
    # landmarks"; 7.1: those of the 68 that are AFLW's). It has no table: names decide. A brow's
    # middle is between its edges, the mouth's between the lips, an eye's centre amid the lids.
    ("ibug68", "aflw19"): _means(
        *(17, 19, 21, 22, 24, 26),
        *(36, range(36, 42), 39, 42, range(42, 48), 45),
        *(31, 30, 35, 48, (62, 66), 54, 8),
    ),
    ("cofw29", "aflw19"): _means(
        *(0, (4, 5), 2, 3, (6, 7), 1),
        *(8, 16, 10, 11, 17, 9),
        *(18, 20, 19, 22, (25, 26), 23, 28),
    ),
    # Pupils or eye centres are points of these layouts.
    ("aflw19", "kps5"): _means(7, 10, 13, 15, 17),
    ("lapa106", "kps5"): _means(104, 105, 54, 84, 90),
}


def mapping_weights(source: str, target: str) -> NDArray[np.float32]:
    """Weights that turn the S points of `source` into the T points of `target`.

    A mapping that is not defined directly goes through others, by the fewest steps.

    Returns:
        (2, T, S) float32, read-only: target x = ``weights[0] @ x``, target y = ``weights[1] @ y``.

    Raises:
        LayoutError: A layout is unknown or no mapping leads from one to the other.
    """
    return _mapping_weights(get_layout(source).name, get_layout(target).name)


def convert(points: NDArray[np.float32], source: str, target: str) -> NDArray[np.float32]:
    """Points (..., S, 2) of layout `source` as points (..., T, 2) of layout `target`.

    Raises:
        LayoutError: No mapping is defined, or the number of points is not that of `source`.
    """
    weights = mapping_weights(source, target)
    count = weights.shape[-1]
    points = np.asarray(points)
    if points.ndim < 2 or points.shape[-2:] != (count, 2):
        raise LayoutError(
            f"points of layout {source!r} must have shape (..., {count}, 2), got {points.shape}"
        )
    x, y = (points[..., axis] @ weights[axis].T for axis in (0, 1))
    return np.stack([x, y], axis=-1).astype(np.float32)


@cache
def _mapping_weights(source: str, target: str) -> NDArray[np.float32]:
    paths = _paths_from(source)
    if target not in paths:
        raise LayoutError(
            f"no mapping from layout {source!r} to {target!r}; "
            f"{source!r} maps to: {', '.join(sorted(paths.keys() - {source})) or 'nothing'}"
        )
    weights = np.stack([np.eye(get_layout(source).num_points)] * 2)
    for step in pairwise(paths[target]):
        weights = _direct_weights(*step) @ weights
    result = weights.astype(np.float32)
    result.setflags(write=False)
    return result


def _paths_from(source: str) -> dict[str, list[str]]:
    """The shortest chain of layouts from `source` to each that can be reached, by breadth."""
    paths = {source: [source]}
    queue = deque([source])
    while queue:
        here = queue.popleft()
        for start, to in _DIRECT:
            if start == here and to not in paths:
                paths[to] = [*paths[here], to]
                queue.append(to)
    return paths


def _direct_weights(source: str, target: str) -> NDArray[np.float64]:
    """(2, T, S) weights of one defined mapping."""
    weights = np.zeros((2, get_layout(target).num_points, get_layout(source).num_points))
    for axis, rows in enumerate(_DIRECT[source, target]):
        for t, row in enumerate(rows):
            weights[axis, t, list(row)] = list(row.values())
    return weights
