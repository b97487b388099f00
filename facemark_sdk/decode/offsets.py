"""Regressed offsets: a heatmap gives the cell, a number an axis where in the cell the landmark is.

The rivals of HIH's paper (appendix): an offset map gives the numbers of every cell and is read
where a landmark's heatmap peaks, as in CornerNet; offset values are given a landmark, as in SLPT.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from facemark_sdk.decode.decoded import Decoded, Decoder, Floats, output_of
from facemark_sdk.decode.heatmap import to_fractions
from facemark_sdk.decode.peaks import find_peaks

if TYPE_CHECKING:
    from facemark_sdk.spec import ModelSpec

MAP_OUTPUT_NAMES = ("heatmaps", "offset_maps")
VALUE_OUTPUT_NAMES = ("heatmaps", "offset_values")


def decode_offset_map(outputs: Mapping[str, Floats]) -> Decoded:
    """Points from the peak's cell plus the offset maps' values there (HIH, equation 8).

    With (x, y) the cell where landmark k's heatmap peaks, its position in cells is
    (x + O_x[y, x], y + O_y[y, x]): landmarks whose heatmaps peak in one cell coincide.

    Args:
        outputs: ``heatmaps`` (N, L, H, W) and ``offset_maps`` (N, 2, H, W), O_x and O_y in cells;
            float32, raw.

    Returns:
        Points and scores; a score is the heatmap's maximum clipped to 0..1.
    """
    maps = outputs["heatmaps"]
    faces, _, height, width = maps.shape
    offsets = output_of(outputs, "offset_maps", (faces, 2, height, width))
    peaks = find_peaks(maps)
    flat = offsets.reshape(faces, 2, height * width)
    values = np.take_along_axis(flat, peaks.cell[:, None], axis=2)
    return Decoded(to_fractions(peaks.cells + values.swapaxes(1, 2), maps, 0.0), peaks.scores)


def decode_offset_value(outputs: Mapping[str, Floats]) -> Decoded:
    """Points from the peak's cell plus the landmark's own offset (HIH, equation 9).

    Args:
        outputs: ``heatmaps`` (N, L, H, W) and ``offset_values`` (N, L, 2), x and y in cells;
            float32, raw.

    Returns:
        Points and scores; a score is the heatmap's maximum clipped to 0..1.
    """
    maps = outputs["heatmaps"]
    offsets = output_of(outputs, "offset_values", (*maps.shape[:2], 2))
    peaks = find_peaks(maps)
    return Decoded(to_fractions(peaks.cells + offsets, maps, 0.0), peaks.scores)


def offset_map_decoder(spec: ModelSpec) -> Decoder:
    """Decoder ``offset_map``, which has no parameters."""
    return decode_offset_map


def offset_value_decoder(spec: ModelSpec) -> Decoder:
    """Decoder ``offset_value``, which has no parameters."""
    return decode_offset_value
