"""Two small matrices in the place of a large one, where only some of its products are looked at.

The start is reduced-rank regression (Izenman, 1975): of all products of two matrices the one with
the least squared error. It weighs a cell alike for all landmarks; what a decoder reads in a cell is
of one. So gradient steps follow that count what is read alone: with 128 channels of 1,280 they take
the loss of NME on faces not seen from 0.08 points to 0.02.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float32]

SCORES = "cls"
"""The output whose best cell is where a landmark is read (COMPAT 1.1)."""
SCORES_COUNT = 3.0
"""Errors of scores count so many times in the start: a wrong cell moves a landmark farther than a
wrong offset. Of 1, 3, 6 and 10 the best NME."""
EVERYWHERE = 0.05
"""Cells in which no landmark is read count so little in the start; where n are, min(n, 3) / 3
more."""
STEPS, FACES, RATE = 600, 24, 3e-4
"""Gradient steps, the faces of each, and the peak of Adam's learning rate."""
_WEIGHTS = {"cls": 10.0, "x": 0.25, "y": 0.25, "nb_x": 1.0, "nb_y": 1.0}
"""Of the outputs' mean squares, those of cls over all cells. An offset is averaged with ten
neighbours' opinions, and so counts for little."""
_WARM_UP = 20


class Heads(NamedTuple):
    """A linear map of features to several outputs.

    Attributes:
        weights: (rows, C) of all outputs, one after the other.
        biases: (rows,).
        rows: By output.
    """

    weights: Floats
    biases: Floats
    rows: Mapping[str, slice]


class Narrow(NamedTuple):
    """The same map through fewer channels.

    Attributes:
        down: (channels, C).
        up: (rows, channels).
        bias: (rows,).
    """

    down: Floats
    up: Floats
    bias: Floats


def start(heads: Heads, features: Floats, channels: int) -> Narrow:
    """The least weighted squared error over all cells.

    Args:
        heads: What shall be narrower.
        features: (N, cells, C).
        channels: Between; at least 1.
    """
    cells = features.reshape(-1, features.shape[-1])
    counts = cell_counts(heads, features).ravel()
    mean = np.average(cells, axis=0, weights=counts)
    centred = (cells - mean) * np.sqrt(counts / counts.sum())[:, None]
    importance = np.ones(len(heads.weights))
    importance[heads.rows[SCORES]] = SCORES_COUNT
    weights = heads.weights.astype(np.float64)
    outputs = importance[:, None] * weights
    spread = outputs @ (centred.T @ centred) @ outputs.T
    directions = np.linalg.eigh(spread).eigenvectors[:, ::-1][:, :channels]
    down = directions.T @ outputs
    up = directions / importance[:, None]
    bias = heads.biases + weights @ mean - up @ (down @ mean)
    return Narrow(*(part.astype(np.float32) for part in (down, up, bias)))


def cell_counts(heads: Heads, features: Floats) -> NDArray[np.float64]:
    """How much each cell (N, cells) counts in the start."""
    read = _best_cells(heads, torch.from_numpy(features)).numpy()
    count = features.shape[1]
    landmarks = np.stack([np.bincount(own, minlength=count) for own in read])
    return EVERYWHERE + np.minimum(landmarks, 3) / 3


def teach(heads: Heads, features: Floats, narrow: Narrow, steps: int = STEPS) -> Narrow:
    """Go on from a start: what the heads say where they are read is the truth.

    Args:
        heads: The teacher.
        features: (N, cells, C).
        narrow: The start.
        steps: Of Adam, with a cosine schedule.
    """
    seen = torch.from_numpy(features)
    best = _best_cells(heads, seen)
    weights, biases = torch.from_numpy(heads.weights), torch.from_numpy(heads.biases)
    down, up, bias = (torch.from_numpy(part.copy()).requires_grad_() for part in narrow)
    optimizer = torch.optim.Adam([down, up, bias], RATE)
    drawing = torch.Generator().manual_seed(0)
    for step in range(steps):
        rate = RATE * min(1.0, (step + 1) / _WARM_UP) * (1 + np.cos(np.pi * step / steps)) / 2
        for group in optimizer.param_groups:
            group["lr"] = rate
        drawn = torch.randint(len(seen), (min(FACES, len(seen)),), generator=drawing)
        cells = seen[drawn]
        errors = cells @ down.T @ up.T + bias - (cells @ weights.T + biases)
        loss = _as_read(errors, best[drawn], heads.rows)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return Narrow(*(part.detach().numpy() for part in (down, up, bias)))


def even(narrow: Narrow) -> Narrow:
    """The same map with channels of like range, which share one scale in int8.

    They come as principal directions, the first ones far wider than the last. Any rotation between
    the two matrices leaves their product; a drawn one mixes them.
    """
    drawn = np.random.default_rng(0).standard_normal((len(narrow.down),) * 2)
    rotation = np.linalg.qr(drawn).Q
    return Narrow(
        (rotation @ narrow.down).astype(np.float32),
        (narrow.up @ rotation.T).astype(np.float32),
        narrow.bias,
    )


def _as_read(errors: Tensor, best: Tensor, rows: Mapping[str, slice]) -> Tensor:
    """The weighted squares of errors (N, cells, rows) where landmarks are read, best (N, L)."""
    landmarks = best.shape[1]
    total = torch.zeros(())
    for name, own in rows.items():
        part = errors[..., own]
        if name != SCORES:
            part = part.unflatten(-1, (landmarks, -1))  # rows of a landmark are neighbours
            index = best[:, None, :, None].expand(-1, 1, -1, part.shape[-1])
            part = part.gather(1, index)
        total = total + _WEIGHTS[name] * part.square().mean()
    return total


def _best_cells(heads: Heads, features: Tensor) -> Tensor:
    """(N, L) of features (N, cells, C): the cell of each landmark's best score."""
    own = heads.rows[SCORES]
    scores = features @ torch.from_numpy(heads.weights[own]).T
    # the bias of a landmark is the same in all cells
    return scores.argmax(dim=1)
