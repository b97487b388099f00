"""Landmark layouts and the mappings between them."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from facemark_sdk.errors import LayoutError
from facemark_sdk.layouts.ibug68 import IBUG68
from facemark_sdk.layouts.kps5 import KPS5
from facemark_sdk.layouts.layout import Layout

LAYOUTS: dict[str, Layout] = {layout.name: layout for layout in (KPS5, IBUG68)}

# Each target point as the mean of source points: eye centres are the means of the six lid points.
_MEANS: dict[tuple[str, str], tuple[tuple[int, ...], ...]] = {
    ("ibug68", "kps5"): (tuple(range(36, 42)), tuple(range(42, 48)), (30,), (48,), (54,)),
}


def get_layout(name: str) -> Layout:
    """The layout of this name.

    Raises:
        LayoutError: No layout has this name.
    """
    try:
        return LAYOUTS[name]
    except (KeyError, TypeError):
        raise LayoutError(
            f"unknown layout {name!r}; known layouts: {', '.join(sorted(LAYOUTS))}"
        ) from None


def mapping_matrix(source: str, target: str) -> NDArray[np.float32]:
    """(T, S) weights that turn the S points of `source` into the T points of `target`.

    Raises:
        LayoutError: A layout is unknown or no mapping is defined.
    """
    return _mapping_matrix(get_layout(source).name, get_layout(target).name)


@cache
def _mapping_matrix(source: str, target: str) -> NDArray[np.float32]:
    source_layout, target_layout = get_layout(source), get_layout(target)
    if source == target:
        return np.eye(source_layout.num_points, dtype=np.float32)
    means = _MEANS.get((source, target))
    if means is None:
        targets = sorted(to for start, to in _MEANS if start == source)
        raise LayoutError(
            f"no mapping from layout {source!r} to {target!r}; "
            f"{source!r} maps to: {', '.join(targets) or 'nothing'}"
        )
    weights = np.zeros((target_layout.num_points, source_layout.num_points), np.float32)
    for row, indices in enumerate(means):
        weights[row, list(indices)] = 1.0 / len(indices)
    weights.setflags(write=False)
    return weights


def convert(points: NDArray[np.float32], source: str, target: str) -> NDArray[np.float32]:
    """Points (..., S, 2) of layout `source` as points (..., T, 2) of layout `target`.

    Raises:
        LayoutError: No mapping is defined, or the number of points is not that of `source`.
    """
    weights = mapping_matrix(source, target)
    if points.ndim < 2 or points.shape[-2:] != (weights.shape[1], 2):
        raise LayoutError(
            f"points of layout {source!r} must have shape (..., {weights.shape[1]}, 2), "
            f"got {points.shape}"
        )
    return np.asarray(weights @ points, dtype=np.float32)


__all__ = ["LAYOUTS", "Layout", "convert", "get_layout", "mapping_matrix"]
