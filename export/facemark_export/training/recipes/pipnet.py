"""PIPNet recipes (Jin, Liao, Shao: Pixel-in-Pixel Net, IJCV 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from facemark_export.meanface import pip_tables
from facemark_export.networks.pipnet import ARCHITECTURES, build_pipnet
from facemark_export.networks.trunks import TRUNK_STRIDE
from facemark_export.training.augment import Augmentation
from facemark_export.training.loop_recipe import TrainingError
from facemark_export.training.pipnet import PipnetTask
from facemark_export.training.recipes.landmarks import LandmarkFaces, LandmarkRecipe
from facemark_export.training.start import start_spec
from facemark_sdk.decode.pip import padded_opinions
from facemark_sdk.layouts import get_layout
from facemark_sdk.spec import ModelSpec


@dataclass(frozen=True, kw_only=True)
class PipnetRecipe(LandmarkRecipe):
    """PIPNet on any supported trunk, from folders of annotated faces."""

    neighbours: int = 10
    """Neighbours whose offsets each landmark predicts (C; the paper's choice is 10)."""
    stride: int = TRUNK_STRIDE
    """Pixels a cell of the grid; 16, 64 and 128 are for resnet18, 16 for efficientnet_lite0 too."""
    nrm: bool = True
    """Whether landmarks are merged with what their neighbours say of them (the neighbour
    regression module, section 3.2); without it these predictions are neither learnt nor used."""

    def __post_init__(self) -> None:
        """Refuse settings that do not go together.

        Raises:
            TrainingError: As any landmark recipe's, or neighbours or stride out of range.
            LayoutError: The layout is unknown.
        """
        LandmarkRecipe.__post_init__(self)
        if not 1 <= self.neighbours < get_layout(self.layout).num_points:
            raise TrainingError(
                f"neighbours must be at least 1 and fewer than the landmarks, got {self.neighbours}"
            )
        strides = ARCHITECTURES[self.architecture].possible_strides
        if self.stride not in strides or self.size % self.stride:
            raise TrainingError(
                f"stride must be {' or '.join(map(str, strides))} for {self.architecture} and "
                f"divide the size {self.size}, got {self.stride}"
            )

    def build(self, data: Sequence[Path]) -> PipnetTask:
        """Read the data and build network and task.

        Raises:
            DataError: A folder is unusable, or nothing is left to train or to validate on.
        """
        return self.task(self.read(data))

    def task(self, faces: LandmarkFaces) -> PipnetTask:
        """Supervised training on faces that are read.

        Raises:
            CheckpointError: What to start from cannot be read or is no PIPNet.
        """
        return PipnetTask(
            *self.task_arguments(self.network(), self.model_spec(faces.shapes.mean(axis=0)), faces)
        )

    def network(self) -> nn.Module:
        """A network with fresh weights, the trunk's from ImageNet where that is asked for.

        Raises:
            CheckpointError: No package carries such weights, or it is not installed.
        """
        landmarks = get_layout(self.layout).num_points
        network = build_pipnet(self.architecture, landmarks, self.neighbours, self.stride)
        self.load_imagenet(network)
        return network

    def model_spec(self, mean_face: np.ndarray) -> ModelSpec:
        """What the trained model says of itself; `mean_face` (L, 2) chooses the neighbours.

        Fine-tuning keeps those that the network to start from was trained with.

        Raises:
            CheckpointError: What to start from cannot be read or is no PIPNet.
        """
        params = {
            **pip_tables(mean_face, self.neighbours),
            "mean_face": np.round(mean_face, 6).tolist(),
        }
        if self.init is not None:
            params |= start_spec(self.init, self.landmark_spec("pipnet", "pip", {})).decoder_params
            params["opinions"] = padded_opinions(np.asarray(params["neighbours"]))
        if not self.nrm:
            params["opinions"] = [[] for _ in mean_face]
        return self.landmark_spec("pipnet", "pip", {**params, "stride": self.stride})


PUBLISHED = PipnetRecipe(
    architecture="resnet18",
    imagenet=False,
    growth=1.1,
    epochs=60,
    batch_size=16,
    optimizer="adam",
    learning_rate=1e-4,
    schedule="steps",
    milestones=(30, 50),
    weight_decay=5e-4,
    warmup_epochs=0,
    ema_decay=0,
    clip_norm=float("inf"),
    precision="float32",
    augmentation=Augmentation(scale=0, colour=0),
)
"""The authors' settings without ImageNet weights (COMPAT 1.5, 300W's growth from 1.6). Crops stay
square and bilinear, where theirs have the box's sides and turn by the nearest pixel; an epoch's
last batch is not dropped, and biases do not decay."""
