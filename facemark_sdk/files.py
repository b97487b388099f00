"""Files: written so that they are whole or not there, and known by what they hold."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

_PART = 1 << 20


def sha256_of(path: Path) -> str:
    """A file's SHA-256, read in parts: a whole model would count as memory that its run takes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(_PART):
            digest.update(part)
    return digest.hexdigest()


def replace_file(path: Path, write_to: Callable[[Path], object]) -> None:
    """Have a file written under a temporary name beside it, then rename it.

    What is there and is no regular file (a pipe, ``/dev/stdout``) is written to directly.

    Args:
        path: Where the file shall be.
        write_to: Writes the file at the path it is given; what it raises is passed on.

    Raises:
        OSError: The file cannot be renamed.
    """
    if path.exists() and not path.is_file():
        write_to(path)
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        write_to(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
