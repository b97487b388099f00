"""Menpo 2D: .pts files of 68 points (semi-frontal faces) or 39 (profiles)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from facemark_export.training.datasets.pts import pts_with_images, read_pts
from facemark_export.training.datasets.sample import Sample
from facemark_export.training.datasets.source import find, require_split
from facemark_sdk.errors import DataError

LAYOUTS = {68: ("ibug68", "semifrontal"), 39: ("points39", "profile")}
"""Points of a face to layout and subset. The two layouts have no points in common by index."""


def read(root: Path, split: str) -> Iterator[Sample]:
    """The faces of all folders below ``trainset`` or ``testset`` (or ``train``, ``test``).

    Raises:
        DataError: A folder or an image is missing, or a face has another number of points.
    """
    require_split("menpo2d", split)
    folder = find(root, "menpo2d", f"{split}set", split)
    for file, image in pts_with_images(folder, "menpo2d", recursive=True):
        points = read_pts(file)
        if len(points) not in LAYOUTS:
            raise DataError(f"{file}: {len(points)} points, Menpo 2D has 68 or 39")
        layout, part = LAYOUTS[len(points)]
        yield Sample(
            image=image,
            name=image.relative_to(root).as_posix(),
            points=points,
            layout=layout,
            photo=image.stem,
            subsets=(part,),
        )
