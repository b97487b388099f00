"""Training HIH: integer maps and what refines them, decimal maps or the appendix's offsets.

All losses are means over the elements, as the paper's (section IV-A3). They take what the network
gives in any floating type and points (N, L, 2), fractions of the crop's side, whose type they
compute in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from facemark_export.networks.stages import last_stage, stages
from facemark_export.training.heatmap_targets import decimal_maps, grid_cells, rounded_maps
from facemark_export.training.landmark_task import LandmarkTask

DecimalLoss: TypeAlias = Literal["csc", "mse"]
Labels: TypeAlias = Literal["soft", "hard"]
OffsetLoss: TypeAlias = Callable[[Tensor, Tensor, int], Tensor]
"""What the offset head gives, points, and the integer maps' side to a scalar."""

LOGIT_START = 1.0
"""Where the logits of decimal maps start. CSC leaves their mean open, so that it stays there, and
the decoder takes a map without a positive value for cell (0, 0) (COMPAT 3.2)."""


def integer_loss(heatmaps: Tensor, points: Tensor, sigma: float) -> Tensor:
    """Mean square difference to the integer maps of every stage (equation 6; COMPAT 3.3).

    Args:
        heatmaps: (N, L, G, G) or (N, stages, L, G, G).
        points: (N, L, 2).
        sigma: In cells.
    """
    truth = rounded_maps(points, heatmaps.shape[-1], sigma, quantise="floor")
    each = [F.mse_loss(maps.to(truth.dtype), truth) for maps in stages(heatmaps)]
    return torch.stack(each).mean()


def decimal_loss(
    offsets: Tensor, points: Tensor, side: int, *, loss: DecimalLoss, labels: Labels, sigma: float
) -> Tensor:
    """Of decimal maps: mean square difference, or coordinate soft-classification (equation 5).

    CSC is KL(p*, q*) over the number of all cells, where q* is the softmax of the network's map
    and p* that of the target. A hard label is 1 in one cell (Table VII) and is p* itself: through
    a softmax it would be all but uniform, and hardly another label than the soft one of sigma
    0.5, which Table X finds little worse than that of sigma 1.

    Args:
        offsets: (N, L, m, m) or (N, 1, L, m, m); logits for CSC.
        points: (N, L, 2).
        side: G, cells a side of the integer maps.
        loss: Which.
        labels: Which.
        sigma: Of soft labels, in cells of the decimal maps.
    """
    offsets = last_stage(offsets).to(points.dtype)
    hard = labels == "hard"
    truth = decimal_maps(points, side, offsets.shape[-1], sigma, hard=hard)
    if loss == "mse":
        return F.mse_loss(offsets, truth)
    p = truth.flatten(2) if hard else truth.flatten(2).softmax(-1)
    log_q = offsets.flatten(2).log_softmax(-1)
    return F.kl_div(log_q, p, reduction="none").mean()


def offset_value_loss(offsets: Tensor, points: Tensor, side: int) -> Tensor:
    """Smooth L1 of offset values; the paper names no loss, so that of the maps.

    Args:
        offsets: (N, L, 2), in cells.
        points: (N, L, 2).
        side: G, cells a side of the integer maps.
    """
    return F.smooth_l1_loss(offsets.to(points.dtype), places(points, side))


def offset_map_loss(offsets: Tensor, points: Tensor, side: int, *, zeros: bool) -> Tensor:
    """Smooth L1 of offset maps (section IV-D, appendix B).

    A cell in which landmarks lie is taught their place in it, that of several their mean.

    Args:
        offsets: (N, 2, G, G) or (N, 1, 2, G, G): x and y, in cells.
        points: (N, L, 2).
        side: G.
        zeros: Whether all other cells are taught 0, as the paper's maps are, or nothing, as
            CornerNet's, whence they are.
    """
    offsets = last_stage(offsets).to(points.dtype)
    columns, rows = grid_cells(points, side, "floor").long().unbind(-1)
    cells = (rows * side + columns)[:, None]  # (N, 1, L)
    count = points.new_zeros(len(points), 1, side * side)
    count = count.scatter_add(2, cells, points.new_ones(()).expand(cells.shape))
    total = points.new_zeros(len(points), 2, side * side)
    total = total.scatter_add(2, cells.expand(-1, 2, -1), places(points, side).transpose(1, 2))
    errors = F.smooth_l1_loss(offsets.flatten(2), total / count.clamp(min=1), reduction="none")
    if zeros:
        return errors.mean()
    taught = count > 0
    return (errors * taught).sum() / (2 * taught.sum())


def places(points: Tensor, side: int) -> Tensor:
    """Where in its cell each point lies, (N, L, 2) from 0 to 1; outside the crop the nearest."""
    return (points * side - grid_cells(points, side, "floor")).clamp(0, 1)


def named_offset_loss(
    family: str, *, loss: DecimalLoss, labels: Labels, sigma: float, zeros: bool
) -> OffsetLoss | None:
    """The loss of a family's offset head; None where it has none.

    Args:
        family: Of the network.
        loss: Of decimal maps, and the two that follow.
        labels: Likewise.
        sigma: Likewise.
        zeros: Of offset maps.
    """
    losses: dict[str, OffsetLoss] = {
        "hih": partial(decimal_loss, loss=loss, labels=labels, sigma=sigma),
        "wov": offset_value_loss,
        "wom": partial(offset_map_loss, zeros=zeros),
    }
    return losses.get(family)


def start_above_zero(network: nn.Module) -> None:
    """Let a fresh network's decimal maps start at `LOGIT_START`."""
    nn.init.constant_(network.get_submodule("offset_head").head[-1].bias, LOGIT_START)


class HihTask(LandmarkTask):
    """A network of integer maps, with or without an offset head, in training.

    Args:
        arguments: As `LandmarkTask`; the network gives heatmaps and what its offset head makes, or
            heatmaps alone.
        sigma: Of the integer maps, in cells.
        offset_loss: Of the offset head; None for a network without one.
        offset_weight: alpha of equation 6.
    """

    def __init__(
        self,
        *arguments: Any,
        sigma: float,
        offset_loss: OffsetLoss | None,
        offset_weight: float,
    ) -> None:
        super().__init__(*arguments)
        self.sigma, self.offset_loss, self.offset_weight = sigma, offset_loss, offset_weight

    def targets(self, points: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """The points; their maps are made where the losses are, for they would fill the queue."""
        return {"points": points}

    def losses(
        self, outputs: Tensor | tuple[Tensor, Tensor], batch: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """``integer`` and, weighted, ``offset``."""
        points = batch["points"]
        if self.offset_loss is None:
            return {"integer": integer_loss(outputs, points, self.sigma)}
        heatmaps, offsets = outputs
        offset = self.offset_loss(offsets, points, heatmaps.shape[-1])
        return {
            "integer": integer_loss(heatmaps, points, self.sigma),
            "offset": self.offset_weight * offset,
        }
