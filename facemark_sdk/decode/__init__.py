"""Decoders: network outputs to landmarks. Pure numpy, batched over faces and landmarks.

A decoder is registered under the name that a model's spec states. `make_decoder` prepares
its tables once; what it returns is called for every batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from facemark_sdk.decode import barycentre, dark, graph, heatmap, hih, offsets, pip, regression
from facemark_sdk.decode.decoded import Decoded, Decoder
from facemark_sdk.errors import ModelError
from facemark_sdk.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class DecoderKind:
    """A registered decoder.

    Attributes:
        outputs: The outputs it reads.
        make: Makes it from a spec; raises ModelError where a parameter is unusable.
        spreads: Whether it gives covariances.
    """

    outputs: tuple[str, ...]
    make: Callable[[ModelSpec], Decoder]
    spreads: Callable[[ModelSpec], bool] = lambda spec: False


DECODERS: dict[str, DecoderKind] = {
    "pip": DecoderKind(pip.OUTPUT_NAMES, pip.pip_decoder),
    "argmax": DecoderKind(heatmap.OUTPUT_NAMES, heatmap.argmax_decoder),
    "quarter_shift": DecoderKind(heatmap.OUTPUT_NAMES, heatmap.quarter_shift_decoder),
    "dark": DecoderKind(heatmap.OUTPUT_NAMES, dark.dark_decoder),
    "local_soft_argmax": DecoderKind(heatmap.OUTPUT_NAMES, heatmap.local_soft_argmax_decoder),
    "barycentre": DecoderKind(
        heatmap.OUTPUT_NAMES, barycentre.barycentre_decoder, lambda spec: True
    ),
    "barycentre_sum": DecoderKind(
        heatmap.OUTPUT_NAMES, barycentre.barycentre_sum_decoder, lambda spec: True
    ),
    "hih": DecoderKind(hih.OUTPUT_NAMES, hih.hih_decoder),
    "offset_map": DecoderKind(offsets.MAP_OUTPUT_NAMES, offsets.offset_map_decoder),
    "offset_value": DecoderKind(offsets.VALUE_OUTPUT_NAMES, offsets.offset_value_decoder),
    "regression": DecoderKind(regression.OUTPUT_NAMES, regression.regression_decoder),
    "graph": DecoderKind(graph.OUTPUT_NAMES, graph.graph_decoder, graph.spreads),
}


def find_decoder(spec: ModelSpec) -> DecoderKind:
    """The kind of decoder that `spec` names.

    Raises:
        ModelError: The decoder is unknown.
    """
    try:
        return DECODERS[spec.decoder]
    except KeyError:
        raise ModelError(
            f"model {spec.name!r} needs decoder {spec.decoder!r}; "
            f"this facemark has: {', '.join(sorted(DECODERS))}"
        ) from None


def make_decoder(spec: ModelSpec) -> Decoder:
    """The decoder that `spec` names, ready to be called on the network's outputs.

    Raises:
        ModelError: The decoder is unknown or its parameters are unusable.
    """
    return find_decoder(spec).make(spec)


__all__ = ["DECODERS", "Decoded", "Decoder", "DecoderKind", "find_decoder", "make_decoder"]
