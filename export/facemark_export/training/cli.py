"""``facemark-train RECIPE --data DIR... --out RUN [--resume]``."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import tyro

from facemark_export.training.loop import LoopRecipe, Run
from facemark_export.training.recipes import RECIPES
from facemark_sdk.errors import FacemarkError


def _command(name: str, description: str, default: LoopRecipe) -> Callable[..., None]:
    recipe_type = Annotated[type(default), tyro.conf.arg(name="")]  # type: ignore[misc]

    def train(
        data: tuple[Path, ...],
        out: Path,
        resume: bool = False,
        recipe: recipe_type = default,  # type: ignore[valid-type]
    ) -> None:
        torch.manual_seed(recipe.seed)  # the fresh weights; batches have generators of their own
        run = Run(recipe.build(data), recipe, name, out, resume=resume)
        run.train()

    train.__annotations__ = {
        "data": Annotated[tuple[Path, ...], tyro.conf.arg(help="Folders of annotated images.")],
        "out": Annotated[Path, tyro.conf.arg(help="Folder for checkpoints and log.csv.")],
        "resume": Annotated[bool, tyro.conf.arg(help="Go on with the run that --out holds.")],
        "recipe": recipe_type,
        "return": None,
    }
    train.__doc__ = f"{description}."
    return train


def main() -> None:
    """Entry point: exit status 0, 1 for a failed run, 2 for wrong use."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
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
