"""Training direct regression: displacements from a mean shape, with any of the losses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from facemark_export.training.anisotropic import weight_matrices
from facemark_export.training.landmark_task import LandmarkTask
from facemark_export.training.pose_balance import balanced_epoch
from facemark_export.training.regression_losses import LOSSES, anisotropic
from facemark_sdk.decode.regression import mean_shape_param

ANISOTROPIC = "anisotropic"


class RegressionTask(LandmarkTask):
    """A network of direct regression in training; its spec states the mean shape.

    Args:
        arguments: As `LandmarkTask`.
        loss: A key of `LOSSES`, or ``anisotropic``.
        deviations: The anisotropic loss's a and b.
        bins: (N,) pose bin of each training face, to see all poses alike often; None to see all
            faces alike often.
    """

    def __init__(
        self,
        *arguments: Any,
        loss: str,
        deviations: tuple[float, float],
        bins: NDArray[np.intp] | None,
    ) -> None:
        super().__init__(*arguments)
        self.loss, self.deviations, self.bins = loss, deviations, bins
        self.mean_shape = mean_shape_param(self.spec)

    def epoch_indices(self, rng: np.random.Generator) -> NDArray[np.intp]:
        """One epoch, balanced by pose where there are bins."""
        return super().epoch_indices(rng) if self.bins is None else balanced_epoch(self.bins, rng)

    def targets(self, points: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """``displacement`` (N, L, 2) and, for the anisotropic loss, ``weights`` (N, L, 2, 2)."""
        targets = {"displacement": points - self.mean_shape}
        if self.loss == ANISOTROPIC:
            targets["weights"] = weight_matrices(points, self.layout.name, *self.deviations)
        return targets

    def losses(self, outputs: Tensor, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The loss by its name."""
        truth = batch["displacement"]
        errors = outputs.float().reshape(truth.shape) - truth
        if self.loss == ANISOTROPIC:
            return {self.loss: anisotropic(errors, batch["weights"])}
        return {self.loss: LOSSES[self.loss](errors)}
