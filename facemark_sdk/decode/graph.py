"""For files that hold their decoder in the graph: its points are in crop units already."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from facemark_sdk.decode.decoded import Decoded, Decoder, Floats
from facemark_sdk.errors import ModelError

if TYPE_CHECKING:
    from facemark_sdk.spec import ModelSpec

OUTPUT_NAMES = ("points", "scores")
SPREAD_NAME = "covariances"
"""The third output of a graph whose spec says that it has one."""


def decode_graph(outputs: Mapping[str, Floats], *, side: int, spread: bool) -> Decoded:
    """Points of the graph as fractions of the crop.

    Args:
        outputs: ``points`` (N, L, 2) in crop units, ``scores`` (N, L) and, with `spread`,
            ``covariances`` (N, L, 2, 2) in squared crop units; float32.
        side: The crop's side in pixels.
        spread: Whether there are covariances.

    Returns:
        Points, scores clipped to 0..1, and covariances.

    Raises:
        ModelError: The graph has no covariances although it should.
    """
    if spread and SPREAD_NAME not in outputs:
        raise ModelError(
            f"the model's spec promises an output {SPREAD_NAME!r}, the graph has "
            f"{', '.join(outputs)}; export the model again"
        )
    unit = np.float32(side)
    return Decoded(
        points=outputs["points"] / unit,
        scores=np.clip(outputs["scores"], 0.0, 1.0),
        covariances=outputs[SPREAD_NAME] / (unit * unit) if spread else None,
    )


def graph_decoder(spec: ModelSpec) -> Decoder:
    """Decoder ``graph``; parameter ``covariances``, whether the graph gives them.

    Raises:
        ModelError: The parameter is not true or false, or the input's size is not fixed.
    """
    spread = spreads(spec)
    if not spec.input.width:
        raise ModelError(
            f"model {spec.name!r}: decoder {spec.decoder!r} needs a fixed input size; "
            "export the model again with one"
        )
    return partial(decode_graph, side=spec.input.width, spread=spread)


def spreads(spec: ModelSpec) -> bool:
    """Whether the graph of this spec gives covariances.

    Raises:
        ModelError: The spec says neither true nor false.
    """
    spread = spec.decoder_params.get(SPREAD_NAME, False)
    if not isinstance(spread, bool):
        raise ModelError(
            f"model {spec.name!r}: {SPREAD_NAME} must be true or false, got {spread!r}"
        )
    return spread
