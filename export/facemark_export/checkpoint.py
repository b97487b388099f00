"""Our own checkpoints: safetensors, with the model's spec and the recipe as JSON metadata.

Training state (optimizer and the like) lies beside and is read weights-only, so that opening a
checkpoint from a stranger runs none of its code.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from facemark_sdk.errors import CheckpointError
from facemark_sdk.files import replace_file
from facemark_sdk.spec import METADATA_KEY, ModelSpec

_RECORD_KEY = "facemark_training"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's contents: weights by name, the model's spec, the training record."""

    weights: Mapping[str, Tensor]
    spec: ModelSpec
    record: Mapping[str, Any]


def write(
    path: Path, weights: Mapping[str, Tensor], spec: ModelSpec, record: Mapping[str, Any]
) -> None:
    """Write a checkpoint; `record` holds recipe, settings, figures; paths become strings."""
    tensors = {k: v.detach().cpu().contiguous() for k, v in weights.items()}
    metadata = {METADATA_KEY: spec.to_json(), _RECORD_KEY: json.dumps(record, default=str)}
    replace_file(path, lambda temporary: save_file(tensors, temporary, metadata))


def is_ours(path: Path) -> bool:
    """Whether a file is a checkpoint that `write` wrote: safetensors with a model's spec.

    Raises:
        CheckpointError: No such file.
    """
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            return METADATA_KEY in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def read(path: Path) -> Checkpoint:
    """Read a checkpoint that `write` wrote.

    Raises:
        CheckpointError: No such file, not safetensors, or without our metadata.
        ModelError: Its spec is unusable.
    """
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file: {error}") from None
    if METADATA_KEY not in metadata:
        raise CheckpointError(
            f"{path} carries no facemark spec; expected a best.safetensors or last.safetensors "
            "that facemark-train wrote"
        )
    spec = ModelSpec.from_json(metadata[METADATA_KEY])
    try:
        return Checkpoint(weights, spec, dict(json.loads(metadata.get(_RECORD_KEY, "{}"))))
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path} has a damaged training record: {error}") from None


def read_training_state(path: Path) -> dict[str, Any]:
    """Read the resumable state of a run, weights-only.

    Raises:
        CheckpointError: The file is damaged or holds anything but tensors and plain values.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path} cannot be resumed from: {error}") from None
    return state
