"""What a run tells of itself: ``log.csv``, one row an epoch, and TensorBoard's events."""

from __future__ import annotations

import csv
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from facemark_export.training.loop_recipe import LoopRecipe, TrainingError
from facemark_export.training.run_files import writing_to
from facemark_sdk.files import replace_file

log = logging.getLogger("facemark")


class RunLog:
    """The logs of a run, from step `step` on: of what a killed run logged later, nothing stays.

    Raises:
        TrainingError: TensorBoard is wanted and not installed; or, here and later, the disk is
            full.
    """

    def __init__(self, out: Path, recipe: LoopRecipe, step: int) -> None:
        self.out, self.every = out, recipe.log_every
        with writing_to(out):
            self.events = _event_writer(out / "tensorboard", step) if recipe.tensorboard else None

    def step(self, step: int, losses: Mapping[str, float], rate: float) -> None:
        """Note the losses and the learning rate of a step, every so many steps."""
        if step % self.every == 0:
            self._note("training", {**losses, "learning_rate": rate}, step)

    def epoch(self, epoch: int, step: int, figures: Mapping[str, float]) -> None:
        """Note the figures of epoch number `epoch`, from 1, that ended before step `step`."""
        log.info("%s", "  ".join(f"{k} {v:.5g}" for k, v in {"epoch": epoch, **figures}.items()))
        with writing_to(self.out):
            _write_row(self.out / "log.csv", epoch, figures)
        self._note("epoch", figures, step - 1)

    def _note(self, group: str, figures: Mapping[str, float], step: int) -> None:
        if self.events is not None:
            with writing_to(self.out):
                for key, value in figures.items():
                    self.events.add_scalar(f"{group}/{key}", value, step)

    def flush(self) -> None:
        """Write what is noted to the disk."""
        if self.events is not None:
            with writing_to(self.out):
                self.events.flush()

    def close(self) -> None:
        """End the logs."""
        if self.events is not None:
            self.events.close()


def _event_writer(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise TrainingError(
            "tensorboard is not installed: pip install 'facemark-sdk[tensorboard]', or leave "
            "--tensorboard out (log.csv has the figures of every epoch)"
        ) from None
    return SummaryWriter(str(folder), purge_step=step)


def _write_row(path: Path, epoch: int, figures: Mapping[str, float]) -> None:
    rows: list[dict[str, Any]] = []
    if path.exists():
        with path.open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if int(row["epoch"]) < epoch]
    rows.append({"epoch": epoch, **figures})
    columns = list(dict.fromkeys(key for row in rows for key in row))

    def write_to(temporary: Path) -> None:
        with temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)

    replace_file(path, write_to)
