"""Annotated faces from folders with an ``annotations.jsonl``, an object a line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facemark_sdk.crop import check_boxes
from facemark_sdk.errors import DataError, FacemarkError, LayoutError
from facemark_sdk.layouts import Layout, convert, get_layout

ANNOTATIONS = "annotations.jsonl"
_FARTHEST = 1e6
"""Pixels: no photo is so large."""


@dataclass(frozen=True, slots=True, eq=False)
class AnnotatedFace:
    """One annotated face.

    Attributes:
        where: File and line that it comes from, for messages.
        set_name: What its set is called.
        image: The photo as the annotation names it.
        path: The photo's file.
        points: (L, 2) float32, pixels of the photo.
        layout: What the points are.
        box: (4,) float32 xyxy; None where none is annotated.
        subsets: Names of the subsets it belongs to, such as WFLW's.
        norm: What its data set divides its errors by, pixels; None where it does not say.
    """

    where: str
    set_name: str
    image: str
    path: Path
    points: NDArray[np.float32]
    layout: Layout
    box: NDArray[np.float32] | None = None
    subsets: tuple[str, ...] = ()
    norm: float | None = None

    def points_in(self, layout: Layout) -> NDArray[np.float32]:
        """Its points in a layout, (K, 2).

        Raises:
            LayoutError: No mapping leads there from its own.
        """
        return convert(self.points, self.layout.name, layout.name)


def read_faces(folder: Path, name: str | None = None) -> list[AnnotatedFace]:
    """The faces of a folder, in the file's order.

    A line holds ``image`` (a path in the folder), ``points`` [[x, y], ...], ``layout`` and, where
    known, ``box`` [x1, y1, x2, y2], ``subsets`` ["blur", ...] and ``norm``, a number of pixels.

    Args:
        folder: With an ``annotations.jsonl``.
        name: What the set is called; None takes the folder's name.

    Raises:
        DataError: The file is missing or empty, or a line is malformed; it says which.
    """
    name = folder.resolve().name if name is None else name
    faces = [
        _face(record, folder, name, f"{folder / ANNOTATIONS}, line {number}")
        for number, record in read_annotations(folder)
    ]
    if not faces:
        raise DataError(f"{folder / ANNOTATIONS} holds no face")
    return faces


def read_annotations(folder: Path) -> list[tuple[int, dict[str, Any]]]:
    """The objects of ``folder/annotations.jsonl`` with their line numbers; blank lines are none.

    Raises:
        DataError: The file is missing or no UTF-8, or a line is not a JSON object.
    """
    path = folder / ANNOTATIONS
    records = []
    for number, line in enumerate(_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}, line {number}: not a JSON object ({error})") from None
        if not isinstance(record, dict):
            raise DataError(f"{path}, line {number}: not a JSON object")
        records.append((number, record))
    return records


def common_layout(faces: Sequence[AnnotatedFace]) -> Layout:
    """The layout that all faces are annotated in.

    Raises:
        LayoutError: There are several.
    """
    first = faces[0]
    for face in faces:
        if face.layout.name != first.layout.name:
            raise LayoutError(
                f"{first.where} is annotated in layout {first.layout.name!r}, {face.where} in "
                f"{face.layout.name!r}; evaluate each layout by itself, or in one that all map to"
            )
    return first.layout


def with_subset(faces: Sequence[AnnotatedFace], path: Path) -> list[AnnotatedFace]:
    """The same faces, those of the photos that a file lists marked as a subset.

    Args:
        faces: All faces.
        path: A photo's name a line, as the annotations name it or without its folder; the subset
            is called after the file.

    Raises:
        DataError: The file cannot be read, is empty, or lists a photo that there is none of.
    """
    names = {line.strip() for line in _text(path).split("\n")} - {""}
    if not names:
        raise DataError(f"{path} lists no photo: a subset's file holds a photo's name a line")
    unknown = names - {name for face in faces for name in (face.image, Path(face.image).name)}
    if unknown:
        raise DataError(
            f"{path} lists {sorted(unknown)[0]!r}, which no annotation is of "
            f"({len(unknown)} such names of {len(names)})"
        )
    return [
        replace(face, subsets=tuple(dict.fromkeys((*face.subsets, path.stem))))
        if names & {face.image, Path(face.image).name}
        else face
        for face in faces
    ]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; give the right path") from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path} is no UTF-8 text") from None


def _face(record: dict[str, Any], folder: Path, name: str, where: str) -> AnnotatedFace:
    image, subsets, norm = record.get("image"), record.get("subsets", []), record.get("norm")
    if not isinstance(image, str) or not image or "\0" in image:
        raise DataError(f"{where}: 'image' must name a photo, got {image!r}")
    if not isinstance(subsets, list) or not all(isinstance(entry, str) for entry in subsets):
        raise DataError(f"{where}: 'subsets' must be a list of names, got {subsets!r}")
    if norm is not None and not (type(norm) in (int, float) and 0 < norm < np.inf):
        raise DataError(f"{where}: 'norm' must be a positive number of pixels, got {norm!r}")
    try:
        layout = get_layout(record.get("layout", ""))
        box = None if record.get("box") is None else check_boxes([record["box"]])[0]
    except FacemarkError as error:
        raise DataError(f"{where}: {error}") from None
    return AnnotatedFace(
        where=where,
        set_name=name,
        image=image,
        path=folder / image,
        points=_points(record.get("points"), layout, where),
        layout=layout,
        box=None if box is None else box.astype(np.float32),
        subsets=tuple(subsets),
        norm=norm,
    )


def _points(value: Any, layout: Layout, where: str) -> NDArray[np.float32]:
    try:
        points = np.asarray(value, np.float32)
    except (TypeError, ValueError):
        points = np.empty(0, np.float32)
    # NaN fails the comparison too.
    if points.shape != (layout.num_points, 2) or not (np.abs(points) < _FARTHEST).all():
        raise DataError(
            f"{where}: 'points' must be {layout.num_points} pairs of pixels, as layout "
            f"{layout.name!r} has so many landmarks"
        )
    if not (np.ptp(points, axis=0) > 0).all():
        raise DataError(f"{where}: 'points' all lie on one line, which is no face")
    return points
