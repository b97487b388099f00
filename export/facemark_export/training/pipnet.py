"""Training PIPNet: targets, loss and task (paper section 3.1-3.2, COMPAT 1.5)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facemark_export.training.landmark_task import LandmarkTask

SCORE_WEIGHT = 10.0
"""Of the MSE over score maps (COMPAT 1.5)."""
OFFSET_WEIGHTS = {16: 0.2, 8: 1.0, 4: 1.25, 2: 2.5}
"""Of the L1 of offsets and neighbours by the cells along a side: alpha = beta = 0.02, 0.1, 0.125
and 0.25 of the score's weight, for strides 16, 32, 64 and 128 (paper section 4.1.2, where inputs
have 256 pixels)."""


def offset_weight_of(grid: int) -> float:
    """The published weight for the grid nearest in ratio to G cells a side, the finer of two."""
    nearest = min(OFFSET_WEIGHTS, key=lambda known: (abs(math.log(known / grid)), -known))
    return OFFSET_WEIGHTS[nearest]


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


def score_loss(scores: Tensor, cell: Tensor, counted: Tensor | None = None) -> Tensor:
    """Weighted MSE of score maps (N, L, G, G) to one-hot maps of true cells (N, L); equation 2.

    `counted` is as in `pip_losses`.
    """
    scores = at_least_float32(scores).flatten(2)
    truth = torch.zeros_like(scores).scatter_(2, cell[..., None], 1.0)
    return SCORE_WEIGHT * _mean((scores - truth).square(), counted)


def pip_losses(
    outputs: Sequence[Tensor],
    targets: Mapping[str, Tensor],
    *,
    offset_weight: float = OFFSET_WEIGHTS[8],
    neighbour_weight: float = OFFSET_WEIGHTS[8],
    counted: Tensor | None = None,
) -> dict[str, Tensor]:
    """PIPNet's weighted losses, equations 2, 3 and 6: offsets count at the true cells only.

    Args:
        outputs: cls, x, y (N, L, G, G) and nb_x, nb_y (N, L * C, G, G).
        targets: As `pip_targets` makes them.
        offset_weight: Of the landmarks' own offsets.
        neighbour_weight: Of their neighbours' offsets.
        counted: (N,) bool, the faces that count, all when None; of none every loss is 0. Sums are
            divided by how much counts (COMPAT 1.5, GSSL).
    """
    scores, x, y, nb_x, nb_y = (at_least_float32(maps) for maps in outputs)
    cell = targets["cell"]
    faces, landmarks = cell.shape

    def wrong(maps: Tensor, truth: Tensor) -> Tensor:
        """L1 at the true cells, of `truth` (N, L) or (N, L, C)."""
        maps = maps.reshape(faces, landmarks, -1, scores[0, 0].numel())
        index = cell[:, :, None, None].expand(-1, -1, maps.shape[2], -1)
        return _mean((maps.gather(3, index).view_as(truth) - truth).abs(), counted)

    own, others = targets["offset"], targets["neighbour_offset"]
    return {
        "score": score_loss(scores, cell, counted),
        "offset": offset_weight * (wrong(x, own[..., 0]) + wrong(y, own[..., 1])),
        "neighbour": neighbour_weight * (wrong(nb_x, others[..., 0]) + wrong(nb_y, others[..., 1])),
    }


def at_least_float32(maps: Tensor) -> Tensor:
    """Autocast's half-precision maps in float32; float64 stays."""
    return maps if maps.dtype == torch.float64 else maps.float()


def _mean(values: Tensor, counted: Tensor | None) -> Tensor:
    """Mean over the counted faces' values (N, ...); 0 where no face counts."""
    if counted is None:
        return values.mean()
    each = values.flatten(1).mean(dim=1)
    return (each * counted).sum() / counted.sum().clamp(min=1)


class PipnetTask(LandmarkTask):
    """A PIPNet in training; its spec states stride, neighbours and opinions.

    Where no opinion counts (the paper's PIPNet without NRM), none is learnt.
    """

    @property
    def loss_weights(self) -> dict[str, float]:
        """Of `pip_losses`."""
        params = self.spec.decoder_params
        weight = offset_weight_of(self.size // params["stride"])
        return {
            "offset_weight": weight,
            "neighbour_weight": weight if any(params["opinions"]) else 0.0,
        }

    def targets(self, points: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """See `pip_targets`."""
        params = self.spec.decoder_params
        neighbours = np.asarray(params["neighbours"], np.intp)
        return pip_targets(points, neighbours, self.size // int(params["stride"]))

    def losses(self, outputs: Sequence[Tensor], batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `pip_losses`."""
        return pip_losses(outputs, batch, **self.loss_weights)
