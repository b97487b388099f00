"""The training loop that every recipe shares: resumable, bfloat16, EMA, validated, logged.

What is random in a batch comes from (seed, epoch, batch number), never from a running generator,
so a resumed run sees the batches that an uninterrupted one would have seen.
"""

from __future__ import annotations

import csv
import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import cv2
import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from facemark_export import checkpoint
from facemark_export.networks.normalise import Normalise
from facemark_sdk.errors import CheckpointError, FacemarkError
from facemark_sdk.files import replace_file
from facemark_sdk.spec import ModelSpec

log = logging.getLogger("facemark")

# What may differ when a run is resumed: it does not change what a step computes.
_MAY_CHANGE = frozenset(
    {"epochs", "workers", "threads", "device", "validate_every", "checkpoint_minutes"}
)

Forward = Callable[[Tensor], Any]


class TrainingError(FacemarkError):
    """Training cannot go on: a loss that is not a number, or a run that does not fit the recipe."""


class Task(Protocol):
    """What a recipe trains: network, batches, losses, validation."""

    network: nn.Module
    spec: ModelSpec
    metric: str
    higher_is_better: bool

    def __len__(self) -> int:
        """Training samples an epoch."""

    def epoch_indices(self, rng: np.random.Generator) -> np.ndarray:
        """The samples of one epoch, in the order in which they are seen."""

    def make_batch(self, indices: np.ndarray, rng: np.random.Generator) -> dict[str, Tensor]:
        """Augmented samples and targets; ``image`` is uint8 BGR (N, H, W, 3)."""

    def losses(self, outputs: Any, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Named, weighted scalars, which the loop sums."""

    def validate(self, forward: Forward) -> dict[str, float]:
        """Figures on held-out data, `metric` among them."""


@dataclass(frozen=True, kw_only=True)
class LoopRecipe:
    """Settings that all recipes share."""

    epochs: int
    """Passes over the training samples."""
    batch_size: int = 32
    """Samples a step."""
    learning_rate: float = 7e-4
    """Peak of AdamW's learning rate; it warms up linearly and decays to zero as a cosine."""
    weight_decay: float = 0.01
    """AdamW's decoupled weight decay, for weights of two or more dimensions."""
    warmup_epochs: float = 0.5
    """Epochs of linear warm-up."""
    ema_decay: float = 0.998
    """Decay of the averaged weights that are validated and kept; 0 keeps the raw weights."""
    clip_norm: float = 10.0
    """The gradient is scaled down to this norm where it is larger."""
    init: Path | None = None
    """Start from this checkpoint's weights (fine-tuning); it must be of the same network."""
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    """Arithmetic of the forward pass (autocast); losses and weights stay float32."""
    seed: int = 0
    """Of everything random."""
    workers: int = 1
    """Processes that prepare batches; 0 prepares them in the training process."""
    threads: int = 0
    """CPU threads of the training process; 0 leaves PyTorch's default."""
    validate_every: int = 1
    """Epochs between validations; the last epoch is always validated."""
    checkpoint_minutes: float = 3.0
    """At most this much work is lost when a run is killed."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes CUDA when it is there."""

    def __post_init__(self) -> None:
        """Refuse numbers that no run can have.

        Raises:
            TrainingError: One is out of range; the message names it.
        """
        for name, least in (
            ("epochs", 1),
            ("batch_size", 1),
            ("validate_every", 1),
            ("workers", 0),
            ("threads", 0),
            ("warmup_epochs", 0),
            ("checkpoint_minutes", 0),
        ):
            if not getattr(self, name) >= least:
                raise TrainingError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not (self.learning_rate > 0 and self.clip_norm > 0 and 0 <= self.ema_decay < 1):
            raise TrainingError(
                "learning_rate and clip_norm must be positive, ema_decay from 0 to below 1"
            )


class _Batches(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """One epoch's batches from batch number `start` on, made where a worker asks for them."""

    def __init__(self, task: Task, recipe: LoopRecipe, epoch: int, start: int) -> None:
        order = task.epoch_indices(np.random.default_rng((recipe.seed, epoch)))
        self.task, self.seed, self.epoch, self.start = task, recipe.seed, epoch, start
        self.batches = np.array_split(order, math.ceil(len(order) / recipe.batch_size))

    def __len__(self) -> int:
        return len(self.batches) - self.start

    def __getitem__(self, item: int) -> dict[str, Tensor]:
        number = item + self.start
        rng = np.random.default_rng((self.seed, self.epoch, number))
        return self.task.make_batch(self.batches[number], rng)


def _loader(task: Task, recipe: LoopRecipe, epoch: int, start: int) -> Iterator[dict[str, Tensor]]:
    # OpenCV's threads do not survive the fork of a worker, which would wait for them for ever;
    # with one thread there is no pool to inherit. A worker's batches need no more.
    cv2.setNumThreads(1)
    return iter(
        torch.utils.data.DataLoader(
            _Batches(task, recipe, epoch, start),
            batch_size=None,
            num_workers=recipe.workers,
            pin_memory=torch.cuda.is_available(),
        )
    )


class _Ema:
    """Exponential moving average of a network's weights and statistics."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state = {k: v.detach().clone() for k, v in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))  # a short memory while it all moves
        for key, value in network.state_dict().items():
            if value.is_floating_point():
                self.state[key].lerp_(value, 1 - decay)
            else:
                self.state[key].copy_(value)


def _load_weights(network: nn.Module, path: Path) -> None:
    try:
        network.load_state_dict(dict(checkpoint.read(path).weights))
    except RuntimeError as error:
        raise CheckpointError(f"{path} is of another network: {error}") from None


class Run:
    """A training run in a folder: ``last`` and ``best`` checkpoints, ``log.csv``, resume.

    Args:
        task: What to train.
        recipe: The settings; stored in every checkpoint.
        name: The recipe's registered name.
        out: The run's folder.
        resume: Go on from ``last``, with the same settings but for those that change no step;
            without it a folder that holds a run is refused.

    Raises:
        TrainingError: The folder holds a run and `resume` is off, or holds another recipe's.
        CheckpointError: The stored state, or the checkpoint to start from, cannot be used.
    """

    def __init__(
        self, task: Task, recipe: LoopRecipe, name: str, out: Path, *, resume: bool
    ) -> None:
        self.task, self.recipe, self.name, self.out = task, recipe, name, out
        if recipe.threads:
            torch.set_num_threads(recipe.threads)
        if recipe.device == "cuda" and not torch.cuda.is_available():
            raise TrainingError("device is cuda, but PyTorch finds no CUDA; use auto or cpu")
        cuda = torch.cuda.is_available() if recipe.device == "auto" else recipe.device == "cuda"
        self.device = torch.device("cuda" if cuda else "cpu")
        if recipe.init is not None and not resume:
            _load_weights(task.network, recipe.init)
        self.network = task.network.to(self.device, memory_format=torch.channels_last)
        self.normalise = Normalise(task.spec.input).to(self.device)
        weights = list(self.network.parameters())
        self.optimizer = torch.optim.AdamW(
            [
                {"params": [p for p in weights if p.ndim > 1]},
                {"params": [p for p in weights if p.ndim <= 1], "weight_decay": 0.0},
            ],
            lr=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
        )
        self.ema = _Ema(self.network, recipe.ema_decay)
        self.batches = math.ceil(len(task) / recipe.batch_size)
        self.epoch = self.batch = 0
        self.best: float | None = None
        state = out / "last.state.pt"
        if resume and not state.exists():
            raise TrainingError(f"{out} holds no run to resume; leave --resume out to start one")
        if state.exists():
            if not resume:
                raise TrainingError(f"{out} already holds a run; add --resume or choose another")
            self._restore(state)
        out.mkdir(parents=True, exist_ok=True)

    def train(self) -> dict[str, float]:
        """Train to the last epoch; returns the last validation's figures."""
        figures: dict[str, float] = {}
        columns = (
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, transient=True) as progress:
            while self.epoch < self.recipe.epochs:
                bar = progress.add_task(
                    "", total=self.batches, completed=self.batch, epoch=self.epoch + 1, loss=""
                )
                started, first = time.monotonic(), self.batch
                losses = self._train_epoch(lambda text, b=bar: self._show(progress, b, text))
                progress.remove_task(bar)
                done = (self.batches - first) * self.recipe.batch_size
                figures = {"images_per_second": done / (time.monotonic() - started), **losses}
                self.epoch, self.batch = self.epoch + 1, 0
                last = self.epoch == self.recipe.epochs
                if last or self.epoch % self.recipe.validate_every == 0:
                    figures |= self._validate()
                self._save()
                self._log(figures)
        return figures

    def _show(self, progress: Progress, bar: Any, text: str) -> None:
        progress.update(bar, completed=self.batch, loss=text)

    def _train_epoch(self, show: Callable[[str], None]) -> dict[str, float]:
        sums: dict[str, float] = {}
        steps = 0
        saved = time.monotonic()
        self.network.train()
        for batch in _loader(self.task, self.recipe, self.epoch, self.batch):
            losses = self._step({k: v.to(self.device, non_blocking=True) for k, v in batch.items()})
            self.batch, steps = self.batch + 1, steps + 1
            for key, value in losses.items():
                sums[key] = sums.get(key, 0.0) + value
            show(f"loss {sum(losses.values()):.4f}")
            if time.monotonic() - saved > 60 * self.recipe.checkpoint_minutes:
                self._save()
                saved = time.monotonic()
        return {key: value / max(steps, 1) for key, value in sums.items()}

    def _step(self, batch: Mapping[str, Tensor]) -> dict[str, float]:
        step = self.epoch * self.batches + self.batch
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate * self._schedule(step)
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.recipe.precision == "bfloat16"
        ):
            outputs = self.network(self.normalise(batch["image"]))
        losses = self.task.losses(outputs, batch)
        total = torch.stack(list(losses.values())).sum()
        if not torch.isfinite(total):
            values = ", ".join(f"{k} {v.item():.4g}" for k, v in losses.items())
            raise TrainingError(
                f"the loss is not a number at epoch {self.epoch + 1}, batch {self.batch + 1} "
                f"({values}); {self.out} keeps the last good checkpoint: lower --learning-rate"
            )
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.clip_norm)
        self.optimizer.step()
        self.ema.update(self.network, step)
        return {k: v.item() for k, v in losses.items()}

    def _schedule(self, step: int) -> float:
        """Linear warm-up to 1, then half a cosine to 0."""
        warmup = self.recipe.warmup_epochs * self.batches
        if step < warmup:
            return (step + 1) / warmup
        rest = self.recipe.epochs * self.batches - warmup
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(rest, 1))))

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
            self._write_weights(self.out / "best.safetensors", self.ema.state, figures)
        return figures

    def _write_weights(
        self, path: Path, weights: Mapping[str, Tensor], figures: Mapping[str, float]
    ) -> None:
        record = {
            "recipe": self.name,
            "settings": dataclasses.asdict(self.recipe),
            "epoch": self.epoch,
            "validation": dict(figures),
        }
        checkpoint.write(path, weights, self.task.spec, record)

    def _save(self) -> None:
        self._write_weights(self.out / "last.safetensors", self.ema.state, {})
        state = {
            "name": self.name,
            "identity": self._identity(),
            "epoch": self.epoch,
            "batch": self.batch,
            "best": self.best,
            "network": self.network.state_dict(),
            "ema": self.ema.state,
            "optimizer": self.optimizer.state_dict(),
        }
        replace_file(self.out / "last.state.pt", lambda path: torch.save(state, path))

    def _restore(self, path: Path) -> None:
        state = checkpoint.read_training_state(path)
        if state["name"] != self.name:
            raise TrainingError(f"{path.parent} holds a run of recipe {state['name']!r}")
        mine, stored = self._identity(), state["identity"]
        changed = [key for key in mine if mine[key] != stored.get(key)]
        if changed:
            differences = "; ".join(f"{k} was {stored.get(k)}, is {mine[k]}" for k in changed)
            raise TrainingError(
                f"{path.parent} cannot be resumed with other settings: {differences}"
            )
        self.epoch, self.batch, self.best = state["epoch"], state["batch"], state["best"]
        self.network.load_state_dict(state["network"])
        self.ema.state = {k: v.to(self.device) for k, v in state["ema"].items()}
        self.optimizer.load_state_dict(state["optimizer"])
        log.info("resumed at epoch %d, batch %d", self.epoch + 1, self.batch)

    def _identity(self) -> dict[str, str]:
        """The settings that must be the same when a run is resumed, as text."""
        settings = dataclasses.asdict(self.recipe)
        kept = {k: str(v) for k, v in settings.items() if k not in _MAY_CHANGE}
        return {**kept, "samples an epoch": str(len(self.task))}

    def _log(self, figures: Mapping[str, float]) -> None:
        row = {"epoch": self.epoch, **figures}
        log.info("%s", "  ".join(f"{k} {v:.5g}" for k, v in row.items()))
        path = self.out / "log.csv"
        rows: list[dict[str, Any]] = []
        if path.exists():
            with path.open(newline="") as file:
                rows = list(csv.DictReader(file))
        rows.append(row)
        columns = list(dict.fromkeys(key for one in rows for key in one))

        def write_to(temporary: Path) -> None:
            with temporary.open("w", newline="") as file:
                writer = csv.DictWriter(file, columns)
                writer.writeheader()
                writer.writerows(rows)

        replace_file(path, write_to)
