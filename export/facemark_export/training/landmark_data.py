"""Annotated faces from folders with an ``annotations.jsonl``, kept in memory as JPEG bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from facemark_export.training.annotations import is_held_out, photo_of, read_annotations
from facemark_sdk import evaluation
from facemark_sdk.errors import DataError
from facemark_sdk.layouts import Layout


@dataclass(frozen=True, slots=True)
class AnnotatedFace:
    """One annotated face.

    Attributes:
        path: The image file.
        photo: The photo it was cut from; training and validation share none.
        encoded: Its bytes.
        points: (L, 2) float32, pixels of the image.
    """

    path: Path
    photo: str
    encoded: NDArray[np.uint8]
    points: NDArray[np.float32]

    def image(self) -> NDArray[np.uint8]:
        """The decoded image, (H, W, 3) uint8 BGR."""
        image: NDArray[np.uint8] | None = cv2.imdecode(self.encoded, cv2.IMREAD_COLOR)  # type: ignore[assignment]
        if image is None:
            raise DataError(f"{self.path} is not an image that OpenCV can read")
        return image


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
        try:
            points = np.asarray(record["points"], np.float32)
            path = folder / str(record["image"])
        except (KeyError, ValueError, TypeError) as error:
            raise DataError(f"{where}: image or points missing or malformed ({error})") from None
        if points.shape != (num_points, 2) or not np.isfinite(points).all():
            raise DataError(f"{where}: points must be {num_points} finite pairs")
        try:
            faces.append(AnnotatedFace(path, photo_of(record), np.fromfile(path, np.uint8), points))
        except OSError as error:
            raise DataError(f"{where}: cannot read {path}: {error.strerror}") from None
    return faces


def for_evaluation(
    faces: Iterable[AnnotatedFace], folder: Path, layout: Layout
) -> list[evaluation.AnnotatedFace]:
    """Faces of a folder as `facemark_sdk.evaluation` takes them; its name is the set's."""
    return [
        evaluation.AnnotatedFace(
            str(face.path), folder.name, face.path.name, face.path, face.points, layout
        )
        for face in faces
    ]


def split_by_photo(
    faces: Iterable[AnnotatedFace],
) -> tuple[list[AnnotatedFace], list[AnnotatedFace]]:
    """Training and validation faces; all faces of a photo are on the same side."""
    train: list[AnnotatedFace] = []
    held_out: list[AnnotatedFace] = []
    for face in faces:
        (held_out if is_held_out(face.photo) else train).append(face)
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
