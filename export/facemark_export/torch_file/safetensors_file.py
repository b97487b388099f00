"""Safetensors files: a length, a JSON header, raw numbers. They hold no code by design."""

from __future__ import annotations

from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from facemark_export.torch_file.tensors import as_weight

_LENGTH_BYTES = 8


def is_one(head: bytes, size: int) -> bool:
    """Whether a file of `size` bytes that starts with `head` is safetensors."""
    header = int.from_bytes(head[:_LENGTH_BYTES], "little")
    return head[_LENGTH_BYTES : _LENGTH_BYTES + 1] == b"{" and header <= size - _LENGTH_BYTES


def read(path: Path) -> dict[str, Tensor]:
    """All tensors of the file by name.

    Raises:
        CheckpointError: One is not finite.
        SafetensorError, OSError: The file is damaged.
    """
    with safe_open(path, framework="pt") as file:
        return {name: as_weight(name, file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
