"""The rows of the HIH paper: how a landmark is placed within its cell, on one trunk."""

from __future__ import annotations

from typing import Any

from row import Row, Scale, lasting

from facemark_export.training.recipes.hih import HihRecipe

TABLE = "hih"
_EPOCHS = {"small": 6, "full": 60}
_PLAIN = "integer maps alone"
"""Arg-max, with-second-maximum (WSM) and DARK read the same network."""
_KINDS: dict[str, dict[str, Any]] = {
    _PLAIN: {"refinement": "argmax"},
    "WOV, offset values": {"refinement": "wov"},
    "WOM, offset maps": {"refinement": "wom"},
    "WOM, taught where landmarks are": {"refinement": "wom", "offset_zeros": False},
    "HIH 8 x 8, MSE": {"loss": "mse"},
    "HIH 8 x 8, CSC": {},
    "HIH 8 x 8, CSC, hard labels": {"labels": "hard"},
    "HIH 4 x 4, CSC": {"offset_size": 4},
}
"""Tables V and VIII (MSE and CSC), VII (labels) and IX (resolutions)."""
_FULL_KINDS: dict[str, dict[str, Any]] = {"HIH 16 x 16, CSC": {"offset_size": 16}}
"""What does not fit a network for 128 pixels."""


def rows(scale: Scale, common: dict[str, Any]) -> list[Row]:
    """Maps of 32 x 32 cells in small, 64 x 64 at full scale."""
    settings = lasting(common, _EPOCHS[scale])
    kinds = _KINDS | (_FULL_KINDS if scale == "full" else {})
    return [
        Row(
            scale,
            TABLE,
            name,
            HihRecipe(**kind, **settings),
            readings=("quarter_shift", "dark") if name == _PLAIN else (),
        )
        for name, kind in kinds.items()
    ]
