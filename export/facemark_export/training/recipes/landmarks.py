"""What the recipes of all landmark networks share: folders, crops, augmentation, the spec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from facemark_export.networks.trunks import TRUNK_STRIDE, TRUNKS, input_statistics
from facemark_export.training.augment import (
    Augmentation,
    crop_matrix,
    into_crop,
    square_around,
)
from facemark_export.training.landmark_data import AnnotatedFace, read_faces, split_by_photo
from facemark_export.training.loop import LoopRecipe, TrainingError
from facemark_export.training.start import UNSTATED, inherited_terms
from facemark_sdk.errors import CheckpointError, DataError
from facemark_sdk.layouts import get_layout
from facemark_sdk.spec import CropRule, InputSpec, ModelSpec


@dataclass(frozen=True, slots=True)
class LandmarkFaces:
    """Annotated faces, read and split.

    Attributes:
        folders: Training faces, a list a folder.
        weights: How often each folder is seen in an epoch.
        held_out: Validation faces.
        shapes: (N, L, 2) float32 points of all training faces in their plain crops, as fractions
            of the crop's side, folder after folder.
    """

    folders: list[list[AnnotatedFace]]
    weights: tuple[float, ...]
    held_out: list[AnnotatedFace]
    shapes: NDArray[np.float32]


def refuse_unused(recipe: LoopRecipe, used: Mapping[str, bool], where: str) -> None:
    """Refuse settings that would do nothing.

    Args:
        recipe: Whose settings.
        used: By setting, whether it has a use; one that has none must have its default.
        where: What it has no use with, for the message.

    Raises:
        TrainingError: One has no use and another value than its default.
    """
    defaults = {f.name: f.default for f in fields(recipe)}
    for name, useful in used.items():
        if not useful and getattr(recipe, name) != defaults[name]:
            raise TrainingError(f"{name} has no use with {where}; leave it out")


@dataclass(frozen=True, kw_only=True)
class LandmarkRecipe(LoopRecipe):
    """A landmark network on any supported trunk, from folders of annotated faces."""

    epochs: int = 20
    """Passes over the training samples."""
    architecture: str = "efficientnet_lite0"
    """The trunk: efficientnet_lite0, resnet18, resnet50, resnet101, mobilenet_v2 or
    mobilenet_v3_large."""
    layout: str = "ibug68"
    """Landmark layout of the annotations."""
    size: int = 256
    """Side of the network's input in pixels, a multiple of 32."""
    growth: float = 1.3
    """Side of the training crop over the longer side of the landmarks' bounding box."""
    weights: tuple[float, ...] = ()
    """How often each --data folder is seen in an epoch, in order; all once when empty."""
    unvalidated: tuple[str, ...] = ("youtube_faces",)
    """Names of --data folders that are all used for training (machine-made annotations)."""
    imagenet: bool = True
    """Start the trunk from ImageNet weights where a package carries them."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    training_data: str = UNSTATED
    """Names and terms of the data, as the exported model will state them; --init adds its own."""
    licence: str = UNSTATED
    """Licence of the weights, as the exported model will state it; if unstated, that of --init."""

    def __post_init__(self) -> None:
        """Refuse settings that do not go together.

        Raises:
            TrainingError: As the loop's own settings, or a wrong size, weight or architecture.
            LayoutError: The layout is unknown.
        """
        LoopRecipe.__post_init__(self)
        if self.size < TRUNK_STRIDE or self.size % TRUNK_STRIDE:
            raise TrainingError(f"size must be a multiple of {TRUNK_STRIDE}, got {self.size}")
        if self.weights and not (min(self.weights) >= 0 and max(self.weights) > 0):
            raise TrainingError(f"weights must not be negative nor all 0, got {self.weights}")
        get_layout(self.layout)
        self.check_architecture()

    def check_architecture(self) -> None:
        """Refuse an architecture that there is not.

        Raises:
            TrainingError: It is no known trunk.
        """
        if self.architecture not in TRUNKS:
            raise TrainingError(
                f"unknown architecture {self.architecture!r}; known: {', '.join(TRUNKS)}"
            )

    def load_imagenet(self, network: nn.Module) -> None:
        """Give a fresh network's trunk its ImageNet weights where the recipe asks for them.

        Raises:
            CheckpointError: No package carries them, or it is not installed.
        """
        if not self.imagenet or self.init is not None:
            return
        if not hasattr(network, "load_imagenet"):
            raise CheckpointError(
                f"no package carries ImageNet weights for {self.architecture}; use --no-imagenet"
            )
        network.load_imagenet()

    def read(self, data: Sequence[Path]) -> LandmarkFaces:
        """Read the folders and hold a tenth of the photos out.

        Raises:
            DataError: A folder is unusable, or nothing is left to train or to validate on.
        """
        if self.weights and len(self.weights) != len(data):
            raise DataError(f"{len(self.weights)} weights for {len(data)} --data folders")
        folders, held_out = [], []
        for folder in data:
            train = read_faces(folder, self.layout, get_layout(self.layout).num_points)
            if folder.name not in self.unvalidated:
                train, validation = split_by_photo(train)
                held_out += validation
            folders.append(train)
        if not any(folders) or not held_out:
            raise DataError(
                f"{sum(map(len, folders))} faces to train on, {len(held_out)} held out: need both; "
                "a tenth of the photos is held out by name, see the README on photo names"
            )
        shapes = [
            into_crop(f.points, crop_matrix(square_around(f.points, self.growth), 1))
            for folder in folders
            for f in folder
        ]
        weights = self.weights or (1.0,) * len(folders)
        return LandmarkFaces(folders, weights, held_out, np.stack(shapes))

    def task_arguments(
        self, network: nn.Module, spec: ModelSpec, faces: LandmarkFaces
    ) -> tuple[Any, ...]:
        """What `LandmarkTask` takes, in its order."""
        return (
            network,
            spec,
            faces.folders,
            faces.weights,
            faces.held_out,
            self.growth,
            self.augmentation,
        )

    def landmark_spec(
        self, family: str, decoder: str, decoder_params: Mapping[str, Any]
    ) -> ModelSpec:
        """What a model trained by this recipe says of itself."""
        mean, std = input_statistics(self.architecture)
        training_data, licence = self.training_data, self.licence
        if self.init is not None:
            training_data, licence = inherited_terms(self.init, training_data, licence)
        return ModelSpec(
            name=f"{family}_{self.architecture}_{get_layout(self.layout).num_points}",
            task="landmarks",
            family=family,
            architecture=self.architecture,
            decoder=decoder,
            decoder_params=decoder_params,
            layout=self.layout,
            input=InputSpec(self.size, self.size, "RGB", mean, std),
            # For boxes that hug the landmarks; the export fits the rule for detector boxes.
            crop=CropRule(*((self.growth - 1) / 2,) * 4, square=True),
            precision="fp32",
            producer="facemark-train",
            source_sha256="",
            training_data=training_data,
            licence=licence,
        )
