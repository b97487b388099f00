"""The torch twin of every decoder of the SDK, for use inside an exported graph.

Each takes the network's raw outputs in the order of its decoder's ``outputs`` and gives points in
crop units and scores, barycentres their covariances too. What it computes, and why, stands at its
decoder in `facemark_sdk.decode`; a test holds both to the same numbers. ONNX's ArgMax takes the
first of equal maxima, as the decoders do.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from facemark_sdk.decode import barycentre, dark, heatmap, regression
from facemark_sdk.decode.decoded import Floats
from facemark_sdk.decode.pip import Merging


class Peaks(NamedTuple):
    """Largest values of (N, L, H, W) maps, and where they are: `best` counts cells row by row.

    All are (N, L), but for `cells`, (N, L, 2) column and row as floats.
    """

    best: Tensor
    cells: Tensor
    columns: Tensor
    rows: Tensor
    values: Tensor

    @property
    def scores(self) -> Tensor:
        """(N, L)."""
        return self.values.clamp(0.0, 1.0)


def find_peaks(maps: Tensor) -> Peaks:
    """The peaks of (N, L, H, W) maps."""
    height, width = maps.shape[-2:]
    flat = maps.flatten(2)
    best = flat.argmax(dim=2, keepdim=True)
    values = flat.gather(2, best).squeeze(2)
    best = best.squeeze(2)
    # a table, as ONNX has no floor division: eight operators stand for it
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    table = torch.stack((columns, rows), dim=-1).flatten(0, 1).float()
    cells = nn.functional.embedding(best, table)
    return Peaks(best, cells, best % width, best // width, values)


def patches_around(maps: Tensor, peaks: Peaks, radius: int) -> tuple[Tensor, Tensor]:
    """Values and inside (N, L, d, d), d = 2 * radius + 1, as the SDK's `patches_around`."""
    height, width = maps.shape[-2:]
    reach = torch.arange(-radius, radius + 1)
    columns, rows = peaks.columns[..., None] + reach, peaks.rows[..., None] + reach
    inside_rows, inside_columns = (rows >= 0) & (rows < height), (columns >= 0) & (columns < width)
    inside = inside_rows[..., :, None] & inside_columns[..., None, :]
    rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    cells = rows[..., :, None] * width + columns[..., None, :]
    values = maps.flatten(2).gather(2, cells.flatten(2))
    return values.unflatten(2, (len(reach), len(reach))), inside


def all_of(inside: Tensor) -> Tensor:
    """(N, L, 1), whether all of (N, L, d, d) cells are in the map."""
    return inside.flatten(2).all(dim=2, keepdim=True)


def cell_sides(maps: Tensor, side: int) -> Tensor:
    """(2,) width and height of a map's cell in crop units."""
    height, width = maps.shape[-2:]
    return torch.tensor([side / width, side / height])


class PipTwin(nn.Module):
    """Of `decode_pip`; what it gathers is one matrix product here."""

    def __init__(self, merging: Merging, side: int) -> None:
        super().__init__()
        self.register_buffer("own", torch.from_numpy(merging.own)[:, None])
        self.register_buffer("others", torch.from_numpy(merging.others))
        self.side = side

    def forward(
        self, cls: Tensor, x: Tensor, y: Tensor, nb_x: Tensor, nb_y: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Score map, own offsets (N, L, G, G), neighbours' offsets (N, L * C, G, G)."""
        peaks = find_peaks(cls)
        best = peaks.best[..., None, None]  # (N, L, 1, 1)
        landmarks = cls.shape[1]

        def picked(maps: Tensor) -> Tensor:
            """The maps' values at their landmark's best cell: (N, L, maps per landmark)."""
            each = maps.shape[1] // landmarks
            values = maps.flatten(2).unflatten(1, (landmarks, each))
            return values.gather(3, best.expand(-1, -1, each, -1)).squeeze(3)

        points = (peaks.cells + torch.cat((picked(x), picked(y)), dim=-1)) * self.own
        if self.others.shape[1]:
            opinions = torch.stack((picked(nb_x), picked(nb_y)), dim=-1) + peaks.cells[:, :, None]
            points = points + self.others @ opinions.flatten(1, 2)
        return points * cell_sides(cls, self.side), peaks.scores


class PeakTwin(nn.Module):
    """Of `decode_peaks`; `locate` is a twin of one of its functions."""

    def __init__(self, locate: nn.Module, origin: float, side: int) -> None:
        super().__init__()
        self.locate, self.origin, self.side = locate, origin, side

    def forward(self, heatmaps: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (N, L, H, W)."""
        peaks = find_peaks(heatmaps)
        cells = self.locate(heatmaps, peaks)
        return (cells + self.origin) * cell_sides(heatmaps, self.side), peaks.scores


class PeakCells(nn.Module):
    """Of `peak_cells`."""

    def forward(self, maps: Tensor, peaks: Peaks) -> Tensor:
        """(N, L, 2) cells."""
        return peaks.cells


class QuarterShift(nn.Module):
    """Of `quarter_shift`."""

    def forward(self, maps: Tensor, peaks: Peaks) -> Tensor:
        """(N, L, 2) cells."""
        around, inside = patches_around(maps, peaks, 1)
        slope = torch.stack(
            (around[..., 1, 2] - around[..., 1, 0], around[..., 2, 1] - around[..., 0, 1]), dim=-1
        )
        cells = peaks.cells + heatmap.SHIFT * torch.sign(slope) * all_of(inside)
        return torch.where(peaks.values[..., None] > 0, cells, -1.0)


class LocalSoftArgmax(nn.Module):
    """Of `local_soft_argmax`."""

    def __init__(self, window: int, temperature: float) -> None:
        super().__init__()
        self.radius, self.temperature = window // 2, temperature

    def forward(self, maps: Tensor, peaks: Peaks) -> Tensor:
        """(N, L, 2) cells."""
        around, inside = patches_around(maps, peaks, self.radius)
        raised = (around - peaks.values[..., None, None]) * self.temperature
        weights = torch.exp(raised) * inside
        reach = torch.arange(-self.radius, self.radius + 1, dtype=torch.float32)
        offsets = torch.stack((weights.sum(-2) @ reach, weights.sum(-1) @ reach), dim=-1)
        return peaks.cells + offsets / weights.sum((-2, -1))[..., None]


class Dark(nn.Module):
    """Of `dark`; takes its blur matrix."""

    def __init__(self, blur: Floats) -> None:
        super().__init__()
        self.register_buffer("blur", torch.from_numpy(blur))

    def forward(self, maps: Tensor, peaks: Peaks) -> Tensor:
        """(N, L, 2) cells."""
        radius, m = self.blur.shape[1] // 2, dark.RADIUS
        around, inside = patches_around(maps, peaks, radius)
        peak = peaks.values[..., None, None]
        positive = peak > float(dark.LOG_FLOOR)
        peak = torch.where(positive, peak, 1.0)
        seen = torch.maximum(around, float(dark.LOWEST) * peak)
        away = torch.where(inside, (seen - peak) / peak, -1.0)
        below = self.blur @ away @ self.blur.T
        near = below.clamp(min=float(dark.NEAR))
        far = torch.log(torch.maximum(1 + below, float(dark.LOG_FLOOR) / peak))
        f = torch.where(below > float(dark.NEAR), 2 * torch.atanh(near / (2 + near)), far)

        def at(row: int, column: int) -> Tensor:
            return f[..., m + row, m + column]

        dx, dy = 0.5 * (at(0, 1) - at(0, -1)), 0.5 * (at(1, 0) - at(-1, 0))
        dxx = 0.25 * (at(0, 2) - 2 * at(0, 0) + at(0, -2))
        dyy = 0.25 * (at(2, 0) - 2 * at(0, 0) + at(-2, 0))
        dxy = 0.25 * (at(1, 1) - at(1, -1) - at(-1, 1) + at(-1, -1))
        determinant = (dxx * dyy - dxy * dxy)[..., None]
        solvable = determinant != 0
        step = torch.stack((dxy * dy - dyy * dx, dxy * dx - dxx * dy), dim=-1)
        step = step / torch.where(solvable, determinant, 1.0)
        near = inside[..., radius - m : radius + m + 1, radius - m : radius + m + 1]
        short = (step * step).sum(-1, keepdim=True) <= float(dark.LONGEST_STEP) ** 2
        moves = solvable & positive[..., 0] & all_of(near) & short
        return peaks.cells + torch.where(moves, step, 0.0)


class BarycentreTwin(nn.Module):
    """Of `decode_barycentre`; `weigh` is a twin of one of its functions."""

    def __init__(
        self, weigh: nn.Module, origin: float, side: int, covariance_scale: float = 1.0
    ) -> None:
        super().__init__()
        self.weigh, self.origin, self.side = weigh, origin, side
        self.covariance_scale = covariance_scale

    def forward(self, heatmaps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Maps (N, L, H, W)."""
        height, width = heatmaps.shape[-2:]
        weights = self.weigh(heatmaps)
        columns, rows = (torch.arange(n, dtype=torch.float32) for n in (width, height))
        over_columns, over_rows = weights.sum(-2), weights.sum(-1)
        x, y = over_columns @ columns, over_rows @ rows
        dx, dy = columns - x[..., None], rows - y[..., None]
        xx, yy = (over_columns * dx * dx).sum(-1), (over_rows * dy * dy).sum(-1)
        along = weights @ torch.stack((dx, _in_square(dx)), dim=-1)
        xy = (along[..., 0] * dy).sum(-1)
        scores = (along[..., 1] * _in_square(dy)).sum(-1).clamp(0.0, 1.0)
        sides = cell_sides(heatmaps, self.side)
        covariances = torch.stack((xx, xy, xy, yy), dim=-1).unflatten(-1, (2, 2))
        points = (torch.stack((x, y), dim=-1) + self.origin) * sides
        return points, scores, covariances * (sides[:, None] * sides * self.covariance_scale)


class Softmax(nn.Module):
    """Of `softmax`."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, maps: Tensor) -> Tensor:
        """Distributions of (N, L, H, W) maps."""
        flat = maps.flatten(2)
        raised = (flat - flat.amax(2, keepdim=True)) * self.temperature
        return torch.softmax(raised, dim=2).unflatten(2, maps.shape[-2:])


class PositivePart(nn.Module):
    """Of `positive_part`."""

    def forward(self, maps: Tensor) -> Tensor:
        """Distributions of (N, L, H, W) maps."""
        weights = maps.clamp(min=0.0)
        total = weights.sum((-2, -1), keepdim=True)
        uniform = 1 / (maps.shape[-2] * maps.shape[-1])
        return torch.where(total > 0, weights / torch.where(total > 0, total, 1.0), uniform)


class HihTwin(nn.Module):
    """Of `decode_hih`."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, heatmaps: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (N, L, H, W) and (N, L, h, w)."""
        peaks, inner = find_peaks(heatmaps), find_peaks(offsets)
        within = _positive_cells(inner) * cell_sides(offsets, 1)
        points = (_positive_cells(peaks) + within) * cell_sides(heatmaps, self.side)
        return points, peaks.scores


class OffsetTwin(nn.Module):
    """Of `decode_offset_map` and `decode_offset_value`."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, heatmaps: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (N, L, H, W), and offset maps (N, 2, H, W) or values (N, L, 2)."""
        peaks = find_peaks(heatmaps)
        if offsets.dim() == 4:
            best = peaks.best[:, None].expand(-1, 2, -1)
            offsets = offsets.flatten(2).gather(2, best).transpose(1, 2)
        return (peaks.cells + offsets) * cell_sides(heatmaps, self.side), peaks.scores


class RegressionTwin(nn.Module):
    """Of `decode_regression`; takes its mean shape."""

    def __init__(self, mean_shape: Floats, side: int) -> None:
        super().__init__()
        self.register_buffer("mean_shape", torch.from_numpy(mean_shape))
        self.side = side

    def forward(self, displacement: Tensor) -> tuple[Tensor, Tensor]:
        """Displacements (N, 2L)."""
        points = self.mean_shape + displacement.unflatten(1, self.mean_shape.shape)
        return points * self.side, torch.full_like(points[..., 0], regression.SCORE)


def _in_square(distances: Tensor) -> Tensor:
    return (barycentre.HALF_SQUARE + 0.5 - distances.abs()).clamp(0.0, 1.0)


def _positive_cells(peaks: Peaks) -> Tensor:
    return torch.where(peaks.values[..., None] > 0, peaks.cells, 0.0)
