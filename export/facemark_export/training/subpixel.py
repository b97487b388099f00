"""Subpixel heatmap regression (Bulat et al. 2021): its encoding, its losses, Siamese training.

Figures in docs/reproduction.md say why maps peak at 1 where equation 1 has 1 / (2 pi sigma^2).
What the paper leaves open is said where it is decided.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from facemark_export.networks.corrected import peak_cells
from facemark_export.networks.stages import last_stage, stages
from facemark_export.training.augment import (
    Placement,
    change_pixels,
    crop_matrix,
    cut,
    drawn_placement,
    into_crop,
)
from facemark_export.training.heatmap_targets import (
    continuous_maps,
    full_precision,
    grid_cells,
    rounded_maps,
)
from facemark_export.training.heatmaps import ORIGIN, HeatmapTask
from facemark_export.training.regression_losses import l1, l2
from facemark_sdk.decode.heatmap import SUBPIXEL_TEMPERATURE, WINDOW

Encoding: TypeAlias = Literal["continuous", "rounded"]
Correction: TypeAlias = Literal["static", "dynamic"]

ORIGINS: Mapping[Encoding, float] = {"continuous": ORIGIN, "rounded": 0.0}
"""Where in its cell a position lies: rounding (equation 2) makes cell c stand for position c."""


@dataclass(frozen=True, kw_only=True)
class SubpixelLoss:
    """L2 between maps and targets (section 5.1) and, if wanted, the loss of section 4.3.

    Attributes:
        encoding: Gaussians about the landmarks (equation 3) or about their cells (equation 2).
        sigma: Of the Gaussians, in cells.
        coordinate_weight: Of the error of what `local_soft_argmax` reads. Section 4.3 has such a
            loss "during training" beside the maps' and finds no use in it; that it is L1, in
            fractions of the crop as of `soft_argmax_loss`, is ours.
        window: Side of its window, in cells.
        temperature: tau.
    """

    encoding: Encoding
    sigma: float
    coordinate_weight: float = 0.0
    window: int = WINDOW
    temperature: float = SUBPIXEL_TEMPERATURE

    def __call__(self, maps: Tensor, points: Tensor, seen: Tensor | None = None) -> Tensor:
        """The sum of both losses.

        Args:
            maps: (N, L, G, G).
            points: (N, L, 2), fractions of the maps' side.
            seen: (N, 1, G, G) bool, cells that count; None for all.
        """
        maps = full_precision(maps)
        points = points.to(maps.dtype)
        errors = maps - encoded(points, maps.shape[-1], self.sigma, self.encoding)
        loss = (errors if seen is None else errors * seen).square().mean()
        if self.coordinate_weight:
            found = local_soft_argmax(
                maps, self.window, self.temperature, origin=ORIGINS[self.encoding]
            )
            loss = loss + self.coordinate_weight * l1(found - points)
        return loss


def encoded(points: Tensor, side: int, sigma: float, encoding: Encoding) -> Tensor:
    """Targets (N, L, G, G) of points (N, L, 2), by equation 3 or 2."""
    if encoding == "rounded":
        return rounded_maps(points, side, sigma)
    return continuous_maps(points, side, sigma, origin=ORIGINS[encoding])


def local_soft_argmax(
    maps: Tensor, window: int, temperature: float, *, origin: float = ORIGIN
) -> Tensor:
    """Equations 4 and 5, differentiable in the window's values (not in where the window lies).

    Args:
        maps: (N, L, H, W).
        window: Side d, odd; its cells beyond the map carry no weight.
        temperature: tau.
        origin: Where in its cell a position lies, in cells.

    Returns:
        (N, L, 2) fractions of the crop's sides.
    """
    height, width = maps.shape[2:]
    highest = peak_cells(maps)
    reach = torch.arange(window, device=maps.device) - window // 2
    columns, rows = (highest[..., axis, None] + reach for axis in (0, 1))  # (N, L, d)
    inside = _within(rows, height)[..., :, None] & _within(columns, width)[..., None, :]
    cells = (
        rows.clamp(0, height - 1)[..., :, None] * width + columns.clamp(0, width - 1)[..., None, :]
    )
    around = maps.flatten(2).gather(2, cells.flatten(2))
    raised = (temperature * around).masked_fill(~inside.flatten(2), -torch.inf)
    weights = raised.softmax(-1).view(inside.shape)
    x, y = (weights.sum(2) * columns).sum(-1), (weights.sum(3) * rows).sum(-1)
    return torch.stack(((x + origin) / width, (y + origin) / height), -1)


# --- Siamese training (section 3.4) ---------------------------------------------------------


def view_matrix(square: tuple[float, float, float], placement: Placement) -> NDArray[np.float64]:
    """(2, 3) affine from a face's plain crop to its augmented one, both in fractions of their side.

    Args:
        square: The plain crop: centre x, y and side in image pixels.
        placement: The augmented one.
    """
    bottom = [[0.0, 0.0, 1.0]]
    plain, view = (
        np.concatenate((matrix, bottom)) for matrix in (crop_matrix(square, 1), placement.matrix(1))
    )
    return np.linalg.solve(view, plain)[:2]


@dataclass(frozen=True)
class Reversal:
    """The inverse of augmentations, T^-1 of equation 6, for maps with G cells a side.

    Attributes:
        grid: (N, G, G, 2), where each cell of the plain crop lies in the augmented crop's map, as
            `grid_sample` counts.
        seen: (N, 1, G, G) bool, whether it lies in it at all.
        mirrored: (N, 1, 1, 1) bool, whether that crop is mirrored, so that its maps of left and
            right have changed places.
        flip_index: (L,) int64, the layout's permutation.
    """

    grid: Tensor
    seen: Tensor
    mirrored: Tensor
    flip_index: Tensor

    @classmethod
    def of(
        cls, matrices: Tensor, mirrored: Tensor, flip_index: Tensor, side: int, origin: float
    ) -> Reversal:
        """Prepare it.

        Args:
            matrices: (N, 2, 3), from `view_matrix`.
            mirrored: (N,) bool.
            flip_index: (L,) int64.
            side: G.
            origin: Where in its cell a position lies, in cells.
        """
        places = (torch.arange(side, dtype=matrices.dtype, device=matrices.device) + origin) / side
        cells = torch.stack(torch.meshgrid(places, places, indexing="xy"), -1)
        # Sums, not a product of matrices: it would be rounded on some devices.
        linear, offset = matrices[:, None, None, :, :2], matrices[:, None, None, :, 2]
        there = (linear * cells[..., None, :]).sum(-1) + offset
        # Of grid_sample, -1 and 1 are the outer edges of the first and last cell, whose middles
        # are where positions plus half a cell less the origin lie.
        grid = 2 * (there + (0.5 - origin) / side) - 1
        seen = (grid.abs() <= 1).all(-1)
        return cls(grid, seen[:, None], mirrored[:, None, None, None], flip_index)

    def __call__(self, maps: Tensor) -> Tensor:
        """Augmented crops' maps (N, L, G, G) as the plain crops' maps, bilinear, differentiable."""
        unmirrored = torch.where(self.mirrored, maps[:, self.flip_index], maps)
        return F.grid_sample(
            unmirrored, self.grid.to(maps.dtype), padding_mode="border", align_corners=False
        )


def joined(maps: Tensor, reversal: Reversal) -> tuple[Tensor, Tensor]:
    """Equation 6: both crops' maps of each face, reversed and put together.

    The paper sums them and does not say what the sum is compared with. Here it is their mean, to
    be compared with the face's own targets: so each crop's maps learn to peak at 1, as decoders
    want them. It also does not say what becomes of cells that one crop does not show: they have
    the other crop's value alone.

    Args:
        maps: (2 N, L, G, G), first and second crops.
        reversal: Of these.

    Returns:
        (N, L, G, G), and (N, 1, G, G) bool: cells that either crop shows.
    """
    maps = full_precision(maps)
    seen = torch.stack(reversal.seen.chunk(2))
    both = torch.stack(reversal(maps).chunk(2)) * seen
    return both.sum(0) / seen.sum(0).clamp(min=1), seen.any(0)


class SiameseTask(HeatmapTask):
    """Two crops of each face a batch, augmented each by its own chance; `loss` has `joined` maps.

    The targets are those of the plain crop, into which both are turned back; there is no loss but
    that of equation 6's maps. It leaves open what each crop's maps are while their errors cancel:
    they are pinned only because crops meet other ones from epoch to epoch.
    """

    loss: SubpixelLoss

    def make_batch(self, indices: NDArray[np.intp], rng: np.random.Generator) -> dict[str, Tensor]:
        """Both crops of N faces, first all the first ones, and how to turn them back.

        Returns:
            ``image`` (2 N, S, S, 3) uint8, ``matrices`` (2 N, 2, 3) and ``mirrored`` (2 N,) of
            `Reversal.of`, and ``points`` (N, L, 2), fractions of the plain crop's side.
        """
        views: list[list[tuple[Any, ...]]] = [[], []]
        points = []
        for index, chance in zip(indices, rng.spawn(len(indices)), strict=True):
            face, square = self.faces[index], self.squares[index]
            image = face.image()
            for half in views:
                placement = drawn_placement(square, self.augmentation, chance)
                crop = cut(image, placement.matrix(self.size), self.size)
                crop = change_pixels(crop, self.augmentation, chance)
                half.append((crop, view_matrix(square, placement), placement.mirror))
            points.append(into_crop(face.points, crop_matrix(square, 1)))
        crops, matrices, mirrored = zip(*views[0], *views[1], strict=True)
        batch = {
            "image": np.stack(crops),
            "matrices": np.stack(matrices).astype(np.float32),
            "mirrored": np.array(mirrored),
            **self.targets(np.stack(points)),
        }
        return {key: torch.from_numpy(value) for key, value in batch.items()}

    def losses(self, outputs: Tensor, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The sum over the stages."""
        flip_index = torch.tensor(self.layout.flip_index, device=outputs.device)
        reversal = Reversal.of(
            batch["matrices"],
            batch["mirrored"],
            flip_index,
            outputs.shape[-1],
            ORIGINS[self.loss.encoding],
        )
        each = []
        for maps in stages(outputs):
            together, seen = joined(maps, reversal)
            each.append(self.loss(together, batch["points"], seen))
        return {"heatmap": torch.stack(each).sum()}


# --- coordinate correction (section 4.1, after DeepCut) -------------------------------------


def true_corrections(maps: Tensor, points: Tensor, kind: Correction) -> Tensor:
    """What a `CorrectedNetwork` shall say, (N, L, 2) in cells.

    Args:
        maps: (N, L, G, G).
        points: (N, L, 2).
        kind: From the cell that the point was rounded to, the encoding's error (``static``), or
            from the cell where the map peaks (``dynamic``).
    """
    side = maps.shape[-1]
    cells = grid_cells(points, side, "round") if kind == "static" else peak_cells(maps)
    return points * side - cells


class CorrectionTask(HeatmapTask):
    """A `CorrectedNetwork` in training, its maps by `loss`, its corrections by L2 beside it.

    The paper does not weigh the two; corrections count in fractions of the crop's side, in which
    the first, large ones of ``dynamic`` do not drown the maps.

    Args:
        arguments: As `HeatmapTask`.
        kind: Of `true_corrections`.
        keywords: As `HeatmapTask`.
    """

    def __init__(self, *arguments: Any, kind: Correction, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.kind = kind

    def losses(
        self, outputs: tuple[Tensor, Tensor], batch: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """The sum over the stages, and the corrections'."""
        maps, corrections = outputs
        truth = true_corrections(last_stage(maps), batch["points"], self.kind)
        errors = (corrections - truth) / maps.shape[-1]
        return {**super().losses(maps, batch), "correction": l2(errors)}


def _within(cells: Tensor, side: int) -> Tensor:
    return (cells >= 0) & (cells < side)
