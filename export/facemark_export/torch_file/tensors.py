"""From stored tensors to torch tensors: each storage is read once, each tensor is its own."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from facemark_export.torch_file.records import ReadStorage, StoredTensor, plain
from facemark_sdk.errors import CheckpointError

_MOST_SHARING = 16
"""Times that the tensors of a file may use a storage's elements: weights are shared by a few
layers, but a small file must not ask for any amount of memory."""


def read_tensors(
    stored: Mapping[str, StoredTensor], read_storage: ReadStorage
) -> dict[str, Tensor]:
    """Read the tensors' elements, a storage at a time.

    Returns:
        Name to tensor as `as_weight` gives it, in the order of `stored`.

    Raises:
        CheckpointError: A storage is not in the file as described, or a value is not finite.
    """
    by_storage: dict[str, list[str]] = {}
    for name, tensor in stored.items():
        by_storage.setdefault(tensor.storage.key, []).append(name)
    weights = {}
    for key, names in by_storage.items():
        storage = stored[names[0]].storage
        if sum(stored[name].count for name in names) > _MOST_SHARING * storage.count:
            raise CheckpointError(f"too many tensors share storage {plain(key)}; refused")
        data = read_storage(storage)
        elements = torch.frombuffer(data, dtype=storage.dtype) if data else None
        for name in names:
            weights[name] = as_weight(name, _view(elements, stored[name]))
    return {name: weights[name] for name in stored}


def _view(elements: Tensor | None, stored: StoredTensor) -> Tensor:
    """The tensor's elements in its storage's; `elements` is None where there are none."""
    if elements is None or stored.count == 0:
        return torch.empty(stored.size, dtype=stored.storage.dtype)
    return elements.as_strided(stored.size, stored.stride, stored.offset)


def as_weight(name: str, tensor: Tensor) -> Tensor:
    """A contiguous copy; floats as float32, integers and booleans as they are.

    Raises:
        CheckpointError: A value is NaN, infinite, or too large for float32.
    """
    dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
    weight = tensor.to(dtype, memory_format=torch.contiguous_format, copy=True)
    if not bool(weight.isfinite().all()):
        raise CheckpointError(
            f"{plain(name)} has values that are NaN, infinite or beyond float32; the training "
            "diverged, take an earlier checkpoint"
        )
    return weight
