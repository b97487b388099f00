"""What training any landmark network shares: faces, augmented crops, validation by the decoder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from facemark_export.networks.stages import last_stage
from facemark_export.training.augment import (
    Augmentation,
    augmented_crop,
    crop_matrix,
    cut,
    into_crop,
    square_around,
)
from facemark_export.training.landmark_data import AnnotatedFace, weighted_order
from facemark_sdk.decode import find_decoder
from facemark_sdk.layouts import get_layout
from facemark_sdk.metrics import normalised_errors
from facemark_sdk.spec import ModelSpec

_VALIDATION_BATCH = 32


class LandmarkTask(ABC):
    """A landmark network, its training faces by folder, and the held-out faces that judge it.

    Args:
        network: The network.
        spec: What its exported model will say; its decoder is the one that validates.
        folders: Training faces, a list a folder.
        weights: How often each folder is seen in an epoch.
        held_out: Validation faces.
        growth: Side of the crop over the longer side of the points' box.
        augmentation: Strengths.
    """

    metric = "nme"
    higher_is_better = False

    def __init__(
        self,
        network: nn.Module,
        spec: ModelSpec,
        folders: Sequence[Sequence[AnnotatedFace]],
        weights: Sequence[float],
        held_out: Sequence[AnnotatedFace],
        growth: float,
        augmentation: Augmentation,
    ) -> None:
        self.network, self.spec, self.weights = network, spec, weights
        self.counts = [len(folder) for folder in folders]
        self.faces = [face for folder in folders for face in folder]
        self.squares = [square_around(face.points, growth) for face in self.faces]
        self.held_out, self.growth, self.augmentation = held_out, growth, augmentation
        self.layout = get_layout(spec.layout)
        self.size = spec.input.width
        decoder = find_decoder(spec)
        self.outputs, self.decode = decoder.outputs, decoder.make(spec)
        self._held_out_crops = [self._plain_crop(face) for face in held_out]

    def __len__(self) -> int:
        return len(self.epoch_indices(np.random.default_rng(0)))

    def epoch_indices(self, rng: np.random.Generator) -> NDArray[np.intp]:
        """One epoch over all folders, by their weights."""
        return weighted_order(self.counts, self.weights, rng)

    def make_batch(self, indices: NDArray[np.intp], rng: np.random.Generator) -> dict[str, Tensor]:
        """Augmented crops (N, S, S, 3) uint8 and their targets."""
        crops, points = [], []
        for index, chance in zip(indices, rng.spawn(len(indices)), strict=True):
            face = self.faces[index]
            crop, placed = augmented_crop(
                face.image(),
                face.points,
                self.layout.flip_index,
                self.squares[index],
                self.size,
                self.augmentation,
                chance,
            )
            crops.append(crop)
            points.append(placed / self.size)
        batch = {"image": np.stack(crops), **self.targets(np.stack(points))}
        return {key: torch.from_numpy(value) for key, value in batch.items()}

    @abstractmethod
    def targets(self, points: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """What the network should give for points (N, L, 2), fractions of the crop's side."""

    @abstractmethod
    def losses(self, outputs: Any, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Named, weighted scalars, which the loop sums."""

    def validate(self, forward: Callable[[Tensor], Any]) -> dict[str, float]:
        """Inter-ocular NME (%) and failure rate over 0.10 (%), on crops of annotated boxes."""
        errors = []
        for start in range(0, len(self.held_out), _VALIDATION_BATCH):
            crops, truths = zip(
                *self._held_out_crops[start : start + _VALIDATION_BATCH], strict=True
            )
            outputs = forward(torch.from_numpy(np.stack(crops)))
            named = zip(
                self.outputs, (outputs,) if isinstance(outputs, Tensor) else outputs, strict=True
            )
            points = self.decode(
                {name: last_stage(o).float().cpu().numpy() for name, o in named}
            ).points
            errors.append(normalised_errors(points * self.size, np.stack(truths), self.layout))
        nme = np.concatenate(errors).mean(axis=1)
        return {"nme": 100 * float(nme.mean()), "failures": 100 * float((nme > 0.10).mean())}

    def _plain_crop(self, face: AnnotatedFace) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        matrix = crop_matrix(square_around(face.points, self.growth), self.size)
        return cut(face.image(), matrix, self.size), into_crop(face.points, matrix)
