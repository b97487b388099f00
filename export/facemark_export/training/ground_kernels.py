"""Log-sum-exp over a ground cost: the one expensive step of a Sinkhorn iteration.

A kernel takes logarithms a (M, H, W) and gives, for every cell x of every map,
log sum_y exp(a(y) - c(x, y) / epsilon), c the cost of moving mass from cell y to cell x.

* `EuclideanKernel`, c = |x - y|, Wasserstein paper equation 4. exp(-c / epsilon) is one
  (H W) x (H W) matrix that all maps share, so that the step is one matrix product. An FFT would
  need fewer operations, but its errors are as large as float32's smallest digit of the *largest*
  sum, while sums a map's width apart differ by exp(64 / epsilon); `benchmarks/wasserstein_cost.py`
  shows what is left of it. A matrix product only adds positive numbers, which keeps every sum's
  own digits.
* `SquaredKernel`, c = |x - y|^2, separable: rows, then columns.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

_SMALLEST_EXPONENT = {torch.float32: 90.0, torch.float64: 700.0}
"""exp(-x) is above 0 up to here, below float32's normal numbers but to six digits."""
_LEAST = -60.0
"""A term of exp of this beside one of 1 is lost in the digits of any sum of a row."""
_EMPTY = -1e30
"""Stands for the logarithm of 0: finite, so that no difference of two is NaN."""
_KEPT = 8
"""Kernels that stay in memory; a 64 x 64 one takes 64 MiB in float32."""


class GroundKernel(Protocol):
    """What a Sinkhorn iteration needs of a cost."""

    epsilon: float

    def log_sums(self, logs: Tensor) -> Tensor:
        """(M, H, W) to (M, H, W), as the module says; logs may be minus infinity."""


class EuclideanKernel:
    """Of the distance between cells.

    No sum vanishes, however small epsilon is: cells y come in tiles so small that exp(-c / epsilon)
    over a tile, divided by its largest value, is a normal number, and each tile's part of the sum
    is scaled on its own. At epsilon 1 a 64 x 64 map is one tile in float32.

    Args:
        height: H.
        width: W.
        epsilon: In the unit of `spacing`.
        spacing: Distance between neighbouring cells.
        dtype: float32 or float64.
        device: Where the matrix lies.
    """

    def __init__(
        self,
        height: int,
        width: int,
        epsilon: float,
        spacing: float,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.epsilon = epsilon
        reach = _SMALLEST_EXPONENT[dtype]
        self.tile = _tile_shape(height, width, reach * epsilon / spacing)
        self.lift = 0.8 * reach  # exp of it, times a tile's cells, is not infinite yet
        # No sum is below exp(lift - reach). What no sum's digits can show is left out: its products
        # would be denormal numbers, with which a processor is several times as slow.
        self.lost = math.exp(self.lift - reach) * torch.finfo(dtype).eps / (height * width)
        rows, columns = (torch.arange(n, dtype=dtype, device=device) for n in (height, width))
        cells = spacing * torch.cartesian_prod(rows, columns)
        tiles = self._tiles(cells.T.reshape(2, height, width)).transpose(1, 2)
        costs = torch.cdist(tiles, cells, compute_mode="donot_use_mm_for_euclid_dist")
        costs /= epsilon
        self.nearest = costs.amin(1, keepdim=True)  # (tiles, 1, H W)
        self.kernel = costs.sub_(self.nearest).neg_().exp_()  # (tiles, cells of one, H W)

    def log_sums(self, logs: Tensor) -> Tensor:
        """See `GroundKernel`."""
        tiles = self._tiles(logs.clamp_min(_EMPTY))
        top = tiles.amax(2, keepdim=True) - self.lift
        exponents = (tiles - top).clamp_min_(math.log(self.lost) - 1)  # exp is slow below its range
        masses = F.threshold(exponents.exp_(), self.lost, 0.0)
        sums = torch.bmm(masses, self.kernel).log() + (top - self.nearest)
        whole = sums[0] if len(sums) == 1 else torch.logsumexp(sums, 0)
        return whole.view_as(logs)

    def _tiles(self, maps: Tensor) -> Tensor:
        """(M, H, W) to (tiles, M, cells of one)."""
        rows, columns = self.tile
        split = maps.unflatten(2, (-1, columns)).unflatten(1, (-1, rows))
        return split.permute(1, 3, 0, 2, 4).flatten(0, 1).flatten(2)


class SquaredKernel:
    """Of the squared distance between cells: a log-sum-exp over each row, then over each column.

    A row's exponents span thousands, which no matrix product in float32 would survive. Arguments as
    of `EuclideanKernel`, epsilon in squared units.
    """

    def __init__(
        self,
        height: int,
        width: int,
        epsilon: float,
        spacing: float,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.epsilon = epsilon
        self.down, self.across = (
            (spacing * (cells - cells[:, None])).square() / epsilon
            for cells in (torch.arange(n, dtype=dtype, device=device) for n in (height, width))
        )

    def log_sums(self, logs: Tensor) -> Tensor:
        """See `GroundKernel`."""
        rows = _log_sums_along_rows(logs.clamp_min(_EMPTY), self.across)
        return _log_sums_along_rows(rows.mT, self.down).mT


def _log_sums_along_rows(logs: Tensor, costs: Tensor) -> Tensor:
    """(M, H, W), costs (W, W) symmetric; a cell y at a time, for all at once are W times the maps.

    Twice, for the largest term and for the sum. `torch.logsumexp` takes five times as long where
    terms underflow, as nearly all do here.
    """
    top = torch.full_like(logs, -torch.inf)
    for column, cost in zip(logs.split(1, -1), costs, strict=True):
        torch.maximum(top, column - cost, out=top)
    total = torch.zeros_like(logs)
    for column, cost in zip(logs.split(1, -1), costs, strict=True):
        total += (column - cost).sub_(top).clamp_min_(_LEAST).exp_()
    return total.log_().add_(top)


@lru_cache(maxsize=_KEPT)
def ground_kernel(
    height: int,
    width: int,
    epsilon: float,
    spacing: float,
    dtype: torch.dtype,
    device: torch.device,
    squared: bool,
) -> GroundKernel:
    """The kernel of a cost, made once; arguments as of `EuclideanKernel`."""
    kind = SquaredKernel if squared else EuclideanKernel
    with torch.inference_mode(False):  # it may be kept for training
        return kind(height, width, epsilon, spacing, dtype, device)


def _tile_shape(height: int, width: int, longest: float) -> tuple[int, int]:
    """The largest tile, a whole number of which makes the map, with a diagonal within `longest`."""
    shapes = [
        (rows, columns)
        for rows in range(1, height + 1)
        for columns in range(1, width + 1)
        if height % rows == 0
        and width % columns == 0
        and math.hypot(rows - 1, columns - 1) <= longest
    ]
    return max(shapes, key=math.prod)
