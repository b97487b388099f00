"""The zip archives that torch.save writes since torch 1.6: one pickle, one entry a storage."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from facemark_export.torch_file.records import ReadStorage, Storage, plain
from facemark_export.torch_file.unpickle import Unpickler
from facemark_sdk.errors import CheckpointError

MAGIC = b"PK\x03\x04"
_SHOWN = 5
"""Entries of an archive that is not torch's which the message names."""


@contextmanager
def opened(path: Path) -> Iterator[tuple[object, ReadStorage]]:
    """The object in the archive, and a function that reads its storages' bytes.

    Raises:
        CheckpointError: The archive is compressed, TorchScript, big-endian or not torch's.
        BadZipFile, OSError, LookupError, TypeError, ValueError: It is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        folder = _folder(list(entries))
        _check_sizes(archive.infolist(), path.stat().st_size)

        def read(name: str) -> bytes:
            if folder + name not in entries:
                raise CheckpointError(f"incomplete: the archive has no {plain(folder + name)}")
            return archive.read(entries[folder + name])

        def read_storage(storage: Storage) -> bytearray:
            data = read(f"data/{storage.key}")
            if len(data) != storage.nbytes:
                raise CheckpointError(
                    f"damaged: storage {plain(storage.key)} has {len(data)} bytes, its tensors "
                    f"need {storage.nbytes}"
                )
            return bytearray(data)

        if f"{folder}byteorder" in entries and read("byteorder") != b"little":
            raise CheckpointError("written on a big-endian machine; load and save it on another")
        yield Unpickler(io.BytesIO(read("data.pkl"))).load(), read_storage


def _check_sizes(entries: list[zipfile.ZipInfo], size: int) -> None:
    """Archives of torch store what they hold as it is, so nothing can be larger than the file."""
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise CheckpointError("a compressed zip archive, which torch.save never writes; unpack it")
    if sum(entry.file_size for entry in entries) > size:
        raise CheckpointError("damaged: the archive's entries are larger than the file")


def _folder(names: list[str]) -> str:
    """The one folder of a torch archive, with its slash."""
    folders = [name.removesuffix("data.pkl") for name in names if _is_main_pickle(name)]
    if len(folders) != 1:
        shown = ", ".join(map(plain, names[:_SHOWN]))
        raise CheckpointError(
            f"a zip archive that torch.save did not write: it holds {shown}; if the checkpoint is "
            "packed inside, unpack it"
        )
    if any(name.startswith((f"{folders[0]}code/", f"{folders[0]}constants.pkl")) for name in names):
        raise CheckpointError(
            "a TorchScript archive (torch.jit.save), which holds a program; save the network's "
            "state_dict() with torch.save"
        )
    return folders[0]


def _is_main_pickle(name: str) -> bool:
    return name.endswith("/data.pkl") and name.count("/") == 1
