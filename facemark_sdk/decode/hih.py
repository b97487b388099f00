"""HIH (Heatmap in Heatmap) decoding: one map gives the cell, a second map the place in the cell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from facemark_sdk.decode.decoded import Decoded, Decoder, Floats
from facemark_sdk.decode.heatmap import to_fractions
from facemark_sdk.decode.peaks import Peaks, find_peaks

if TYPE_CHECKING:
    from facemark_sdk.spec import ModelSpec

OUTPUT_NAMES = ("heatmaps", "offsets")


def decode_hih(outputs: Mapping[str, Floats]) -> Decoded:
    """Points from the cell in the heatmap plus the cell in the offset map (COMPAT 3.2).

    A map without a positive value counts as if its peak were cell (0, 0), the offset maps too
    although they hold logits.

    Args:
        outputs: ``heatmaps`` (N, L, H, W) of the last stack and ``offsets`` (N, L, h, w), each
            spanning one cell of the heatmap; float32, raw.

    Returns:
        Points and scores; a score is the heatmap's maximum clipped to 0..1.
    """
    maps, inner = outputs["heatmaps"], outputs["offsets"]
    peaks = find_peaks(maps)
    within = to_fractions(_positive_cells(find_peaks(inner)), inner, 0.0)
    return Decoded(to_fractions(_positive_cells(peaks) + within, maps, 0.0), peaks.scores)


def _positive_cells(peaks: Peaks) -> Floats:
    return np.where(peaks.values[..., None] > 0, peaks.cells, np.float32(0))


def hih_decoder(spec: ModelSpec) -> Decoder:
    """Decoder ``hih``, which has no parameters."""
    return decode_hih
