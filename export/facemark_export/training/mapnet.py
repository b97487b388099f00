"""Training MapNet, heatmap regression: targets, loss and task (PIPNet paper, section 4.3.1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from facemark_export.training.landmark_task import LandmarkTask
from facemark_export.training.wasserstein import l2_loss

SIGMA_PIXELS = 4.0
"""The Gaussian's radius, 1, 2 and 4 cells at strides 4, 2 and 1: always four pixels."""
ORIGIN = 0.5
"""Cell c stands for the position (c + 0.5) / G: targets peak where the landmark lies, not at the
nearest cell, so that the decoder's quarter shift has something to find."""


def map_loss(heatmaps: Tensor, points: Tensor, sigma: float) -> Tensor:
    """The L2 loss: `l2_loss` with the origin that MapNet is read by.

    Args:
        heatmaps: (N, L, G, G).
        points: (N, L, 2) as fractions of the crop's side.
        sigma: In cells.
    """
    return l2_loss(heatmaps, points, sigma, origin=ORIGIN)


class MapnetTask(LandmarkTask):
    """A MapNet in training; its spec states the stride."""

    def targets(self, points: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """The points; their maps are made where the loss is, for they would fill the queue."""
        return {"points": points}

    def losses(self, outputs: Tensor, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `map_loss`."""
        sigma = SIGMA_PIXELS / self.spec.decoder_params["stride"]
        return {"heatmap": map_loss(outputs, batch["points"], sigma)}
