"""iBUG's .pts files: three header lines, a line a point, a closing brace (COMPAT 1.6, 300W)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facemark_export.training.datasets.source import IMAGE_SUFFIXES, missing, numbers, read_lines
from facemark_sdk.errors import DataError

HEADER_LINES = 3
ORIGIN = 1
"""The top-left pixel's centre is (1, 1): iBUG's points count as MATLAB does."""


def read_pts(path: Path) -> NDArray[np.float64]:
    """The points (L, 2), as stored.

    Raises:
        DataError: A line is malformed, or there are fewer or more points than announced.
    """
    lines = [line.split() for line in read_lines(path)]
    while lines and not lines[-1]:
        lines.pop()
    try:
        count = int(" ".join(lines[1]).removeprefix("n_points:"))
    except (IndexError, ValueError):
        raise DataError(f"{path}, line 2: want 'n_points: COUNT'") from None
    if lines[HEADER_LINES - 1 : HEADER_LINES] != [["{"]] or lines[-1] != ["}"]:
        raise DataError(f"{path}: points must stand between {{ in line 3 and }} in the last line")
    body = lines[HEADER_LINES:-1]
    if len(body) != count:
        raise DataError(f"{path}: {count} points announced, {len(body)} lines of points")
    points = np.empty((count, 2))
    for number, tokens in enumerate(body):
        where = f"{path}, line {number + HEADER_LINES + 1}"
        if len(tokens) != 2:
            raise DataError(f"{where}: want x and y, got {len(tokens)} tokens")
        points[number] = numbers(tokens, where)
    return points


def pts_with_images(
    folder: Path, dataset: str, *, recursive: bool = False
) -> Iterator[tuple[Path, Path]]:
    """Each .pts file in the order of names, and the image of the same name beside it.

    Raises:
        DataError: There is no .pts file, or one has no image.
    """
    files = sorted(folder.rglob("*.pts") if recursive else folder.glob("*.pts"))
    if not files:
        raise missing(dataset, "*.pts", folder)
    images: dict[Path, Path] = {}
    for parent in {file.parent for file in files}:
        for path in sorted(parent.iterdir()):
            if path.suffix.lower() in IMAGE_SUFFIXES:
                images.setdefault(path.with_suffix(".pts"), path)
    for file in files:
        if file not in images:
            raise missing(dataset, f"image (JPEG, PNG, BMP) for {file.name}", file.parent)
        yield file, images[file]
