"""Training PIPNet: targets, loss and task (paper section 3.1-3.2, COMPAT 1.5)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from facemark_export.training.augment import (
    Augmentation,
    augmented_crop,
    crop_matrix,
    cut,
    into_crop,
    square_around,
)
from facemark_export.training.landmark_data import AnnotatedFace, weighted_order
from facemark_sdk.decode import make_decoder
from facemark_sdk.decode.pip import OUTPUT_NAMES
from facemark_sdk.layouts import get_layout
from facemark_sdk.metrics import normalised_errors
from facemark_sdk.spec import ModelSpec

# COMPAT 1.5: 10 * MSE over the score map, 1 * L1 for each kind of offset
SCORE_WEIGHT = 10.0
OFFSET_WEIGHT = 1.0

_VALIDATION_BATCH = 32


def pip_targets(
    points: NDArray[np.float32], neighbours: NDArray[np.intp], grid: int
) -> dict[str, NDArray[Any]]:
    """Where the ones of the score maps stand, and the offsets there.

    Args:
        points: (N, L, 2) as fractions of the crop side.
        neighbours: (L, C) landmark indices.
        grid: G, cells a side.

    Returns:
        ``cell`` (N, L) int64, row-major; ``offset`` (N, L, 2) and ``neighbour_offset``
        (N, L, C, 2) float32, in cells from the cell's corner. A landmark outside the crop is
        given the nearest border cell; its offsets then leave 0..1.
    """
    scaled = points * np.float32(grid)
    corner = np.clip(np.floor(scaled), 0, grid - 1)
    return {
        "cell": (corner[..., 1] * grid + corner[..., 0]).astype(np.int64),
        "offset": scaled - corner,
        "neighbour_offset": scaled[:, neighbours] - corner[:, :, None],
    }


def pip_losses(outputs: Sequence[Tensor], targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """PIPNet's weighted losses: MSE over whole score maps, L1 of offsets at the true cells.

    Args:
        outputs: cls, x, y (N, L, G, G) and nb_x, nb_y (N, L * C, G, G).
        targets: As `pip_targets` makes them.
    """
    scores, x, y, nb_x, nb_y = (o.float() for o in outputs)
    cell = targets["cell"]
    faces, landmarks = cell.shape
    truth = torch.zeros_like(scores).flatten(2).scatter_(2, cell[..., None], 1.0)

    def at_cell(maps: Tensor) -> Tensor:
        maps = maps.reshape(faces, landmarks, -1, truth.shape[2])
        index = cell[:, :, None, None].expand(-1, -1, maps.shape[2], -1)
        return maps.gather(3, index).squeeze(3)

    own, others = targets["offset"], targets["neighbour_offset"]
    return {
        "score": SCORE_WEIGHT * F.mse_loss(scores.flatten(2), truth),
        "offset": OFFSET_WEIGHT
        * (
            F.l1_loss(at_cell(x).squeeze(2), own[..., 0])
            + F.l1_loss(at_cell(y).squeeze(2), own[..., 1])
        ),
        "neighbour": OFFSET_WEIGHT
        * (F.l1_loss(at_cell(nb_x), others[..., 0]) + F.l1_loss(at_cell(nb_y), others[..., 1])),
    }


class PipnetTask:
    """A PIPNet, its training faces by folder, and the held-out faces that judge it.

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
        self.held_out, self.growth, self.augmentation = held_out, growth, augmentation
        self.layout = get_layout(spec.layout)
        self.size = spec.input.width
        self.grid = self.size // int(spec.decoder_params["stride"])
        self.neighbours = np.asarray(spec.decoder_params["neighbours"], np.intp)
        self.decode = make_decoder(spec)
        self._held_out_crops = [self._plain_crop(face) for face in held_out]

    def __len__(self) -> int:
        return len(self.epoch_indices(np.random.default_rng(0)))

    def epoch_indices(self, rng: np.random.Generator) -> NDArray[np.intp]:
        """One epoch over all folders, by their weights."""
        return weighted_order(self.counts, self.weights, rng)

    def make_batch(
        self, indices: NDArray[np.intp], rng: np.random.Generator
    ) -> dict[str, torch.Tensor]:
        """Augmented crops (N, S, S, 3) uint8 and their targets."""
        crops, points = [], []
        for index in indices:
            face = self.faces[index]
            crop, placed = augmented_crop(
                face.image(),
                face.points,
                self.layout.flip_index,
                square_around(face.points, self.growth),
                self.size,
                self.augmentation,
                rng,
            )
            crops.append(crop)
            points.append(placed / self.size)
        targets = pip_targets(np.stack(points), self.neighbours, self.grid)
        batch = {"image": np.stack(crops), **targets}
        return {key: torch.from_numpy(value) for key, value in batch.items()}

    def losses(
        self, outputs: Sequence[Tensor], batch: Mapping[str, Tensor]
    ) -> dict[str, torch.Tensor]:
        """See `pip_losses`."""
        return pip_losses(outputs, batch)

    def validate(self, forward: Callable[[Tensor], Sequence[Tensor]]) -> dict[str, float]:
        """Inter-ocular NME (%) and failure rate over 0.10 (%), on crops of annotated boxes."""
        errors = []
        for start in range(0, len(self.held_out), _VALIDATION_BATCH):
            crops, truths = zip(
                *self._held_out_crops[start : start + _VALIDATION_BATCH], strict=True
            )
            outputs = forward(torch.from_numpy(np.stack(crops)))
            named = zip(OUTPUT_NAMES, outputs, strict=True)
            points = self.decode({name: o.float().cpu().numpy() for name, o in named}).points
            errors.append(normalised_errors(points * self.size, np.stack(truths), self.layout))
        nme = np.concatenate(errors).mean(axis=1)
        return {"nme": 100 * float(nme.mean()), "failures": 100 * float((nme > 0.10).mean())}

    def _plain_crop(self, face: AnnotatedFace) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        matrix = crop_matrix(square_around(face.points, self.growth), self.size)
        return cut(face.image(), matrix, self.size), into_crop(face.points, matrix)
