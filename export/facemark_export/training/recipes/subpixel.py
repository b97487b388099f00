"""Recipes of subpixel heatmap regression (Bulat et al. 2021) and of its tables' other rows.

Table 1: l2 heatmap regression is rounded maps, window 0, no Siamese training; coordinate
correction the same with `correction`; global soft-argmax window 0, no Siamese training and
loss soft_argmax. Table 2 is rounded, continuous, with a window, with Siamese training.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from facemark_export.training.augment import Augmentation
from facemark_export.training.heatmaps import HeatmapTask
from facemark_export.training.loop_recipe import TrainingError
from facemark_export.training.recipes.heatmaps import HeatmapRecipe
from facemark_export.training.recipes.landmarks import refuse_unused
from facemark_export.training.subpixel import (
    ORIGINS,
    CorrectionTask,
    SiameseTask,
    SubpixelLoss,
)
from facemark_sdk.decode.heatmap import SUBPIXEL_TEMPERATURE, WINDOW
from facemark_sdk.decode.params import TEMPERATURES
from facemark_sdk.layouts import get_layout
from facemark_sdk.spec import ModelSpec

WINDOWS = (0, 3, 5, 7)
"""Of Table 3; 0 for none."""
FACE = 220 / 256
"""The face's part of the crop's side (section 5.1)."""
AUGMENTATION = Augmentation(translate=0, colour=0.4, occlude=0, blur=0, grey=0)
"""Rotation, flips, scale and colour (section 5.1); colour's 0.6 to 1.4 is of contrast and
brightness here."""


@dataclass(frozen=True, kw_only=True)
class SubpixelRecipe(HeatmapRecipe):
    """Subpixel heatmap regression with its authors' settings (section 5.1).

    Those that the paper does not state are ours: batches of 32, no warm-up, no averaged weights.
    """

    family: Literal["hrnet", "mapnet", "hourglass", "cpn"] = "hourglass"
    """The network: stacked hourglasses as in the paper, HRNetV2, SimpleBaselines (mapnet), CPN."""
    architecture: str = "hourglass2_hierarchical"
    """Which one of its family: hourglass1 to hourglass16, with _hierarchical of the paper's blocks;
    hrnetv2_w18; a trunk for mapnet and cpn, as efficientnet_lite0 or resnet50."""
    encoding: Literal["continuous", "rounded"] = "continuous"
    """Targets about the landmarks themselves (equation 3) or about the nearest cell (equation
    2)."""
    sigma: float = 1.5
    """Of the targets' Gaussians, in cells; not stated in the paper, whose 5 x 5 window holds most
    of them."""
    window: int = WINDOW
    """Side of the local soft-argmax's window in cells: 3, 5 or 7; 0 for none."""
    temperature: float = SUBPIXEL_TEMPERATURE
    """tau of the local soft-argmax."""
    siamese: bool = True
    """Show two augmentations of each face and train on their maps, turned back and put together
    (equation 6); a batch has twice as many images."""
    coordinate_weight: float = 0.0
    """Weight of a loss of what the local soft-argmax reads, beside the maps' (section 4.3: of no
    use)."""
    loss: Literal["l2", "soft_argmax"] = "l2"
    """L2 between maps, or the global soft-argmax that section 4.1 compares with."""
    correction: Literal["none", "static", "dynamic"] = "none"
    """Section 4.1's second branch, which corrects the highest cell by the encoding's error
    (static) or by that of the maps as they are (dynamic)."""
    decoder: Literal["auto", "argmax", "quarter_shift"] = "auto"
    """How maps are read without a window; auto: with a quarter shift, after soft_argmax by their
    barycentre."""
    epochs: int = 50
    """Passes over the training samples."""
    optimizer: Literal["adamw", "adam"] = "adam"
    """AdamW, or Adam, whose weight decay is added to the gradient."""
    learning_rate: float = 1e-4
    """Peak of the learning rate; it warms up linearly and then follows the schedule."""
    schedule: Literal["cosine", "steps"] = "steps"
    """Decay to zero as half a cosine, or by step_factor at each milestone."""
    milestones: tuple[int, ...] = (25, 40)
    """Finished epochs after which the schedule "steps" lowers the learning rate."""
    weight_decay: float = 0.0
    """The optimizer's weight decay, for weights of two or more dimensions."""
    warmup_epochs: float = 0.0
    """Epochs of linear warm-up."""
    ema_decay: float = 0.0
    """Decay of the averaged weights that are validated and kept; 0 keeps the raw weights."""
    growth: float = 1 / FACE
    """Side of the training crop over the longer side of the landmarks' bounding box."""
    augmentation: Augmentation = field(default_factory=lambda: AUGMENTATION)

    def __post_init__(self) -> None:
        """Refuse settings that do not go together.

        Raises:
            TrainingError: As any heatmap recipe's, or one of the paper's is out of range or
                belongs to another of its methods.
            LayoutError: The layout is unknown.
        """
        self._check_method()
        HeatmapRecipe.__post_init__(self)

    def _check_method(self) -> None:
        if self.window not in WINDOWS:
            raise TrainingError(f"window must be 0 (none), 3, 5 or 7 cells, got {self.window}")
        for name, usable in (
            ("temperature", TEMPERATURES[0] <= self.temperature <= TEMPERATURES[1]),
            ("coordinate_weight", 0 <= self.coordinate_weight < float("inf")),
        ):
            if not usable:
                raise TrainingError(f"{name} is out of range: {getattr(self, name)}")
        refuse_unused(
            self,
            {"coordinate_weight": bool(self.window), "temperature": bool(self.window)},
            f"window {self.window}",
        )
        if self.decoder != "auto" and (self.window or self.loss != "l2" or self.corrects):
            raise TrainingError(
                f"decoder {self.decoder} goes with window 0, loss l2 and no correction; leave it "
                "auto"
            )
        other = f"loss {self.loss}" if self.loss != "l2" else f"correction {self.correction}"
        if (self.loss != "l2" or self.corrects) and (self.siamese or self.window):
            raise TrainingError(
                f"{other} is one of section 4.1's rivals of the method: set siamese off and "
                "window to 0"
            )
        if self.corrects and (self.loss != "l2" or self.encoding != "rounded"):
            raise TrainingError(
                f"correction {self.correction} is of rounded maps with loss l2: set encoding and "
                f"loss, got {self.encoding} and {self.loss}"
            )
        if self.loss == "soft_argmax" and self.encoding != "continuous":
            raise TrainingError("loss soft_argmax has no maps to be rounded: encoding continuous")

    @property
    def corrects(self) -> bool:
        """Whether there is a second branch."""
        return self.correction != "none"

    def task(self, arguments: tuple[Any, ...]) -> HeatmapTask:
        """The task, from what `task_arguments` gives."""
        if self.loss == "soft_argmax":
            return HeatmapRecipe.task(self, arguments)
        loss = SubpixelLoss(
            encoding=self.encoding,
            sigma=self.sigma,
            coordinate_weight=self.coordinate_weight,
            window=self.window,
            temperature=self.temperature,
        )
        if self.correction != "none":
            return CorrectionTask(*arguments, loss=loss, kind=self.correction)
        return (SiameseTask if self.siamese else HeatmapTask)(*arguments, loss=loss)

    def model_spec(self) -> ModelSpec:
        """What the trained model says of itself."""
        params = {"stride": self.stride, "origin": ORIGINS[self.encoding]}
        if self.corrects:  # the network itself gives coordinates
            mean_shape = np.zeros((get_layout(self.layout).num_points, 2)).tolist()
            return self.landmark_spec(
                self.family, "regression", {**params, "correction": True, "mean_shape": mean_shape}
            )
        if self.window:
            params |= {"window": self.window, "temperature": self.temperature}
            return self.landmark_spec(self.family, "local_soft_argmax", params)
        if self.loss == "soft_argmax":
            params |= {"temperature": self.softmax_temperature}
            return self.landmark_spec(self.family, "barycentre", params)
        decoder = "quarter_shift" if self.decoder == "auto" else self.decoder
        return self.landmark_spec(self.family, decoder, params)
