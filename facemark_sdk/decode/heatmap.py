"""Heatmap decoding: one map a landmark, whose peak is the landmark.

Four ways to say where a map peaks, in cells (column, row; 0 is the first cell's index): the
arg-max alone, HRNet's quarter shift (COMPAT 2.3), DARK (`dark.py`) and the local soft-argmax
(Subpixel Heatmap Regression, section 3.3). `barycentre.py` has those that look at the whole map.

Cells become fractions of the crop in one step, (cell + origin) / side. The spec's `origin` says
where in its cell a position lies: 0 for maps in which cell c stands for c / W, 0.5 for its middle.
Published HRNet models have 0.75: their code gives the pixel x = 4 * (c + 0.5 +- 0.25) + 1 of a
256-pixel crop with 64 cells, the last 1 because it counts pixels from 1 (COMPAT 2.3), which is
(c +- 0.25 + 0.75) / 64 of the crop.

A landmark's score is its map's maximum clipped to 0..1, for maps are trained to peak at 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from facemark_sdk.decode.decoded import Decoded, Decoder, Floats
from facemark_sdk.decode.params import number_param, origin_param, temperature_param
from facemark_sdk.decode.peaks import Peaks, find_peaks, patches_around
from facemark_sdk.errors import ModelError

if TYPE_CHECKING:
    from facemark_sdk.spec import ModelSpec

OUTPUT_NAMES = ("heatmaps",)

SHIFT = 0.25
"""Cells that the quarter shift moves (COMPAT 2.3)."""

WINDOW = 5
"""Side d of the local soft-argmax's window, in cells (DESIGN, decoders)."""
LARGEST_WINDOW = 31
SUBPIXEL_TEMPERATURE = 10.0
"""tau of the local soft-argmax (DESIGN, decoders)."""

Locate: TypeAlias = Callable[[Floats, Peaks], Floats]
"""Maps (N, L, H, W) and their peaks to positions (N, L, 2) in cells."""


def to_fractions(cells: Floats, maps: Floats, origin: float) -> Floats:
    """Positions (N, L, 2) in the cells of `maps` (N, L, H, W) as fractions of the crop."""
    height, width = maps.shape[-2:]
    sides: Floats = np.array([width, height], np.float32)
    return (cells + np.float32(origin)) / sides


def decode_peaks(outputs: Mapping[str, Floats], *, locate: Locate, origin: float) -> Decoded:
    """Points where the maps peak.

    Args:
        outputs: ``heatmaps`` (N, L, H, W) float32, raw.
        locate: Where exactly that is.
        origin: Where in its cell a position lies, in cells.

    Returns:
        Points and scores.
    """
    maps = outputs["heatmaps"]
    peaks = find_peaks(maps)
    return Decoded(to_fractions(locate(maps, peaks), maps, origin), peaks.scores)


def peak_cells(maps: Floats, peaks: Peaks) -> Floats:
    """The peak's cell itself."""
    return peaks.cells


def quarter_shift(maps: Floats, peaks: Peaks) -> Floats:
    """A quarter cell towards the higher neighbour, on each axis (COMPAT 2.3).

    Cells at the border do not move. A map without a positive value gives (-1, -1), which is
    where the published code's guard puts it.
    """
    around, inside = patches_around(maps, peaks, 1)
    slope = np.stack(
        (around[..., 1, 2] - around[..., 1, 0], around[..., 2, 1] - around[..., 0, 1]), axis=-1
    )
    moves = np.asarray(inside.all(axis=(-2, -1)))
    shift = np.float32(SHIFT) * np.sign(slope) * moves[..., None]
    cells = peaks.cells + shift
    return np.where(peaks.values[..., None] > 0, cells, np.float32(-1))


def local_soft_argmax(maps: Floats, peaks: Peaks, *, window: int, temperature: float) -> Floats:
    """The mean position under the softmax of a window about the peak (Subpixel, equations 4-5).

    Args:
        maps: (N, L, H, W).
        peaks: Theirs.
        window: Side d of the window, odd; its cells beyond the map carry no weight.
        temperature: tau, which multiplies the map's values.

    Returns:
        (N, L, 2) cells.
    """
    radius = window // 2
    around, inside = patches_around(maps, peaks, radius)
    # The peak is the largest value, so that no exponential overflows.
    raised = (around - peaks.values[..., None, None]) * np.float32(temperature)
    weights = np.exp(raised) * inside
    reach = np.arange(-radius, radius + 1, dtype=np.float32)
    offsets = np.stack((weights.sum(axis=-2) @ reach, weights.sum(axis=-1) @ reach), axis=-1)
    cells: Floats = peaks.cells + offsets / weights.sum(axis=(-2, -1))[..., None]
    return cells


def argmax_decoder(spec: ModelSpec) -> Decoder:
    """Decoder ``argmax``; parameter ``origin``.

    Raises:
        ModelError: The parameter is out of range.
    """
    return partial(decode_peaks, locate=peak_cells, origin=origin_param(spec))


def quarter_shift_decoder(spec: ModelSpec) -> Decoder:
    """Decoder ``quarter_shift``; parameter ``origin``.

    Raises:
        ModelError: The parameter is out of range.
    """
    return partial(decode_peaks, locate=quarter_shift, origin=origin_param(spec))


def local_soft_argmax_decoder(spec: ModelSpec) -> Decoder:
    """Decoder ``local_soft_argmax``; parameters ``origin``, ``window``, ``temperature``.

    Raises:
        ModelError: A parameter is out of range.
    """
    window, temperature = local_soft_argmax_params(spec)
    locate = partial(local_soft_argmax, window=window, temperature=temperature)
    return partial(decode_peaks, locate=locate, origin=origin_param(spec))


def local_soft_argmax_params(spec: ModelSpec) -> tuple[int, float]:
    """Window and temperature of a spec.

    Raises:
        ModelError: One is out of range.
    """
    window = number_param(spec, "window", WINDOW, 3, LARGEST_WINDOW)
    if window % 2 != 1:
        raise ModelError(
            f"model {spec.name!r}: window must be an odd number of cells, got {window:g}"
        )
    return int(window), temperature_param(spec, SUBPIXEL_TEMPERATURE)
