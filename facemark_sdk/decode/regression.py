"""Direct regression: the network gives every landmark's displacement from a mean shape.

Anisotropic paper, section 3.2. A network that gives the coordinates themselves, as CoordNet may
(PIPNet paper, section 4.3.1), has a mean shape of zeros. Neither says how sure it is, so every
score is 1: a threshold on scores never drops such landmarks, nor do scores tell of a lost face.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from facemark_sdk.decode.decoded import Decoded, Decoder, Floats
from facemark_sdk.errors import ModelError
from facemark_sdk.layouts import get_layout

if TYPE_CHECKING:
    from facemark_sdk.spec import ModelSpec

OUTPUT_NAMES = ("displacement",)
SCORE = 1.0
"""Of every landmark."""

_FARTHEST = 10.0
"""Crop sides from the crop's corner: no mean shape lies so far."""


def decode_regression(outputs: Mapping[str, Floats], *, mean_shape: Floats) -> Decoded:
    """Points from displacements.

    Args:
        outputs: ``displacement`` (N, 2L) float32, fractions of the crop's side: x0 y0 x1 y1 ...
        mean_shape: (L, 2) float32, fractions of the crop's side.

    Returns:
        Points and scores, these all `SCORE`.
    """
    displacement = outputs["displacement"]
    points = mean_shape + displacement.reshape(len(displacement), *mean_shape.shape)
    return Decoded(points, np.full(points.shape[:2], SCORE, np.float32))


def regression_decoder(spec: ModelSpec) -> Decoder:
    """Decoder ``regression``; parameter ``mean_shape``, (L, 2) fractions of the crop's side.

    Raises:
        ModelError: The mean shape is missing or malformed.
    """
    return partial(decode_regression, mean_shape=mean_shape_param(spec))


def mean_shape_param(spec: ModelSpec) -> Floats:
    """The mean shape (L, 2) float32 that a model's spec states.

    Raises:
        ModelError: It is missing or malformed.
    """
    landmarks = get_layout(spec.layout).num_points
    try:
        shape = np.asarray(spec.decoder_params["mean_shape"], np.float32)
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise ModelError(f"model {spec.name!r} has no usable mean_shape: {error}") from None
    # NaN fails too
    if shape.shape != (landmarks, 2) or not (np.abs(shape) <= _FARTHEST).all():
        raise ModelError(
            f"model {spec.name!r}: mean_shape of layout {spec.layout!r} must be ({landmarks}, 2) "
            f"fractions of the crop, within {_FARTHEST:g} of it, got shape {shape.shape}; "
            "export the model again"
        )
    return shape
