"""What all our data folders share: an ``annotations.jsonl``, and photos that are held out."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from facemark_sdk.errors import DataError

HELD_OUT_SHARE = 0.1


def read_annotations(folder: Path) -> list[dict[str, Any]]:
    """The records of ``folder/annotations.jsonl``.

    Raises:
        DataError: The file is missing, or a line is not a JSON object.
    """
    path = folder / "annotations.jsonl"
    if not path.is_file():
        raise DataError(f"no annotations.jsonl in {folder}; --data wants folders that hold one")
    records = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            records.append(dict(json.loads(line)))
        except (ValueError, TypeError) as error:
            raise DataError(f"{path}, line {number}: not a JSON object ({error})") from None
    return records


def photo_of(path: Path) -> str:
    """The photo a crop was cut from: its name without the trailing face number ``_N``."""
    stem, _, number = path.stem.rpartition("_")
    return stem if stem and number.isdigit() else path.stem


def is_held_out(photo: str, share: float = HELD_OUT_SHARE) -> bool:
    """Whether a photo belongs to validation: a fixed share, decided by the hash of its name."""
    return int(hashlib.sha1(photo.encode()).hexdigest()[:8], 16) < share * 0x1_0000_0000
