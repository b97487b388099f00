"""300W: 68 points over AFW, HELEN, LFPW and iBUG (COMPAT 1.6)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from facemark_export.training.annotations import photo_of
from facemark_export.training.datasets.pts import pts_with_images, read_pts
from facemark_export.training.datasets.sample import Sample
from facemark_export.training.datasets.source import find, require_split
from facemark_sdk.errors import DataError

FOLDERS = {
    "train": ("afw", "helen/trainset", "lfpw/trainset"),
    "test": ("helen/testset", "lfpw/testset", "ibug"),
}
NUM_POINTS = 68


def read(root: Path, split: str) -> Iterator[Sample]:
    """The faces of a split; the test faces are in subset common, or challenge (those of iBUG).

    Raises:
        DataError: A folder, an image or a point is missing.
    """
    require_split("300w", split, tuple(FOLDERS))
    for folder in FOLDERS[split]:
        for file, image in pts_with_images(find(root, "300w", folder), "300w"):
            points = read_pts(file)
            if len(points) != NUM_POINTS:
                raise DataError(f"{file}: {len(points)} points, 300W has {NUM_POINTS}")
            name = f"{folder}/{image.name}"
            part = "challenge" if "ibug" in name else "common"
            yield Sample(
                image=image,
                name=name,
                points=points,
                layout="ibug68",
                photo=photo_of({"image": name}),
                subsets=(part,) if split == "test" else (),
            )
