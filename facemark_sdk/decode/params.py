"""Numbers that a decoder reads from its model's spec, checked: the file may come from anyone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from facemark_sdk.errors import ModelError

if TYPE_CHECKING:
    from facemark_sdk.spec import ModelSpec

ORIGIN_LIMIT = 4.0
"""Cells; known conventions are within one cell."""
TEMPERATURES = (1e-3, 1e4)
"""Wide enough for any map, narrow enough for float32."""


def number_param(spec: ModelSpec, name: str, default: float, low: float, high: float) -> float:
    """The number under `name` in a spec's decoder_params, `default` where there is none.

    Raises:
        ModelError: Not a number from `low` to `high`.
    """
    value = spec.decoder_params.get(name, default)
    known = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not known or not math.isfinite(value) or not low <= value <= high:
        raise ModelError(
            f"model {spec.name!r}: {name} of decoder {spec.decoder!r} must be a number from "
            f"{low:g} to {high:g}, got {value!r}; export the model again"
        )
    return float(value)


def origin_param(spec: ModelSpec) -> float:
    """Where in its cell a position lies, as `to_fractions` takes it; 0 where none is stated."""
    return number_param(spec, "origin", 0.0, -ORIGIN_LIMIT, ORIGIN_LIMIT)


def temperature_param(spec: ModelSpec, default: float) -> float:
    """What a map is multiplied by before its softmax."""
    return number_param(spec, "temperature", default, *TEMPERATURES)
