"""A run's files, written so that a full disk costs no checkpoint."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from facemark_export.training.loop_recipe import TrainingError
from facemark_sdk.files import replace_file


@contextmanager
def writing_to(out: Path) -> Iterator[None]:
    """Name the cause where a file cannot be written.

    Raises:
        TrainingError: The disk is full, or something else is wrong with it.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        free = shutil.disk_usage(out).free / 2**20 if out.exists() else 0.0
        raise TrainingError(
            f"cannot write to {out}: {error}; {free:.0f} MiB are free there. What was "
            "written before is kept: make room and go on with --resume"
        ) from error


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a run's resumable state whole or not at all.

    Raises:
        OSError: It cannot be written; torch.save to a file would hide why.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    replace_file(path, lambda temporary: temporary.write_bytes(buffer.getbuffer()))


def clear_unfinished(out: Path) -> None:
    """Delete the half-written files of a killed run (`replace_file` names them so)."""
    for path in out.glob(".*.partial"):
        path.unlink()
