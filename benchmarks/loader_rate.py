"""How fast batches are made beside how fast a network learns from them.

The loader alone: whole epochs of augmented batches, the start of the workers included. Training
alone: optimizer steps on a few batches that are ready. While the ratio is well over 1, training
does not wait for pictures; workers that share the cores with a training on the CPU want 3.

    python benchmarks/loader_rate.py RECIPE --data DIR... [--workers 1 2] [--json F]
"""

from __future__ import annotations

import itertools
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor

from facemark_export.training.batches import load_batches
from facemark_export.training.loop import LoopRecipe, Run
from facemark_export.training.recipes import RECIPES
from facemark_sdk.errors import DataError

_READY = 4  # batches that training alone goes through again and again


def main(
    recipe: tyro.conf.Positional[str],
    data: tuple[Path, ...],
    workers: tuple[int, ...] = (1, 2),
    seconds: float = 20.0,
    batch_size: int = 0,
    json_file: Annotated[Path | None, tyro.conf.arg(name="json")] = None,
) -> None:
    """Measure and print images a second.

    Args:
        recipe: Name of the recipe, with its default settings.
        data: Folders of annotated images.
        workers: Numbers of loader processes to measure.
        seconds: Time for each measurement, at least.
        batch_size: Samples a batch; 0 takes the recipe's.
        json_file: Write the figures here.
    """
    if recipe not in RECIPES:
        raise DataError(f"unknown recipe {recipe!r}; known: {', '.join(RECIPES)}")
    settings = RECIPES[recipe][1]
    if batch_size:
        settings = replace(settings, batch_size=batch_size)
    task = settings.build(data)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(task, settings, recipe, Path(folder), resume=False)
        loading = {
            count: loader_rate(run, replace(settings, workers=count), seconds) for count in workers
        }
        training = training_rate(run, seconds)
    table = Table(title=f"{recipe}, batches of {settings.batch_size}, {run.device.type}")
    table.add_column("")
    table.add_column("images/s", justify="right")
    table.add_column("of training", justify="right")
    table.add_row("training alone", f"{training:.1f}", "")
    for count, rate in loading.items():
        table.add_row(f"loader alone, {count} workers", f"{rate:.1f}", f"{rate / training:.1f} x")
    Console().print(table)
    if json_file is not None:
        figures = {"recipe": recipe, "training": training, "loader": loading}
        json_file.write_text(json.dumps(figures, indent=2) + "\n")


def epochs(run: Run, recipe: LoopRecipe) -> Iterator[dict[str, Tensor]]:
    """Batches, epoch after epoch."""
    for epoch in itertools.count():
        for batch, _ in load_batches(run.task, recipe, epoch, 0, run.processes):
            yield batch


def loader_rate(run: Run, recipe: LoopRecipe, seconds: float) -> float:
    """Images a second that the recipe's workers make."""
    images, started = 0, time.perf_counter()
    for batch in epochs(run, recipe):
        images += len(batch["image"])
        passed = time.perf_counter() - started
        if passed > seconds:
            return images / passed
    raise AssertionError("epochs never end")


def training_rate(run: Run, seconds: float) -> float:
    """Images a second that optimizer steps take in, when no batch has to be made."""
    ready = [
        {key: value.to(run.device) for key, value in batch.items()}
        for batch in itertools.islice(epochs(run, replace(run.recipe, workers=0)), _READY)
    ]
    run.network.train()
    run.step(ready[0], 1.0)  # the first one allocates
    images, started = 0, time.perf_counter()
    for batch in itertools.cycle(ready):
        run.step(batch, 1.0)
        if run.device.type == "cuda":
            torch.cuda.synchronize()
        images += len(batch["image"])
        passed = time.perf_counter() - started
        if passed > seconds:
            return images / passed
    raise AssertionError("a cycle never ends")


if __name__ == "__main__":
    tyro.cli(main)
