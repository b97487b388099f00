"""What a pickle becomes: descriptions of tensors, storages and objects that can do nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from facemark_sdk.errors import CheckpointError

_SHOWN = 200
"""Characters of a stranger's text that go into a message."""


@dataclass(frozen=True, slots=True)
class Named:
    """A class or function that the pickle names. It is the name: nothing was looked up."""

    name: str


@dataclass(slots=True, eq=False, repr=False)
class Record:
    """An object of a named class that was never made: the name, and the state that it had."""

    name: str
    state: object = None


@dataclass(frozen=True, slots=True)
class Storage:
    """A run of a file's numbers.

    Attributes:
        key: The storage's name in the file.
        dtype: Of its elements.
        count: How many the file says it has.
        start: The first one that this view of it shows.
        length: How many this view shows.
    """

    key: str
    dtype: torch.dtype
    count: int
    start: int
    length: int

    @property
    def nbytes(self) -> int:
        """Bytes that the whole storage takes in the file."""
        return self.count * self.dtype.itemsize


@dataclass(frozen=True, slots=True, eq=False)
class StoredTensor:
    """A tensor that was not read yet: where in which storage its elements lie."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.size)


ReadStorage = Callable[[Storage], bytearray]
"""Reads a whole storage's bytes; raises CheckpointError where the file does not hold them."""


_LARGEST = 2**63 - 1
"""torch's sizes, strides and lengths are int64."""
_MOST_AXES = 64
"""As many as torch allows."""


def whole_number(value: object, what: str) -> int:
    """The value, if it is an integer from 0 to what an int64 holds.

    Raises:
        CheckpointError: It is not; the message names `what`.
    """
    if type(value) is not int or not 0 <= value <= _LARGEST:
        raise CheckpointError(f"damaged: {what} is no whole number")
    return value


def stored_tensor(
    storage: object, offset: object, size: object, stride: object, *_: object
) -> StoredTensor:
    """The arguments of torch's `_rebuild_tensor` and `_rebuild_tensor_v2`, checked.

    Raises:
        CheckpointError: The tensor does not lie inside its storage, or repeats its numbers
            (stride 0), which would let a small file ask for any amount of memory.
    """
    if not (isinstance(storage, Storage) and isinstance(size, tuple) and isinstance(stride, tuple)):
        raise CheckpointError("damaged: a tensor without storage, size or stride")
    if len(size) != len(stride) or len(size) > _MOST_AXES:
        raise CheckpointError("damaged: a tensor's size and stride do not fit")
    sides = tuple(whole_number(side, "a tensor's side") for side in size)
    steps = tuple(whole_number(step, "a tensor's stride") for step in stride)
    first = whole_number(offset, "a tensor's offset")
    tensor = StoredTensor(storage, storage.start + first, sides, steps)
    last = first + sum((side - 1) * step for side, step in zip(sides, steps, strict=True))
    if tensor.count > 0 and last >= storage.length:
        raise CheckpointError("damaged: a tensor reaches beyond the end of its storage")
    if tensor.count > storage.length:
        raise CheckpointError("a tensor has more elements than its storage; save it contiguous")
    return tensor


def same_tensor(tensor: object, *_: object) -> StoredTensor:
    """The tensor in the arguments of a parameter; its gradient flag and hooks are dropped.

    Raises:
        CheckpointError: There is none.
    """
    if not isinstance(tensor, StoredTensor):
        raise CheckpointError("damaged: a parameter without a tensor")
    return tensor


def plain(text: str) -> str:
    """A stranger's text for a message: printable ASCII, not too long."""
    return text[:_SHOWN].encode("unicode_escape").decode("ascii")
