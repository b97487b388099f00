"""Where maps peak: the one arg-max of all heatmap decoders, and the values around it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from facemark_sdk.decode.decoded import Floats


@dataclass(frozen=True, slots=True, eq=False)
class Peaks:
    """The largest value of each map of N crops with L landmarks.

    Attributes:
        cell: (N, L) intp, row by row: the index in the flattened map.
        columns: (N, L) intp.
        rows: (N, L) intp.
        values: (N, L) float32.
    """

    cell: NDArray[np.intp]
    columns: NDArray[np.intp]
    rows: NDArray[np.intp]
    values: Floats

    @property
    def cells(self) -> Floats:
        """(N, L, 2) float32: column and row."""
        cells = np.empty((*self.columns.shape, 2), np.float32)
        cells[..., 0], cells[..., 1] = self.columns, self.rows
        return cells

    @property
    def scores(self) -> Floats:
        """(N, L) float32: the values clipped to 0..1; maps are trained to peak at 1."""
        return self.values.clip(0.0, 1.0)


def find_peaks(maps: Floats) -> Peaks:
    """The peaks of (N, L, H, W) maps; ties go to the lowest row-major index (COMPAT, notation)."""
    *lead, height, width = maps.shape
    best = maps.reshape(*lead, height * width).argmax(axis=-1)
    rows, columns = np.divmod(best, width)
    return Peaks(best, columns, rows, maps.take(best + first_cells(maps.shape)))


def first_cells(shape: tuple[int, ...]) -> NDArray[np.intp]:
    """Where each of (N, M, H, W) maps begins in the flattened array, (N, M) intp, read-only."""
    faces, count, height, width = shape
    return _first_cells(faces, count, height * width)


@lru_cache(maxsize=64)
def _first_cells(faces: int, count: int, cells: int) -> NDArray[np.intp]:
    first = np.arange(0, faces * count * cells, cells).reshape(faces, count)
    first.flags.writeable = False
    return first


def patches_around(maps: Floats, peaks: Peaks, radius: int) -> tuple[Floats, NDArray[np.bool_]]:
    """The square of each map about its peak, d = 2 * radius + 1 cells wide.

    Args:
        maps: (N, L, H, W).
        peaks: Theirs.
        radius: Cells on each side.

    Returns:
        values: (N, L, d, d) float32; beyond the border the nearest border cell's.
        inside: (N, L, d, d), which of the square's cells the map has.
    """
    *lead, height, width = maps.shape
    reach = np.arange(-radius, radius + 1)
    columns, rows = peaks.columns[..., None] + reach, peaks.rows[..., None] + reach
    inside = ((rows >= 0) & (rows < height))[..., :, None]
    inside = inside & ((columns >= 0) & (columns < width))[..., None, :]
    cells = rows.clip(0, height - 1)[..., :, None] * width
    cells = cells + columns.clip(0, width - 1)[..., None, :]
    flat = maps.reshape(*lead, height * width)
    values = np.take_along_axis(flat, cells.reshape(*lead, len(reach) ** 2), axis=-1)
    return values.reshape(cells.shape), inside
