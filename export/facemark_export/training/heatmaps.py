"""Training networks that give one map a landmark: every stage's maps have the loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facemark_export.networks.stages import CELL_MIDDLE, stages
from facemark_export.training.landmark_task import LandmarkTask
from facemark_export.training.sinkhorn import SinkhornSettings
from facemark_export.training.wasserstein import (
    jensen_shannon_loss,
    l2_loss,
    soft_argmax_loss,
    wasserstein_loss,
)

ORIGIN = CELL_MIDDLE
"""Cell c stands for the position (c + 0.5) / G: targets peak where the landmark lies, not at the
nearest cell, so that a decoder has something to find between cells."""

MapLoss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Maps (N, L, G, G) and points (N, L, 2), fractions of the crop's side, to a scalar."""
LossName: TypeAlias = Literal["l2", "wasserstein", "js", "soft_argmax"]


def named_loss(
    name: LossName,
    sigma: float,
    settings: SinkhornSettings | None = None,
    *,
    temperature: float = 1.0,
) -> MapLoss:
    """A loss of `facemark_export.training.wasserstein`, with the origin that maps are read by.

    Args:
        name: L2 between maps, the Wasserstein distance, the Jensen-Shannon divergence, or L1 of the
            barycentres, which has no targets and no use for sigma.
        sigma: Of the targets, in cells.
        settings: Of Sinkhorn's iteration.
        temperature: What maps are multiplied by before their softmax; L2 takes none.
    """
    losses: dict[LossName, MapLoss] = {
        "l2": partial(l2_loss, sigma=sigma, origin=ORIGIN),
        "wasserstein": partial(wasserstein_loss, sigma=sigma, settings=settings, origin=ORIGIN),
        "js": partial(jensen_shannon_loss, sigma=sigma, origin=ORIGIN),
        "soft_argmax": partial(soft_argmax_loss, origin=ORIGIN),
    }
    loss = losses[name]
    if temperature == 1:
        return loss
    return lambda maps, points: loss(temperature * maps, points)


class HeatmapTask(LandmarkTask):
    """A heatmap network in training.

    Args:
        arguments: As `LandmarkTask`; the network gives (N, L, G, G), or (N, stages, L, G, G).
        loss: Of one stage's maps; the stages' losses are summed.
    """

    def __init__(self, *arguments: Any, loss: MapLoss) -> None:
        super().__init__(*arguments)
        self.loss = loss

    def targets(self, points: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """The points; their maps are made where the loss is, for they would fill the queue."""
        return {"points": points}

    def losses(self, outputs: Tensor, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The sum over the stages."""
        each = [self.loss(maps, batch["points"]) for maps in stages(outputs)]
        return {"heatmap": torch.stack(each).sum()}
