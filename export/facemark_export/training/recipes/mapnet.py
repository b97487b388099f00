"""MapNet recipes, the heatmap baseline of PIPNet's paper (section 4.3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from facemark_export.networks.mapnet import MAP_STRIDES, build_mapnet
from facemark_export.training.heatmaps import ORIGIN, HeatmapTask
from facemark_export.training.loop_recipe import TrainingError
from facemark_export.training.mapnet import map_loss
from facemark_export.training.recipes.landmarks import LandmarkRecipe
from facemark_sdk.layouts import get_layout
from facemark_sdk.spec import ModelSpec


@dataclass(frozen=True, kw_only=True)
class MapnetRecipe(LandmarkRecipe):
    """Heatmap regression on any supported trunk, from folders of annotated faces."""

    stride: int = 4
    """Pixels a cell of the heatmaps: 4, 2 or 1."""

    def __post_init__(self) -> None:
        """Refuse settings that do not go together.

        Raises:
            TrainingError: As any landmark recipe's, or the stride is out of range.
            LayoutError: The layout is unknown.
        """
        LandmarkRecipe.__post_init__(self)
        if self.stride not in MAP_STRIDES:
            raise TrainingError(
                f"stride must be {' or '.join(map(str, MAP_STRIDES))}, got {self.stride}"
            )

    def build(self, data: Sequence[Path]) -> HeatmapTask:
        """Read the data and build network and task.

        Raises:
            DataError: A folder is unusable, or nothing is left to train or to validate on.
            CheckpointError: ImageNet weights are asked for and not there.
        """
        faces = self.read(data)
        landmarks = get_layout(self.layout).num_points
        network = build_mapnet(self.architecture, landmarks, self.stride)
        self.load_imagenet(network)
        return HeatmapTask(
            *self.task_arguments(network, self.model_spec(), faces),
            loss=map_loss(self.stride),
        )

    def model_spec(self) -> ModelSpec:
        """What the trained model says of itself.

        Points are read with a quarter shift where the stride is larger than 1 (section 4.3.1).
        """
        decoder = "quarter_shift" if self.stride > 1 else "argmax"
        return self.landmark_spec("mapnet", decoder, {"stride": self.stride, "origin": ORIGIN})
