"""What all our data folders share: an ``annotations.jsonl``, and photos that are held out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from facemark_sdk.evaluation import annotations

HELD_OUT_SHARE = 0.1


def read_annotations(folder: Path) -> list[dict[str, Any]]:
    """The records of ``folder/annotations.jsonl``.

    Raises:
        DataError: The file is missing, or a line is not a JSON object.
    """
    return [record for _, record in annotations.read_annotations(folder)]


def photo_of(record: Mapping[str, Any]) -> str:
    """The photo an annotated image was cut from.

    It is what the record says under ``photo``, else the image's name without extension and
    without a face number, ``_1`` to ``_99``.
    """
    if "photo" in record:
        return str(record["photo"])
    name = Path(str(record["image"])).stem
    stem, _, number = name.rpartition("_")
    return stem if stem and number.isdigit() and len(number) <= 2 else name


def is_held_out(photo: str, share: float = HELD_OUT_SHARE) -> bool:
    """Whether a photo belongs to validation: a fixed share, decided by the hash of its name."""
    return int(hashlib.sha1(photo.encode()).hexdigest()[:8], 16) < share * 0x1_0000_0000
