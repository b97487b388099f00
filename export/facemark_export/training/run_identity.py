"""What must be the same when a run is resumed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from facemark_export.training.loop_recipe import LoopRecipe, TrainingError

# What may differ: it does not change what a step computes; but more epochs stretch the cosine.
_MAY_CHANGE = frozenset(
    {
        "epochs",
        "workers",
        "threads",
        "device",
        "validate_every",
        "checkpoint_minutes",
        "tensorboard",
        "log_every",
    }
)


def identity(name: str, recipe: LoopRecipe, samples: int) -> dict[str, str]:
    """A run's recipe by name, its settings and its samples an epoch, as text."""
    settings = dataclasses.asdict(recipe)
    kept = {k: str(v) for k, v in settings.items() if k not in _MAY_CHANGE}
    return {"recipe": name, **kept, "samples an epoch": str(samples)}


def check_same_run(out: Path, state: Mapping[str, Any], mine: Mapping[str, str]) -> None:
    """Compare the stored run's identity with that of the one that is to go on.

    Raises:
        TrainingError: They differ; the message says in what.
    """
    stored = state["identity"]
    if stored["recipe"] != mine["recipe"]:
        raise TrainingError(f"{out} holds a run of recipe {stored['recipe']!r}")
    changed = [key for key in mine if mine[key] != stored.get(key)]
    if changed:
        differences = "; ".join(f"{k} was {stored.get(k)}, is {mine[k]}" for k in changed)
        raise TrainingError(f"{out} cannot be resumed with other settings: {differences}")
