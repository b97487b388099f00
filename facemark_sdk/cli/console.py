"""How the commands speak and write: one line an error, whole files or none."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

from facemark_sdk.errors import FacemarkError


class UsageError(Exception):
    """The options are each right but do not go together."""


def complain(error: Exception) -> None:
    """Print an error as one line on stderr."""
    print(f"facemark: {' '.join(str(error).split())}", file=sys.stderr)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under a temporary name beside it, then rename it: it is whole or not there.

    Raises:
        FacemarkError: It cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise FacemarkError(f"cannot write {str(path)!r}: {error.strerror or error}") from None
