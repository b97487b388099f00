"""HIH recipes (Lan et al., Heatmap in Heatmap), and the rivals of the paper's appendix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import torch

from facemark_export.networks.architecture import build_network
from facemark_export.networks.hih_trunk import (
    OFFSET_HEADS,
    PUBLISHED_SIDE,
    SIZES,
    VALUE_SIDE,
    stacks_of,
)
from facemark_export.networks.hourglass import HOURGLASS_MULTIPLE
from facemark_export.networks.stages import CELL_MIDDLE, HEATMAP_STRIDE
from facemark_export.training.augment import Augmentation
from facemark_export.training.hih import (
    DecimalLoss,
    HihTask,
    Labels,
    named_offset_loss,
    start_above_zero,
)
from facemark_export.training.loop_recipe import TrainingError
from facemark_export.training.recipes.landmarks import LandmarkRecipe, refuse_unused
from facemark_sdk.errors import ModelError
from facemark_sdk.spec import ModelSpec

Refinement: TypeAlias = Literal["hih", "wov", "wom", "argmax", "wsm", "dark"]
DECODERS: dict[Refinement, str] = {
    "hih": "hih",
    "wov": "offset_value",
    "wom": "offset_map",
    "argmax": "argmax",
    "wsm": "quarter_shift",  # the appendix takes HRNet's practice for it
    "dark": "dark",
}
CSC_WEIGHTS = {1: 0.1, 2: 0.05}
"""Section IV-A3, by the number of hourglasses, 2 for more as well; a trunk is as one."""
OTHER_WEIGHT = 0.001
"""The paper has none for these. CSC's gradient is hundreds of times smaller: under its weight they
drown the integer maps', which then stay at zero (eight faces, 80 steps: NME 9 to 44 %)."""


@dataclass(frozen=True, kw_only=True)
class HihRecipe(LandmarkRecipe):
    """Integer maps and, within the cell, decimal maps or one of the appendix's alternatives."""

    architecture: str = "efficientnet_lite0"
    """hourglass1, hourglass2, hourglass4 (the paper's tiny, small and base), or a trunk with
    MapNet's upsampling: efficientnet_lite0, resnet18, ..."""
    refinement: Refinement = "hih"
    """How landmarks are placed within a cell: decimal maps (hih), offset values (wov), offset maps
    (wom); or by the integer maps alone: the cell's middle (argmax), a quarter shift to the second
    maximum (wsm), dark."""
    offset_size: int = 8
    """Side of the decimal maps in cells: 2, 4, 8 or 16 at 256 pixels, at 128 pixels 2, 4 or 8. For
    wov the side of the features before its last layer, a multiple of 4."""
    loss: DecimalLoss = "csc"
    """Of decimal maps: coordinate soft-classification (equation 5), or MSE (Table VIII)."""
    labels: Labels = "soft"
    """Of decimal maps: Gaussians, or 1 in one cell (Table VII)."""
    sigma: float = 1.5
    """Of the integer maps, in cells (section IV-A3: 1.5, on 300W 1)."""
    decimal_sigma: float = 1.0
    """Of soft labels, in cells of the decimal maps (Table X)."""
    offset_weight: float | None = None
    """Of the offsets' loss against the integer maps' (section IV-A3, for CSC: 0.1 with one
    hourglass, 0.05 with more). None: these for CSC, 0.001 for all others."""
    offset_zeros: bool = True
    """For wom: whether cells without a landmark are taught 0, as the appendix has it, or nothing,
    as in CornerNet."""

    def __post_init__(self) -> None:
        """Refuse settings that do not go together.

        Raises:
            TrainingError: As any landmark recipe's, or a number is out of range.
            LayoutError: The layout is unknown.
        """
        LandmarkRecipe.__post_init__(self)
        decimal = self.refinement == "hih"
        refuse_unused(
            self,
            {
                "offset_size": self.refinement in ("hih", "wov"),
                "loss": decimal,
                "labels": decimal,
                "decimal_sigma": decimal and self.labels == "soft",
                "offset_weight": self.refinement in OFFSET_HEADS,
                "offset_zeros": self.refinement == "wom",
            },
            f"refinement {self.refinement}, labels {self.labels}",
        )
        for name in ("sigma", "decimal_sigma", "offset_weight"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise TrainingError(f"{name} must be a positive number, got {value}")

    def check_architecture(self) -> None:
        """Refuse a network that there is not.

        Raises:
            TrainingError: There is no such network for this size, offset_size and refinement.
        """
        if self._hourglasses() and self.size % HOURGLASS_MULTIPLE:
            raise TrainingError(
                f"size must be a multiple of {HOURGLASS_MULTIPLE} for {self.architecture}, "
                f"got {self.size}"
            )
        halves = [divmod(size * self.size, PUBLISHED_SIDE) for size in SIZES["hih"]]
        possible = [size for size, rest in halves if size > 1 and not rest]
        if self.refinement == "wov":
            possible = [size for size in possible if size % VALUE_SIDE == 0]
        if self.refinement in ("hih", "wov") and self.offset_size not in possible:
            raise TrainingError(
                f"offset_size must be among {possible} for {self.refinement} at size {self.size}, "
                f"got {self.offset_size}"
                + ("" if possible else "; take a size that is a multiple of 64")
            )
        try:
            with torch.device("meta"):
                build_network(self.model_spec())
        except ModelError as error:
            raise TrainingError(f"architecture: {error}") from None

    def build(self, data: Sequence[Path]) -> HihTask:
        """Read the data and build network and task.

        Raises:
            DataError: A folder is unusable, or nothing is left to train or to validate on.
            CheckpointError: ImageNet weights are asked for and not there.
        """
        faces = self.read(data)
        spec = self.model_spec()
        network = build_network(spec)
        self.load_imagenet(network)
        csc = self.refinement == "hih" and self.loss == "csc"
        if csc:
            start_above_zero(network)
        stacks = max(1, stacks_of(self.architecture))
        usual = CSC_WEIGHTS[min(stacks, 2)] if csc else OTHER_WEIGHT
        return HihTask(
            *self.task_arguments(network, spec, faces),
            sigma=self.sigma,
            offset_loss=named_offset_loss(
                spec.family,
                loss=self.loss,
                labels=self.labels,
                sigma=self.decimal_sigma,
                zeros=self.offset_zeros,
            ),
            offset_weight=usual if self.offset_weight is None else self.offset_weight,
        )

    def model_spec(self) -> ModelSpec:
        """What the trained model says of itself."""
        decoder = DECODERS[self.refinement]
        if self.refinement not in OFFSET_HEADS:
            family = "hourglass" if self._hourglasses() else "mapnet"
            params = {"stride": HEATMAP_STRIDE, "origin": CELL_MIDDLE}
            return self.landmark_spec(family, decoder, params)
        params = {"stride": HEATMAP_STRIDE}
        if self.refinement != "wom":
            params["offset_size"] = self.offset_size
        return self.landmark_spec(self.refinement, decoder, params)

    def _hourglasses(self) -> bool:
        return self.architecture.startswith("hourglass")


PUBLISHED = HihRecipe(
    architecture="hourglass1",
    layout="wflw98",
    imagenet=False,
    growth=1.2,
    epochs=60,
    batch_size=16,
    optimizer="adam",
    learning_rate=5e-6,
    schedule="steps",
    milestones=(30, 50),
    weight_decay=0,
    warmup_epochs=0,
    ema_decay=0,
    clip_norm=float("inf"),
    precision="float32",
    augmentation=Augmentation(translate=0, scale=0, colour=0, grey=0),
)
"""The paper's settings on WFLW for HIH tiny (section IV-A3; COMPAT 3.3), its crop's 1.2 from
`facemark_sdk.crop.rules`. How strong occlusion and blur are it does not say: ours."""
