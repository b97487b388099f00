"""The training loop that every recipe shares: resumable, in several processes, logged.

What is random in a step comes from (seed, epoch, batch, position), never from a running generator,
so a resumed run sees the batches that an uninterrupted one would have seen.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from facemark_export import checkpoint
from facemark_export.networks.normalise import Normalise
from facemark_export.training import processes
from facemark_export.training.batches import load_batches
from facemark_export.training.ema import Ema
from facemark_export.training.loop_recipe import LoopRecipe, TrainingError
from facemark_export.training.progress import epoch_progress
from facemark_export.training.run_files import (
    clear_unfinished,
    write_state,
    writing_to,
)
from facemark_export.training.run_identity import check_same_run, identity
from facemark_export.training.run_log import RunLog
from facemark_export.training.schedule import learning_rate, make_optimizer
from facemark_export.training.start import start_from
from facemark_export.training.task import Task

__all__ = ["LoopRecipe", "Run", "Task", "TrainingError"]

log = logging.getLogger("facemark")

_AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}

# GradScaler starts at 65536 and halves at every overflow: below this, scaling is not the remedy.
_LEAST_SCALE = 1.0


def autocast_type(precision: str, device: torch.device) -> torch.dtype | None:
    """The type of the forward pass; None for float32.

    Without AVX-512 PyTorch computes bfloat16 on x86 value by value: convolutions take 5 times as
    long as in float32, transposed ones over 100 times. There it is float32.

    Args:
        precision: As a recipe states it.
        device: What trains.
    """
    if precision == "bfloat16" and device.type == "cpu" and not _has_bfloat16():
        return None
    return _AUTOCAST.get(precision)


def _has_bfloat16() -> bool:
    return bool(
        torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


class Run:
    """A training run in a folder: ``last`` and ``best`` checkpoints, ``log.csv``, resume.

    Under torchrun the processes share every batch, and the first one validates and writes.
    BatchNorm's statistics are of the whole batch on CUDA (SyncBatchNorm); on the CPU each process
    normalises by its own part, and the first one's running statistics are kept.

    Args:
        task: What to train.
        recipe: The settings; stored in every checkpoint.
        name: The recipe's registered name.
        out: The run's folder.
        resume: Go on from ``last``, with the same settings but for those that change no step, on
            any number of processes; without it a folder that holds a run is refused.

    Raises:
        TrainingError: The folder holds a run and `resume` is off, or holds another recipe's; or
            the machine cannot do what the recipe asks for.
        CheckpointError: The stored state, or what to start from, cannot be used.
    """

    def __init__(
        self, task: Task, recipe: LoopRecipe, name: str, out: Path, *, resume: bool
    ) -> None:
        self.task, self.recipe, self.name, self.out = task, recipe, name, out
        if recipe.threads:
            torch.set_num_threads(recipe.threads)
        self.processes = processes.join(recipe.device)
        self.device = self.processes.device
        self.batches = math.ceil(len(task) / recipe.batch_size)
        _check(recipe, self.processes, len(task) // max(self.batches, 1))
        state = out / "last.state.pt"
        if resume and not state.exists():
            raise TrainingError(f"{out} holds no run to resume; leave --resume out to start one")
        if state.exists() and not resume:
            raise TrainingError(f"{out} already holds a run; add --resume or choose another")
        if recipe.init is not None and not resume:
            start_from(task, recipe.init)
        network = task.network
        if self.processes.count > 1 and self.device.type == "cuda":
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        self.network = network.to(self.device, memory_format=torch.channels_last)
        self.processes.equalise(self.network)
        self.normalise = Normalise(task.spec.input).to(self.device)
        self.optimizer = make_optimizer(self.network, recipe)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=recipe.precision == "float16")
        self.ema = Ema(self.network, recipe.ema_decay)
        self.epoch = self.batch = 0
        self.sums: dict[str, float] = {}  # of this epoch's losses
        self.best: float | None = None
        if resume:
            self._restore(state)
        out.mkdir(parents=True, exist_ok=True)
        self.log: RunLog | None = None
        if self.processes.first:
            clear_unfinished(out)
            self.log = RunLog(out, recipe, self._number())
        self.autocast = autocast_type(recipe.precision, self.device)
        if self.autocast is None and recipe.precision != "float32" and self.processes.first:
            log.warning(
                "this CPU has no %s instructions: training in float32, which is faster on it",
                recipe.precision,
            )

    def train(self) -> dict[str, float]:
        """Train to the last epoch; returns its figures (of other processes, the losses alone).

        Raises:
            TrainingError: A loss or gradient is not a number, the disk is full, or another
                process has ended; the last good checkpoint stays.
        """
        figures: dict[str, float] = {}
        with epoch_progress(self.processes.first) as progress:
            while self.epoch < self.recipe.epochs:
                bar = progress.add_task(
                    "", total=self.batches, completed=self.batch, epoch=self.epoch + 1, loss=""
                )
                started, first = time.monotonic(), self.batch
                self._train_epoch(functools.partial(progress.update, bar))
                progress.remove_task(bar)
                done = (self.batches - first) * self.recipe.batch_size
                rate = done / (time.monotonic() - started)
                losses = {key: value / self.batch for key, value in self.sums.items()}
                figures = {"images_per_second": rate, **losses}
                self.epoch, self.batch, self.sums = self.epoch + 1, 0, {}
                if self.log is not None:
                    figures |= self._end_epoch(self.log, figures)
        if self.log is not None:
            self.log.close()
        self.processes.wait()
        return figures

    def _train_epoch(self, show: Callable[..., None]) -> None:
        saved = time.monotonic()
        self.network.train()
        for part, share in load_batches(
            self.task, self.recipe, self.epoch, self.batch, self.processes
        ):
            on_device = {k: v.to(self.device, non_blocking=True) for k, v in part.items()}
            losses = self.step(on_device, share)
            self.batch += 1
            for key, value in losses.items():
                self.sums[key] = self.sums.get(key, 0.0) + value
            show(completed=self.batch, loss=f"loss {sum(losses.values()):.4f}")
            due = time.monotonic() - saved > 60 * self.recipe.checkpoint_minutes
            if due and self.processes.first:
                self._save()
                saved = time.monotonic()

    def _number(self) -> int:
        """Of the next step, from 0."""
        return self.epoch * self.batches + self.batch

    def step(self, part: Mapping[str, Tensor], share: float) -> dict[str, float]:
        """One step on this process's part of a batch; the losses of the whole batch.

        Args:
            part: As the task makes it, on the device.
            share: Of the batch's samples that are in it.

        Raises:
            TrainingError: The loss or its gradient is not a number.
        """
        step = self._number()
        rate = learning_rate(self.recipe, step, self.batches)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        torch.manual_seed(self._chance())
        with torch.autocast(
            self.device.type,
            self.autocast,
            enabled=self.autocast is not None,
        ):
            outputs = self.network(self.normalise(part["image"]))
        named = self.task.losses(outputs, part)
        losses = torch.stack(list(named.values()))
        if self.processes.count > 1:  # parts' means, weighted by their samples, sum to the batch's
            losses = losses * share
        values = self.processes.sum(losses.detach().clone()).tolist()
        figures = dict(zip(named, values, strict=True))
        if not math.isfinite(sum(values)):
            raise self._not_a_number("loss", figures)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(losses.sum()).backward()
        self.processes.sum_gradients(self.network)
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.clip_norm)
        if not torch.isfinite(norm) and not self._overflowed():
            raise self._not_a_number("gradient", figures)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.ema.update(self.network, step)
        if self.log is not None:
            self.log.step(step, figures, rate)
        return figures

    def _overflowed(self) -> bool:
        """Whether a gradient may be infinite because it is scaled: such a step is left out."""
        return self.scaler.is_enabled() and self.scaler.get_scale() >= _LEAST_SCALE

    def _chance(self) -> int:
        """Seed of what the network itself draws in a step (dropout)."""
        entropy = (self.recipe.seed, self.epoch, self.batch, self.processes.rank)
        return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0])

    def _not_a_number(self, what: str, losses: Mapping[str, float]) -> TrainingError:
        values = ", ".join(f"{k} {v:.4g}" for k, v in losses.items())
        return TrainingError(
            f"the {what} is not a number at epoch {self.epoch + 1}, batch {self.batch + 1} "
            f"({values}); {self.out} keeps the last good checkpoint: lower --learning-rate"
            + (", or take --precision bfloat16" if self.scaler.is_enabled() else "")
        )

    def _end_epoch(self, run_log: RunLog, figures: Mapping[str, float]) -> dict[str, float]:
        """Validate where it is due, log, save; the validation's figures."""
        last = self.epoch == self.recipe.epochs
        validation: dict[str, float] = {}
        if last or self.epoch % self.recipe.validate_every == 0:
            validation = self._validate()
        run_log.epoch(self.epoch, self._number(), {**figures, **validation})
        self._save()  # last: a run killed before does the end of this epoch again
        return validation

    def _validate(self) -> dict[str, float]:
        raw = {k: v.clone() for k, v in self.network.state_dict().items()}
        self.network.load_state_dict(self.ema.state)
        self.network.eval()

        def forward(image: Tensor) -> Any:
            with torch.inference_mode():
                return self.network(self.normalise(image.to(self.device)))

        figures = self.task.validate(forward)
        self.network.load_state_dict(raw)
        score = figures[self.task.metric]
        sign = 1 if self.task.higher_is_better else -1
        better = math.isfinite(score) and (self.best is None or sign * (score - self.best) > 0)
        if better:
            self.best = score
            self._write_weights("best.safetensors", figures)
        return figures

    def _write_weights(self, file: str, figures: Mapping[str, float]) -> None:
        record = {
            "recipe": self.name,
            "settings": dataclasses.asdict(self.recipe),
            "epoch": self.epoch,
            "validation": dict(figures),
        }
        with writing_to(self.out):
            checkpoint.write(self.out / file, self.ema.state, self.task.spec, record)

    def _save(self) -> None:
        # The state last: it alone says where to go on, and a run that is killed between the two
        # writes the weights again.
        self._write_weights("last.safetensors", {})
        state = {
            "identity": self._identity(),
            "epoch": self.epoch,
            "batch": self.batch,
            "sums": self.sums,
            "best": self.best,
            "network": self.network.state_dict(),
            "ema": self.ema.state,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        with writing_to(self.out):
            write_state(self.out / "last.state.pt", state)
        if self.log is not None:
            self.log.flush()

    def _identity(self) -> dict[str, str]:
        return identity(self.name, self.recipe, len(self.task))

    def _restore(self, path: Path) -> None:
        state = checkpoint.read_training_state(path)
        check_same_run(path.parent, state, self._identity())
        self.epoch, self.batch, self.best = state["epoch"], state["batch"], state["best"]
        self.sums = state["sums"]
        self.network.load_state_dict(state["network"])
        self.ema.state = {k: v.to(self.device) for k, v in state["ema"].items()}
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        log.info("resumed at epoch %d, batch %d", self.epoch + 1, self.batch)


def _check(recipe: LoopRecipe, group: processes.Processes, fewest: int) -> None:
    """Refuse what this machine cannot do; `fewest` samples are in the smallest batch."""
    if recipe.precision == "float16" and group.device.type != "cuda":
        raise TrainingError("precision float16 needs CUDA; on the CPU take bfloat16 or float32")
    if fewest < group.count:
        raise TrainingError(
            f"{group.count} processes share batches of {fewest} samples; raise --batch-size or "
            "start fewer processes"
        )
