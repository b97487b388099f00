"""Read PyTorch checkpoints from strangers, without running or importing what they name.

`torch.load` cannot: its weights-only mode opens no pickled module, its other mode runs any code.
Here a pickle is read by an interpreter of our own that has nothing to run (`unpickle`), down to
records that only describe (`records`); the weights are found among these (`state_dict`), and only
then are their bytes read (`tensors`). Layouts of the files: COMPAT 1.1, 2.1, 3.1, 5.2.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path

from safetensors import SafetensorError
from torch import Tensor

from facemark_export.torch_file import (
    foreign_file,
    legacy_file,
    safetensors_file,
    state_dict,
    zip_file,
)
from facemark_export.torch_file.records import plain
from facemark_export.torch_file.tensors import read_tensors
from facemark_sdk.errors import CheckpointError

_HEAD = 512
"""Bytes that tell what a file is; tar's mark lies deepest, at 257."""

_DAMAGE = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SafetensorError,
    TypeError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)
"""What bytes that make no sense raise in pickletools, zipfile, safetensors, torch and in us."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the weights of a checkpoint; nothing that it names is run or imported.

    Reads zip and legacy files of `torch.save`, and safetensors. The weights may be a state dict,
    one under a usual name ("state_dict", "model", ...), or a pickled module. A `module.` that
    starts every name is dropped.

    Args:
        path: The checkpoint.

    Returns:
        Name to contiguous CPU tensor, in the file's order. Every floating type becomes float32.

    Raises:
        CheckpointError: The file is missing, damaged or no checkpoint, names anything but tensors,
            containers and modules, or holds no state dict or a value that is not finite.
    """
    try:
        weights = _read(path)
        if not weights:
            raise CheckpointError("it holds no tensors")
        return weights
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except _DAMAGE as error:
        reason = f"{type(error).__name__}: {plain(str(error))}"
        raise CheckpointError(f"{path}: damaged or not readable ({reason})") from error


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(foreign_file.no_file(path))
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if safetensors_file.is_one(head, size):
        return state_dict.without_module_prefix(safetensors_file.read(path))
    if head.startswith(zip_file.MAGIC):
        opened = zip_file.opened
    elif head.startswith(legacy_file.PICKLE):
        opened = legacy_file.opened
    else:
        raise CheckpointError(foreign_file.description(head))
    with opened(path) as (root, read_storage):
        stored = state_dict.without_module_prefix(state_dict.find(root))
        return read_tensors(stored, read_storage)
