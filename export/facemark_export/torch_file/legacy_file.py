"""The files that torch.save wrote before torch 1.6: pickles one after another, then storages.

In order: a magic number, the protocol's version, facts about the machine, the object, the list of
storage keys, and for each key a little-endian int64 number of elements with the elements behind.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from facemark_export.torch_file.records import ReadStorage, Storage, plain
from facemark_export.torch_file.unpickle import Unpickler
from facemark_sdk.errors import CheckpointError

PICKLE = b"\x80"
"""First byte of every binary pickle."""
_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_VERSION = 1001
_COUNT_BYTES = 8


@contextmanager
def opened(path: Path) -> Iterator[tuple[object, ReadStorage]]:
    """The object in the file, and a function that reads its storages' bytes.

    Raises:
        CheckpointError: The file is another pickle, of another version, big-endian or cut off.
        OSError, LookupError, TypeError, ValueError: It is damaged.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        _check_header(data)
        unpickler = Unpickler(data)
        root = unpickler.load()
        starts = _starts(data, Unpickler(data).load(), unpickler.storages)

        def read_storage(storage: Storage) -> bytearray:
            if storage.key not in starts:
                raise CheckpointError(f"incomplete: no storage {plain(storage.key)} in the file")
            start = starts[storage.key]
            return bytearray(data[start : start + storage.nbytes])

        yield root, read_storage


def _check_header(data: mmap.mmap) -> None:
    if Unpickler(data).load() != _MAGIC_NUMBER:
        raise CheckpointError("a Python pickle that torch.save did not write")
    version = Unpickler(data).load()
    if version != _VERSION:
        raise CheckpointError(f"not of the legacy format's version {_VERSION}")
    machine = Unpickler(data).load()
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise CheckpointError("written on a big-endian machine; load and save it on another")


def _starts(
    data: mmap.mmap, keys: object, storages: Mapping[str, tuple[torch.dtype, int]]
) -> dict[str, int]:
    """Where each storage's elements start; all are checked to lie in the file."""
    if not isinstance(keys, list):
        raise CheckpointError("damaged: no list of storages")
    starts = {}
    position = data.tell()
    for key in keys:
        dtype, count = storages[key]
        stored = int.from_bytes(data[position : position + _COUNT_BYTES], "little")
        starts[key] = position + _COUNT_BYTES
        position = starts[key] + count * dtype.itemsize
        if stored != count or position > len(data):
            raise CheckpointError(
                f"damaged or cut off: storage {plain(key)} should have {count} elements"
            )
    return starts
