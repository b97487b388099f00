"""``facemark-train RECIPE --data DIR... --out RUN [--resume]``.

In several processes: ``torchrun --nproc_per_node N -m facemark_export.training.cli RECIPE ...``.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import tyro

from facemark_export.training import processes
from facemark_export.training.loop import LoopRecipe, Run
from facemark_export.training.recipes import RECIPES
from facemark_export.training.recipes.self_training import SelfTrainingRecipe
from facemark_export.training.self_training import train_rounds
from facemark_sdk.errors import FacemarkError


def _command(name: str, description: str, default: LoopRecipe) -> Callable[..., None]:
    recipe_type = Annotated[type(default), tyro.conf.arg(name="")]  # type: ignore[misc]

    def train(
        data: tuple[Path, ...],
        out: Path,
        resume: bool = False,
        recipe: recipe_type = default,  # type: ignore[valid-type]
    ) -> None:
        if isinstance(recipe, SelfTrainingRecipe):
            train_rounds(recipe, name, data, out, resume=resume)
        else:
            torch.manual_seed(recipe.seed)  # the fresh weights; batches have their own generators
            task = resumable(recipe, out).build(data) if resume else recipe.build(data)
            Run(task, recipe, name, out, resume=resume).train()
        processes.leave()

    train.__annotations__ = {
        "data": Annotated[tuple[Path, ...], tyro.conf.arg(help="Folders of annotated images.")],
        "out": Annotated[Path, tyro.conf.arg(help="Folder for checkpoints and log.csv.")],
        "resume": Annotated[bool, tyro.conf.arg(help="Go on with the run that --out holds.")],
        "recipe": recipe_type,
        "return": None,
    }
    train.__doc__ = f"{description}."
    return train


def resumable(recipe: LoopRecipe, out: Path) -> LoopRecipe:
    """A recipe whose tables come from the run itself: what it started from may have changed."""
    last = out / "last.safetensors"
    return replace(recipe, init=last) if recipe.init is not None and last.exists() else recipe


def main() -> None:
    """Entry point: exit status 0, 1 for a failed run, 2 for wrong use."""
    first = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun started
    logging.basicConfig(level=logging.INFO if first else logging.WARNING, format="%(message)s")
    commands = {name: _command(name, *entry) for name, entry in RECIPES.items()}
    try:
        tyro.extras.subcommand_cli_from_dict(commands, prog="facemark-train")
    except (FacemarkError, OSError) as error:
        print(f"facemark-train: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("facemark-train: interrupted; go on with --resume", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
