"""Decoders: network outputs to landmarks. Pure numpy, batched over faces and landmarks.

A decoder is registered under the name that a model's spec states. `make_decoder` prepares
its tables once; what it returns is called for every batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from facemark_sdk.decode.pip import pip_decoder
from facemark_sdk.errors import ModelError
from facemark_sdk.spec import ModelSpec

# outputs by name -> points (N, L, 2) as fractions of the crop side, scores (N, L) in 0..1
Decoder = Callable[
    [Mapping[str, NDArray[np.float32]]], tuple[NDArray[np.float32], NDArray[np.float32]]
]

DECODERS: dict[str, Callable[[ModelSpec], Decoder]] = {"pip": pip_decoder}


def make_decoder(spec: ModelSpec) -> Decoder:
    """The decoder that `spec` names, ready to be called on the network's outputs.

    Raises:
        ModelError: The decoder is unknown or its parameters are unusable.
    """
    try:
        build = DECODERS[spec.decoder]
    except KeyError:
        raise ModelError(
            f"model {spec.name!r} needs decoder {spec.decoder!r}; "
            f"this facemark has: {', '.join(sorted(DECODERS))}"
        ) from None
    return build(spec)


__all__ = ["DECODERS", "Decoder", "make_decoder"]
