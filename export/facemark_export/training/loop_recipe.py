"""Settings that all recipes share, and the error that stops a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from facemark_sdk.errors import FacemarkError


class TrainingError(FacemarkError):
    """Training cannot go on: a loss that is not a number, a full disk, settings that do not fit."""


@dataclass(frozen=True, kw_only=True)
class LoopRecipe:
    """Settings that all recipes share."""

    epochs: int
    """Passes over the training samples."""
    batch_size: int = 32
    """Samples a step, of all processes together."""
    optimizer: Literal["adamw", "adam"] = "adamw"
    """AdamW, or Adam, whose weight decay is added to the gradient."""
    learning_rate: float = 7e-4
    """Peak of the learning rate; it warms up linearly and then follows the schedule."""
    schedule: Literal["cosine", "steps"] = "cosine"
    """Decay to zero as half a cosine, or by step_factor at each milestone."""
    milestones: tuple[int, ...] = ()
    """Finished epochs after which the schedule "steps" lowers the learning rate."""
    step_factor: float = 0.1
    """What the schedule "steps" multiplies the learning rate with."""
    weight_decay: float = 0.01
    """The optimizer's weight decay, for weights of two or more dimensions."""
    warmup_epochs: float = 0.5
    """Epochs of linear warm-up."""
    ema_decay: float = 0.998
    """Decay of the averaged weights that are validated and kept; 0 keeps the raw weights."""
    clip_norm: float = 10.0
    """The gradient is scaled down to this norm where it is larger; inf never."""
    init: Path | None = None
    """Fine-tuning: start from the weights of this checkpoint, of this fp32 ONNX file that
    facemark-export wrote, or of the bundled model of this name; it must be of the same network."""
    precision: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """Arithmetic of the forward pass (autocast); losses and weights stay float32. float16 scales
    the loss and needs CUDA. On a CPU without instructions for bfloat16 that is float32, which is
    faster there; a warning says so."""
    seed: int = 0
    """Of everything random."""
    workers: int = 1
    """Processes that prepare batches for a training process; 0 prepares them in that one."""
    threads: int = 0
    """CPU threads of a training process; 0 leaves PyTorch's default."""
    validate_every: int = 1
    """Epochs between validations; the last epoch is always validated."""
    checkpoint_minutes: float = 3.0
    """At most this much work is lost when a run is killed."""
    tensorboard: bool = False
    """Also log for TensorBoard, to OUT/tensorboard."""
    log_every: int = 20
    """Steps between two entries of the losses in TensorBoard."""
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
            ("log_every", 1),
            ("workers", 0),
            ("threads", 0),
            ("seed", 0),
            ("weight_decay", 0),
            ("warmup_epochs", 0),
            ("checkpoint_minutes", 0),
        ):
            if not getattr(self, name) >= least:
                raise TrainingError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not (self.learning_rate > 0 and self.clip_norm > 0 and 0 <= self.ema_decay < 1):
            raise TrainingError(
                "learning_rate and clip_norm must be positive, ema_decay from 0 to below 1"
            )
        if not 0 < self.step_factor < 1:
            raise TrainingError(f"step_factor must be between 0 and 1, got {self.step_factor}")
        if (self.schedule == "steps") != bool(self.milestones):
            raise TrainingError(
                'milestones go with schedule "steps", which needs one at least; '
                f"got {self.milestones} with {self.schedule!r}"
            )
        if (
            list(self.milestones) != sorted({*self.milestones})
            or min(self.milestones, default=1) < 1
        ):
            raise TrainingError(f"milestones must be rising epochs from 1, got {self.milestones}")
