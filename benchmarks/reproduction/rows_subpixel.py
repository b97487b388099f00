"""The rows of Subpixel heatmap regression: its rivals (Table 1) and its parts (Table 2)."""

from __future__ import annotations

from typing import Any

from row import Row, Scale, lasting

from facemark_export.training.recipes.landmarks import LandmarkRecipe
from facemark_export.training.recipes.subpixel import SubpixelRecipe

TABLE = "subpixel"
_EPOCHS = {"small": 6, "full": 60}
_KINDS: dict[str, dict[str, Any]] = {
    "rounded maps": {"encoding": "rounded", "window": 0, "siamese": False},
    "continuous maps": {"window": 0, "siamese": False},
    "continuous maps, Siamese": {},
    "global soft-argmax": {
        "loss": "soft_argmax",
        "window": 0,
        "siamese": False,
        "softmax_temperature": 10.0,
    },
    "coordinate correction, static": {
        "encoding": "rounded",
        "window": 0,
        "siamese": False,
        "correction": "static",
    },
    "coordinate correction, dynamic": {
        "encoding": "rounded",
        "window": 0,
        "siamese": False,
        "correction": "dynamic",
    },
}
_OTHER_READINGS = {
    "continuous maps": ("local_soft_argmax",),
    "continuous maps, Siamese": ("quarter_shift",),
}
"""With and without the local soft-argmax; a quarter shift reads without."""
_LOOP = ("optimizer", "learning_rate", "schedule", "milestones", "weight_decay", "warmup_epochs")
_SHARED = (*_LOOP, "ema_decay", "growth", "augmentation")


def rows(scale: Scale, common: dict[str, Any]) -> list[Row]:
    """On MapNet, by the settings of this page's other tables, not by the paper's own."""
    plain = LandmarkRecipe(epochs=1)
    settings = {
        **{name: getattr(plain, name) for name in _SHARED},
        **lasting(common, _EPOCHS[scale]),
        "family": "mapnet",
        "imagenet": True,
    }
    return [
        Row(
            scale,
            TABLE,
            name,
            SubpixelRecipe(**kind, **settings),
            readings=_OTHER_READINGS.get(name, ()),
        )
        for name, kind in _KINDS.items()
    ]
