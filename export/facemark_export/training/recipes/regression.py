"""Recipes of direct regression: the anisotropic paper's (BMVC 2020), and CoordNet (PIPNet paper).

One recipe with the loss as a field: the paper's comparison changes the loss and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from facemark_export.networks.regression import build_regression
from facemark_export.training import pose_balance
from facemark_export.training.anisotropic import ACROSS, ALONG, CORNERS
from facemark_export.training.loop_recipe import TrainingError
from facemark_export.training.recipes.landmarks import LandmarkRecipe, refuse_unused
from facemark_export.training.regression import ANISOTROPIC, RegressionTask
from facemark_export.training.start import start_spec
from facemark_sdk.layouts import get_layout
from facemark_sdk.spec import ModelSpec


@dataclass(frozen=True, kw_only=True)
class RegressionRecipe(LandmarkRecipe):
    """Direct regression of coordinates on any supported trunk, from folders of annotated faces."""

    head: Literal["regression", "coordnet"] = "regression"
    """What follows the pooled features: one fully connected layer, or CoordNet's three."""
    loss: Literal["l1", "l2", "smooth_l1", "wing", "adaptive_wing", "anisotropic"] = "anisotropic"
    """Loss of the coordinates."""
    along: float = ALONG
    """Standard deviation that the anisotropic loss grants along a curve (the paper's a)."""
    across: float = ACROSS
    """Likewise across it (b); at corners both are 1."""
    displacement: bool = True
    """Regress displacements from the mean shape; without it, the coordinates themselves, which
    takes longer to learn."""
    pose_bins: int = pose_balance.BINS
    """Pose bins (K) that are seen alike often and whose mean shapes make the mean shape; 0 sees all
    faces alike often and takes their mean."""

    def __post_init__(self) -> None:
        """Refuse settings that do not go together.

        Raises:
            TrainingError: As any landmark recipe's, or deviations, bins or a layout out of range.
            LayoutError: The layout is unknown.
        """
        LandmarkRecipe.__post_init__(self)
        if not 0 < self.across <= self.along < float("inf"):
            raise TrainingError(
                f"across must be positive and at most along, got {self.across} and {self.along}"
            )
        if self.pose_bins < 0:
            raise TrainingError(f"pose_bins must not be negative, got {self.pose_bins}")
        refuse_unused(self, {"displacement": self.init is None}, "init, whose mean shape is kept")
        if self.pose_bins and self.weights:
            raise TrainingError(
                "weights and pose_bins both say how often a face is seen; set pose_bins to 0 or "
                "leave the weights out"
            )
        if self.loss == ANISOTROPIC and self.layout not in CORNERS:
            raise TrainingError(
                f"loss anisotropic needs a layout with curves ({', '.join(CORNERS)}), got "
                f"{self.layout!r}"
            )

    def build(self, data: Sequence[Path]) -> RegressionTask:
        """Read the data and build network and task.

        Raises:
            DataError: A folder is unusable, or nothing is left to train or to validate on.
        """
        faces = self.read(data)
        bins = pose_balance.pose_bins(faces.shapes, self.pose_bins) if self.pose_bins else None
        landmarks = get_layout(self.layout).num_points
        network = build_regression(self.head, self.architecture, landmarks)
        self.load_imagenet(network)
        return RegressionTask(
            *self.task_arguments(
                network, self.model_spec(self.mean_shape(faces.shapes, bins)), faces
            ),
            loss=self.loss,
            deviations=(self.along, self.across),
            bins=bins,
        )

    def mean_shape(
        self, shapes: NDArray[np.float32], bins: NDArray[np.intp] | None
    ) -> NDArray[np.float64]:
        """What displacements are counted from, (L, 2), of shapes (N, L, 2) and their bins (N,).

        Fine-tuning keeps that of the network to start from.

        Raises:
            CheckpointError: What to start from cannot be read or is no such network.
        """
        if self.init is not None:
            theirs = start_spec(self.init, self.landmark_spec(self.head, "regression", {}))
            return np.array(theirs.decoder_params["mean_shape"])
        if not self.displacement:
            return np.zeros(shapes.shape[1:])
        if bins is None:
            return shapes.mean(axis=0, dtype=np.float64)
        return pose_balance.mean_of_bin_means(shapes, bins)

    def model_spec(self, mean_shape: NDArray[np.float64]) -> ModelSpec:
        """What the trained model says of itself, with its mean shape (L, 2)."""
        params = {"mean_shape": np.round(mean_shape, 6).tolist()}
        return self.landmark_spec(self.head, "regression", params)
