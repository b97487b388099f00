"""Which file it was, wherever it lies."""

from __future__ import annotations

import hashlib
from pathlib import Path

_PART = 1 << 20


def sha256_of(path: Path) -> str:
    """A file's SHA-256, read in parts: a whole model would count as memory that its run takes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(_PART):
            digest.update(part)
    return digest.hexdigest()
