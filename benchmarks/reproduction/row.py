"""A row of a table: a recipe, and how what it trains is read and judged."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from facemark_export.training.loop import LoopRecipe

Scale = Literal["small", "full"]


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table.

    Attributes:
        scale: The scale's name.
        table: The table's name.
        name: What the reader sees.
        recipe: Its settings; the seed is replaced.
        readings: Decoders by which the same network is read besides its recipe's own; each has a
            line of its own.
        perturbed: Whether photos are also judged occluded and blurred, by the recipe's own decoder.
    """

    scale: Scale
    table: str
    name: str
    recipe: LoopRecipe
    readings: tuple[str, ...] = ()
    perturbed: bool = False

    @property
    def key(self) -> str:
        """The folder of its runs."""
        words = "".join(c if c.isalnum() else "_" for c in self.name.lower())
        return f"{self.scale}/{self.table}-{words}"

    def seeded(self, seed: int) -> LoopRecipe:
        """The settings of one run."""
        return replace(self.recipe, seed=seed)


def lasting(settings: dict[str, Any], epochs: int) -> dict[str, Any]:
    """Settings for so many epochs, of which the last one is judged: no choice by judged faces."""
    return {**settings, "epochs": epochs, "validate_every": epochs}
