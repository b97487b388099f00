"""How the commands speak and write: one line an error, whole files or none."""

from __future__ import annotations

import sys
from pathlib import Path

from facemark_sdk.errors import FacemarkError
from facemark_sdk.files import replace_file


class UsageError(Exception):
    """The options are each right but do not go together."""


def complain(error: Exception) -> None:
    """Print an error as one line on stderr."""
    print(f"facemark: {' '.join(str(error).split())}", file=sys.stderr)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; its folder is made if need be.

    Raises:
        FacemarkError: It cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, lambda partial: partial.write_bytes(content))
    except OSError as error:
        raise FacemarkError(f"cannot write {str(path)!r}: {error.strerror or error}") from None
