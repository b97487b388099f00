"""HRNet's annotations: CSV files with centre and scale, and boxes from points (COMPAT 2.4)."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facemark_export.training.annotations import photo_of
from facemark_export.training.datasets.sample import Sample, layout_of
from facemark_export.training.datasets.source import (
    find,
    missing,
    numbers,
    read_lines,
    require_part,
)
from facemark_sdk.errors import DataError

UNIT = 200
"""Pixels of a face of scale 1."""
COLUMNS = ["image_name", "scale", "center_w", "center_h"]
COLUMNS_AFLW = ["image_name", "scale", "box_size", "center_w", "center_h"]

Row = tuple[str, NDArray[np.float64], NDArray[np.float64], float | None]
"""Image name, square box (4,), points (L, 2), box_size where the file has that column."""


def read(root: Path, split: str) -> Iterator[Sample]:
    """The rows of ``face_landmarks_*_SPLIT.csv`` with the images of ``images``.

    300W has train, valid (the full test set) and test (the 600 of the competition), AFLW and
    WFLW train and test. ``face_landmarks_*_SPLIT_PART.csv`` makes a face part of subset PART.
    Boxes are squares of side 200 x scale about the centre; ``box_size`` is the norm.

    Raises:
        DataError: A file is missing, or a row is malformed.
    """
    found = sorted(root.glob(f"face_landmarks_*_{split}.csv"))
    if not found:
        raise missing("hrnet", f"face_landmarks_*_{split}.csv", root)
    if len(found) > 1:
        raise DataError(f"{root} holds several sets: {', '.join(path.name for path in found)}")
    path = found[0]
    known = {_key(row) for row in _rows(path)}
    parts = {}
    for part in sorted(root.glob(f"{path.stem}_*.csv")):
        keys = {_key(row) for row in _rows(part)}
        require_part(part, keys, path, known)
        parts[part.stem.removeprefix(f"{path.stem}_")] = keys
    images = find(root, "hrnet", "images")
    for row in _rows(path):
        name, box, points, norm = row
        layout = layout_of(len(points))
        yield Sample(
            image=find(images, "hrnet", name),
            name=name,
            points=points,
            layout=layout,
            # Faces of a photo are numbered images in 300W, rows of one image in the others.
            photo=photo_of({"image": name}) if layout == "ibug68" else name,
            box=box,
            subsets=tuple(part for part, keys in parts.items() if _key(row) in keys),
            norm=norm,
        )


def _rows(path: Path) -> Iterator[Row]:
    reader = csv.reader(read_lines(path))
    header = next(reader, [])
    columns = COLUMNS_AFLW if "box_size" in header else COLUMNS
    known = len(columns)
    if header[:known] != columns or len(header) == known or (len(header) - known) % 2:
        raise DataError(f"{path}, line 1: want {','.join(columns)} and pairs of coordinates")
    for cells in reader:
        where = f"{path}, line {reader.line_num}"
        if len(cells) != len(header):
            raise DataError(f"{where}: {len(cells)} cells, the header has {len(header)}")
        values = numbers(cells[1:], where)
        stated = dict(zip(columns[1:], values[: known - 1].tolist(), strict=True))
        box = square(stated["center_w"], stated["center_h"], stated["scale"])
        points = values[known - 1 :].reshape(-1, 2)
        yield cells[0], box, points, stated.get("box_size")


def _key(row: Row) -> tuple[str, bytes]:
    return row[0], row[2].tobytes()


def square(x: float, y: float, scale: float) -> NDArray[np.float64]:
    """The box (4,) about a centre whose side is 200 x scale."""
    half = UNIT * scale / 2
    return np.array([x - half, y - half, x + half, y + half])


def centre_and_scale(box: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """A box's midpoint (2,), and its longer side / 200."""
    low, high = np.asarray(box, np.float64).reshape(2, 2)
    return (low + high) / 2, float((high - low).max()) / UNIT


def box_of_points(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """HRNet's box for COFW: floor of the points' minima, ceil of their maxima, (4,) xyxy."""
    return np.concatenate([np.floor(points.min(axis=0)), np.ceil(points.max(axis=0))])
