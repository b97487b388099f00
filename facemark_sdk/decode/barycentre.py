"""Barycentre decoding: a map is a distribution; its mean is the landmark, with a covariance.

2D Wasserstein loss paper, equation 6 (GET_BC). ``barycentre`` makes the distribution by a softmax,
for maps trained as such; ``barycentre_sum`` divides the map itself by its sum, for maps that are
the Gaussian's values, as L2 training leaves them.

A landmark's score is the part of the distribution that lies in the square of 5 x 5 cells about
its point, cells on the square's edge counted by the part of them in it: near 1 for a sharp map.

A map is as wide as training made it, not as the landmark is uncertain. ``covariance_scale``, fitted
on validation faces (benchmarks/covariance_calibration.py), makes the one the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from facemark_sdk.decode.decoded import Decoded, Decoder, Floats
from facemark_sdk.decode.heatmap import to_fractions
from facemark_sdk.decode.params import number_param, origin_param, temperature_param

if TYPE_CHECKING:
    from facemark_sdk.spec import ModelSpec

TEMPERATURE = 1.0
"""The Wasserstein paper's softmax is a plain one."""

HALF_SQUARE = 2.5
"""Cells from a point to the edge of the square whose probability is its score."""

COVARIANCE_SCALES = (1e-3, 1e3)
"""From a thirtieth of the map's width to thirty times it."""

Weigh: TypeAlias = Callable[[Floats], Floats]
"""Maps (N, L, H, W) to distributions (N, L, H, W): none below 0, each with sum 1."""


def decode_barycentre(
    outputs: Mapping[str, Floats],
    *,
    weigh: Weigh,
    origin: float,
    covariance_scale: float = 1.0,
) -> Decoded:
    """Points and covariances of the distributions that the maps stand for.

    Args:
        outputs: ``heatmaps`` (N, L, H, W) float32, raw.
        weigh: Turns them into distributions.
        origin: Where in its cell a position lies, in cells.
        covariance_scale: What the maps' covariances are multiplied by.

    Returns:
        Points, scores and covariances, these in squared fractions of the crop.
    """
    maps = outputs["heatmaps"]
    height, width = maps.shape[-2:]
    weights = weigh(maps)
    columns, rows = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
    over_columns, over_rows = weights.sum(axis=-2), weights.sum(axis=-1)
    x, y = over_columns @ columns, over_rows @ rows
    # Distances from the mean, not squares of positions: float32 has too few digits for those.
    dx, dy = columns - x[..., None], rows - y[..., None]
    xx, yy = (over_columns * dx * dx).sum(axis=-1), (over_rows * dy * dy).sum(axis=-1)
    along = weights @ np.stack((dx, _in_square(dx)), axis=-1)  # (N, L, H, 2)
    xy = (along[..., 0] * dy).sum(axis=-1)
    covariances = np.stack((xx, xy, xy, yy), axis=-1).reshape(*x.shape, 2, 2)
    sides: Floats = np.array([width, height], np.float32)
    return Decoded(
        points=to_fractions(np.stack((x, y), axis=-1), maps, origin),
        scores=(along[..., 1] * _in_square(dy)).sum(axis=-1).clip(0.0, 1.0),
        covariances=covariances / (sides[:, None] * sides / np.float32(covariance_scale)),
    )


def softmax(maps: Floats, temperature: float) -> Floats:
    """exp(temperature * map) over its sum, for each of (N, L, H, W) maps."""
    weights: Floats = maps - maps.max(axis=(-2, -1), keepdims=True)
    weights *= np.float32(temperature)
    np.exp(weights, out=weights)
    weights /= weights.sum(axis=(-2, -1), keepdims=True)
    return weights


def positive_part(maps: Floats) -> Floats:
    """max(map, 0) over its sum, for each of (N, L, H, W) maps; uniform where that sum is 0."""
    weights = np.maximum(maps, np.float32(0))
    total = weights.sum(axis=(-2, -1), keepdims=True)
    weights /= np.where(total > 0, total, np.float32(1))
    weights += np.where(total > 0, np.float32(0), np.float32(1 / (maps.shape[-2] * maps.shape[-1])))
    return weights


def _in_square(distances: Floats) -> Floats:
    """Which part of a cell lies in the square, from its distance to the square's middle."""
    return np.clip(np.float32(HALF_SQUARE + 0.5) - np.abs(distances), 0.0, 1.0)


def barycentre_decoder(spec: ModelSpec) -> Decoder:
    """Decoder ``barycentre``; parameters ``origin``, ``temperature``, ``covariance_scale``.

    Raises:
        ModelError: A parameter is out of range.
    """
    weigh = partial(softmax, temperature=temperature_param(spec, TEMPERATURE))
    return _decoder(spec, weigh)


def barycentre_sum_decoder(spec: ModelSpec) -> Decoder:
    """Decoder ``barycentre_sum``; parameters ``origin``, ``covariance_scale``.

    Raises:
        ModelError: A parameter is out of range.
    """
    return _decoder(spec, positive_part)


def covariance_scale_param(spec: ModelSpec) -> float:
    """What the maps' covariances are multiplied by; 1 where none is stated.

    Raises:
        ModelError: It is out of range.
    """
    return number_param(spec, "covariance_scale", 1.0, *COVARIANCE_SCALES)


def _decoder(spec: ModelSpec, weigh: Weigh) -> Decoder:
    return partial(
        decode_barycentre,
        weigh=weigh,
        origin=origin_param(spec),
        covariance_scale=covariance_scale_param(spec),
    )
