"""Heatmap recipes: one map a landmark, by L2, Wasserstein, Jensen-Shannon or soft-argmax loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from facemark_export.networks.architecture import build_network
from facemark_export.networks.hourglass import HOURGLASS_MULTIPLE
from facemark_export.networks.stages import HEATMAP_STRIDE
from facemark_export.training.heatmaps import ORIGIN, HeatmapTask, LossName, named_loss
from facemark_export.training.loop_recipe import TrainingError
from facemark_export.training.recipes.landmarks import LandmarkRecipe, refuse_unused
from facemark_export.training.sinkhorn import SinkhornSettings
from facemark_sdk.decode.params import TEMPERATURES
from facemark_sdk.errors import ModelError
from facemark_sdk.spec import ModelSpec

_READ_BY = {
    True: ("argmax", "quarter_shift", "dark", "barycentre_sum"),
    False: ("argmax", "quarter_shift", "barycentre"),
}
"""Decoders by whether the loss is L2: others take a softmax of what is none, or a logarithm of
what a softmax made."""
SINKHORN = SinkhornSettings()


@dataclass(frozen=True, kw_only=True)
class HeatmapRecipe(LandmarkRecipe):
    """Heatmap regression by any network that gives one map a landmark."""

    family: Literal["hrnet", "mapnet", "hourglass", "cpn"] = "hrnet"
    """The network: HRNetV2, SimpleBaselines (mapnet), stacked hourglasses or CPN."""
    architecture: str = "hrnetv2_w18"
    """Which one of its family: hrnetv2_w18; a trunk for mapnet and cpn, as efficientnet_lite0 or
    resnet50; hourglass1 to hourglass16, with _hierarchical of Subpixel's blocks. With _coordconv
    behind it every convolution sees coordinates (CoordConv)."""
    imagenet: bool = False
    """Start the trunk from ImageNet weights where a package carries them."""
    stride: int = HEATMAP_STRIDE
    """Pixels a cell of the heatmaps: 4; with mapnet 2 and 1 as well."""
    loss: LossName = "wasserstein"
    """L2 between maps, the 2D Wasserstein distance, the Jensen-Shannon divergence, or L1 of the
    barycentres (soft_argmax); all but L2 take the maps through a softmax."""
    sigma: float = 3.0
    """Of the targets' Gaussians, in cells (Wasserstein paper, section 5.2: 1, 1.5 or 3). The loss
    soft_argmax has no targets."""
    softmax_temperature: float = 1.0
    """What maps are multiplied by before the softmax of all losses but L2. The paper's is 1; fresh
    networks give small values, so that larger ones learn faster at first."""
    decoder: Literal["auto", "argmax", "quarter_shift", "dark", "barycentre", "barycentre_sum"] = (
        "auto"
    )
    """How maps are read; auto: a quarter shift after L2, else the barycentre."""
    sinkhorn: SinkhornSettings = SINKHORN
    """Of the Wasserstein loss's iteration."""

    def __post_init__(self) -> None:
        """Refuse settings that do not go together.

        Raises:
            TrainingError: As any landmark recipe's, or sigma or the network is out of range.
            LayoutError: The layout is unknown.
        """
        LandmarkRecipe.__post_init__(self)
        if not 0 < self.sigma < float("inf"):
            raise TrainingError(f"sigma must be a positive number of cells, got {self.sigma}")
        if not TEMPERATURES[0] <= self.softmax_temperature <= TEMPERATURES[1]:
            raise TrainingError(
                f"softmax_temperature must be from {TEMPERATURES[0]:g} to {TEMPERATURES[1]:g}, got "
                f"{self.softmax_temperature}"
            )
        if self.decoder != "auto" and self.decoder not in _READ_BY[self.loss == "l2"]:
            raise TrainingError(
                f"decoder {self.decoder} cannot read what loss {self.loss} makes; it takes "
                f"{', '.join(_READ_BY[self.loss == 'l2'])}"
            )
        refuse_unused(
            self,
            {
                "softmax_temperature": self.loss != "l2",
                "sigma": self.loss != "soft_argmax",
                "sinkhorn": self.loss == "wasserstein",
            },
            f"loss {self.loss}",
        )
        if self.family == "hourglass" and self.size % HOURGLASS_MULTIPLE:
            raise TrainingError(
                f"size must be a multiple of {HOURGLASS_MULTIPLE} for hourglasses, got {self.size}"
            )
        if self.family != "mapnet" and self.stride != HEATMAP_STRIDE:
            raise TrainingError(
                f"{self.family} has stride {HEATMAP_STRIDE}, only mapnet another; got {self.stride}"
            )

    def check_architecture(self) -> None:
        """Refuse a network that there is not.

        Raises:
            TrainingError: There is no such network.
        """
        try:
            with torch.device("meta"):
                build_network(self.model_spec())
        except ModelError as error:
            raise TrainingError(str(error)) from None

    def build(self, data: Sequence[Path]) -> HeatmapTask:
        """Read the data and build network and task.

        Raises:
            DataError: A folder is unusable, or nothing is left to train or to validate on.
            CheckpointError: ImageNet weights are asked for and not there.
        """
        faces = self.read(data)
        network = build_network(self.model_spec())
        self.load_imagenet(network)
        return self.task(self.task_arguments(network, self.model_spec(), faces))

    def task(self, arguments: tuple[Any, ...]) -> HeatmapTask:
        """The task, from what `task_arguments` gives."""
        loss = named_loss(
            self.loss, self.sigma, self.sinkhorn, temperature=self.softmax_temperature
        )
        return HeatmapTask(*arguments, loss=loss)

    def model_spec(self) -> ModelSpec:
        """What the trained model says of itself."""
        decoder: str = self.decoder
        if decoder == "auto":
            decoder = "quarter_shift" if self.loss == "l2" else "barycentre"
        params = {"stride": self.stride, "origin": ORIGIN}
        if self.loss != "l2":
            params["temperature"] = self.softmax_temperature
        return self.landmark_spec(self.family, decoder, params)
