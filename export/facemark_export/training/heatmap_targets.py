"""Heatmap targets: landmarks as maps that a network learns, the inverse of `facemark_sdk.decode`.

Points are fractions of the crop's side, what decoders return. Times the side they are positions in
cells, where cell c stands for position c (HIH, HRNet: COMPAT 2.5, 3.3), or c + origin, as
`facemark_sdk.decode.heatmap` says. Maps peak at 1, as in COMPAT; Subpixel's equation 1 divides by
2 pi sigma^2, with which its decoder's tau = 10 is far too soft (docs/reproduction.md).

In torch, not numpy, so that a loss can make its targets on the network's device: whole maps of a
batch would fill the loader's queue.
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import torch
from torch import Tensor

Quantise: TypeAlias = Literal["round", "floor"]

PATCH_SIGMAS = 3.0
"""Where the Gaussian of a whole cell is cut off (COMPAT 2.5; HIH, equations 1 and 3)."""


def continuous_maps(points: Tensor, side: int, sigma: float, *, origin: float = 0.0) -> Tensor:
    """Gaussians about the landmarks themselves, sampled on the cells (Subpixel, equation 3).

    Args:
        points: (N, L, 2); those outside the crop leave only a shoulder.
        side: G, cells a side.
        sigma: In cells.
        origin: Where in its cell a position lies, in cells.

    Returns:
        (N, L, G, G) of the points' dtype.
    """
    return _gaussians(points * side, side, sigma, origin)


def rounded_maps(
    points: Tensor, side: int, sigma: float, *, quantise: Quantise = "round"
) -> Tensor:
    """Gaussians about the landmarks' cells, in a patch of three sigmas.

    ``round`` takes the nearest cell (Subpixel, equations 1 and 2), ``floor`` the one that holds
    the point (HIH's integer maps: equation 1, COMPAT 3.3; HRNet: COMPAT 2.5).

    The patch is COMPAT 2.5's square, 7 x 7 cells at sigma 1 and 10 x 10 at sigma 1.5, where HIH's
    equation has a disc. The published patch at sigma 1.5 peaks one cell too far right or down in
    the first five columns or rows; ours does not.

    Args:
        points: (N, L, 2); those outside the crop go to its border (COMPAT 3.3).
        side: G, cells a side.
        sigma: In cells.
        quantise: How positions become cells.

    Returns:
        (N, L, G, G) of the points' dtype.
    """
    cells = grid_cells(points, side, quantise)
    return _gaussians(cells, side, sigma, patch=PATCH_SIGMAS * sigma)


def decimal_maps(
    points: Tensor,
    side: int,
    inner: int,
    sigma: float,
    *,
    quantise: Quantise = "round",
    hard: bool = False,
) -> Tensor:
    """HIH's decimal maps: where a landmark lies in the cell of `rounded_maps(..., "floor")`.

    A map spans one cell; it has its Gaussian at the place in it times m (HIH, equations 2 and 3).
    With ``round`` that can be cell m, which the map does not have: only the Gaussian's shoulder
    is left, whose highest cell is m - 1 (COMPAT 3.3). The paper's text rounds; its equation 2
    prints the signs of ``floor``.

    Args:
        points: (N, L, 2); those outside the crop have the place nearest to them.
        side: G, cells a side of the integer maps.
        inner: m, cells a side of the decimal maps.
        sigma: In cells of the decimal maps.
        quantise: How places become cells.
        hard: 1 in the map's highest cell and 0 elsewhere (Table VII's hard label).

    Returns:
        (N, L, m, m) of the points' dtype.
    """
    within = points * side - grid_cells(points, side, "floor")
    last = inner if quantise == "round" and not hard else inner - 1
    cells = _quantised(within * inner, quantise).clamp(0, last)
    if hard:
        return _gaussians(cells, inner, sigma, patch=0.0)
    return _gaussians(cells, inner, sigma, patch=PATCH_SIGMAS * sigma)


def full_precision(values: Tensor) -> Tensor:
    """Float32 at least."""
    return values if values.dtype == torch.float64 else values.float()


def grid_cells(points: Tensor, side: int, quantise: Quantise) -> Tensor:
    """The column and row (N, L, 2) of each point, whole numbers from 0 to side - 1."""
    return _quantised(points * side, quantise).clamp(0, side - 1)


def _quantised(positions: Tensor, quantise: Quantise) -> Tensor:
    return positions.round() if quantise == "round" else positions.floor()


def _gaussians(
    centres: Tensor, side: int, sigma: float, origin: float = 0.0, *, patch: float | None = None
) -> Tensor:
    """(N, L, side, side) maps exp(-d^2 / 2 sigma^2) about centres (N, L, 2) in cells.

    With `patch` on each axis only cells from -ceil(patch) to floor(patch) about the centre.
    """
    cells = torch.arange(side, device=centres.device) + origin
    away = cells - centres[..., None]  # (N, L, 2, side)
    values = torch.exp(-0.5 * (away / sigma).square())
    if patch is not None:
        inside = (away >= -math.ceil(patch)) & (away <= math.floor(patch))
        values = values * inside
    across, down = values.unbind(dim=-2)
    return down[..., :, None] * across[..., None, :]
