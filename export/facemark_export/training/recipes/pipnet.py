"""PIPNet recipes (Jin, Liao, Shao: Pixel-in-Pixel Net, IJCV 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from facemark_export.networks.pipnet import ARCHITECTURES, build_pipnet
from facemark_export.training.augment import (
    Augmentation,
    crop_matrix,
    into_crop,
    square_around,
)
from facemark_export.training.landmark_data import read_faces, split_by_photo
from facemark_export.training.loop import LoopRecipe, TrainingError
from facemark_export.training.pipnet import PipnetTask
from facemark_sdk.decode.pip import nearest_neighbours
from facemark_sdk.errors import DataError
from facemark_sdk.layouts import get_layout
from facemark_sdk.spec import CropRule, InputSpec, ModelSpec


@dataclass(frozen=True, kw_only=True)
class PipnetRecipe(LoopRecipe):
    """PIPNet on any supported trunk, from folders of annotated faces."""

    epochs: int = 20
    architecture: str = "efficientnet_lite0"
    """The trunk: efficientnet_lite0, resnet18, resnet50, resnet101, mobilenet_v2 or
    mobilenet_v3_large."""
    layout: str = "ibug68"
    """Landmark layout of the annotations."""
    size: int = 256
    """Side of the network's input in pixels, a multiple of 32."""
    neighbours: int = 10
    """Neighbours whose offsets each landmark predicts (C; the paper's choice is 10)."""
    growth: float = 1.3
    """Side of the training crop over the longer side of the landmarks' bounding box."""
    weights: tuple[float, ...] = ()
    """How often each --data folder is seen in an epoch, in order; all once when empty."""
    unvalidated: tuple[str, ...] = ("youtube_faces",)
    """Names of --data folders that are all used for training (machine-made annotations)."""
    imagenet: bool = True
    """Start the trunk from ImageNet weights where a package carries them."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    training_data: str = "unstated"
    """Names and terms of the data, as the exported model will state them."""
    licence: str = "unstated"
    """Licence of the weights, as the exported model will state it."""

    def __post_init__(self) -> None:
        """Refuse settings that do not go together.

        Raises:
            TrainingError: As the loop's own settings, or a wrong size, weight or architecture.
            LayoutError: The layout is unknown.
        """
        LoopRecipe.__post_init__(self)
        if self.architecture not in ARCHITECTURES:
            raise TrainingError(
                f"unknown architecture {self.architecture!r}; known: {', '.join(ARCHITECTURES)}"
            )
        stride = ARCHITECTURES[self.architecture].stride
        if self.size < stride or self.size % stride:
            raise TrainingError(f"size must be a multiple of {stride}, got {self.size}")
        if self.weights and not (min(self.weights) >= 0 and max(self.weights) > 0):
            raise TrainingError(f"weights must not be negative nor all 0, got {self.weights}")
        if not 1 <= self.neighbours < get_layout(self.layout).num_points:
            raise TrainingError(
                f"neighbours must be fewer than the landmarks, got {self.neighbours}"
            )

    def build(self, data: Sequence[Path]) -> PipnetTask:
        """Read the data and build network and task.

        Raises:
            DataError: A folder is unusable, or nothing is left to train or to validate on.
        """
        if self.weights and len(self.weights) != len(data):
            raise DataError(f"{len(self.weights)} weights for {len(data)} --data folders")
        layout = get_layout(self.layout)
        folders, held_out = [], []
        for folder in data:
            train = read_faces(folder, self.layout, layout.num_points)
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
        spec = self.model_spec(np.mean(shapes, axis=0))
        network = build_pipnet(self.architecture, layout.num_points, self.neighbours)
        if self.imagenet and self.init is None:
            network.load_imagenet()
        weights = self.weights or (1.0,) * len(folders)
        return PipnetTask(network, spec, folders, weights, held_out, self.growth, self.augmentation)

    def model_spec(self, mean_face: np.ndarray) -> ModelSpec:
        """What the trained model says of itself; `mean_face` (L, 2) chooses the neighbours."""
        network = ARCHITECTURES[self.architecture]
        return ModelSpec(
            name=f"pipnet_{self.architecture}_{len(mean_face)}",
            task="landmarks",
            family="pipnet",
            architecture=self.architecture,
            decoder="pip",
            decoder_params={
                "stride": network.stride,
                "neighbours": nearest_neighbours(mean_face, self.neighbours).tolist(),
                "mean_face": np.round(mean_face, 6).tolist(),
            },
            layout=self.layout,
            input=InputSpec(self.size, self.size, "RGB", network.input_mean, network.input_std),
            # For boxes that hug the landmarks; the export fits the rule for detector boxes.
            crop=CropRule(*((self.growth - 1) / 2,) * 4, square=True),
            precision="fp32",
            producer="facemark-train",
            source_sha256="",
            training_data=self.training_data,
            licence=self.licence,
        )
