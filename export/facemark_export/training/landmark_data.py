"""Annotated faces from folders with an ``annotations.jsonl``, kept in memory as JPEG bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from facemark_sdk.errors import DataError

HELD_OUT_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class AnnotatedFace:
    """One annotated face.

    Attributes:
        path: The image file.
        encoded: Its bytes.
        points: (L, 2) float32, pixels of the image.
    """

    path: Path
    encoded: NDArray[np.uint8]
    points: NDArray[np.float32]

    def image(self) -> NDArray[np.uint8]:
        """The decoded image, (H, W, 3) uint8 BGR."""
        image: NDArray[np.uint8] | None = cv2.imdecode(self.encoded, cv2.IMREAD_COLOR)  # type: ignore[assignment]
        if image is None:
            raise DataError(f"{self.path} is not an image that OpenCV can read")
        return image


def read_annotations(folder: Path) -> list[dict[str, object]]:
    """The records of ``folder/annotations.jsonl``.

    Raises:
        DataError: The file is missing, or a line is not a JSON object.
    """
    path = folder / "annotations.jsonl"
    if not path.is_file():
        raise DataError(f"no annotations.jsonl in {folder}; --data wants folders that hold one")
    records = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            records.append(dict(json.loads(line)))
        except (ValueError, TypeError) as error:
            raise DataError(f"{path}, line {number}: not a JSON object ({error})") from None
    return records


def read_faces(folder: Path, layout: str, num_points: int) -> list[AnnotatedFace]:
    """The faces of a folder, in the file's order.

    Raises:
        DataError: An annotation is malformed, of another layout, or its image is missing.
    """
    faces = []
    for number, record in enumerate(read_annotations(folder), 1):
        where = f"{folder / 'annotations.jsonl'}, line {number}"
        if record.get("layout", layout) != layout:
            raise DataError(f"{where}: layout {record['layout']!r}, this recipe trains {layout!r}")
        points = np.asarray(record.get("points"), np.float32)
        if points.shape != (num_points, 2) or not np.isfinite(points).all():
            raise DataError(f"{where}: points must be {num_points} finite pairs")
        path = folder / str(record["image"])
        try:
            faces.append(AnnotatedFace(path, np.fromfile(path, np.uint8), points))
        except OSError as error:
            raise DataError(f"{where}: cannot read {path}: {error.strerror}") from None
    return faces


def photo_of(path: Path) -> str:
    """The photo a crop was cut from: its name without the trailing face number ``_N``."""
    stem, _, number = path.stem.rpartition("_")
    return stem if stem and number.isdigit() else path.stem


def is_held_out(photo: str, share: float = HELD_OUT_SHARE) -> bool:
    """Whether a photo belongs to validation: a fixed share, decided by the hash of its name."""
    return int(hashlib.sha1(photo.encode()).hexdigest()[:8], 16) < share * 0x1_0000_0000


def split_by_photo(
    faces: Iterable[AnnotatedFace],
) -> tuple[list[AnnotatedFace], list[AnnotatedFace]]:
    """Training and validation faces; all faces of a photo are on the same side."""
    train: list[AnnotatedFace] = []
    held_out: list[AnnotatedFace] = []
    for face in faces:
        (held_out if is_held_out(photo_of(face.path)) else train).append(face)
    return train, held_out


def weighted_order(
    counts: Sequence[int], weights: Sequence[float], rng: np.random.Generator
) -> NDArray[np.intp]:
    """A shuffled epoch over concatenated sets in which set i is seen ``weights[i]`` times.

    A fraction is a random subset, another one every epoch.
    """
    order = []
    start = 0
    for count, weight in zip(counts, weights, strict=True):
        whole, rest = int(weight), round((weight % 1) * count)
        order += [np.arange(count)] * whole
        order.append(rng.permutation(count)[:rest])
        order[-whole - 1 :] = [part + start for part in order[-whole - 1 :]]
        start += count
    return rng.permutation(np.concatenate(order))
