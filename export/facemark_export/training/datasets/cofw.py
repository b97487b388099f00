"""COFW: 29 points with occlusion, faces inside MATLAB 7.3 files; COFW-68's points (COMPAT 1.6)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facemark_export.training.datasets.matlab import DAMAGE, hdf5, load_v5, matrix
from facemark_export.training.datasets.sample import Sample
from facemark_export.training.datasets.source import find, require_split
from facemark_sdk.errors import DataError

VARIABLES = {"train": ("IsTr", "bboxesTr", "phisTr"), "test": ("IsT", "bboxesT", "phisT")}
NUM_POINTS = 29
ORIGIN = 1
"""The top-left pixel's centre is (1, 1): the owners' MATLAB code draws points as they stand."""


def read(root: Path, split: str) -> Iterator[Sample]:
    """The faces of a split. Boxes x y w h become x, y, x+w-1, y+h-1.

    Raises:
        DataError: The file is missing or damaged, or h5py is not installed.
    """
    require_split("cofw", split)
    path = find(root, "cofw", f"COFW_{split}_color.mat")
    names = VARIABLES[split]
    h5py = hdf5()
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise DataError(f"{path} is not a readable MATLAB 7.3 file: {error}") from None
    with file:
        cells, boxes, phis = _variables(file, path, names)
        cells = cells.ravel()
        # HDF5 shows MATLAB's matrices transposed.
        boxes = matrix(boxes.T, (len(cells), 4), f"{path}, {names[1]}")
        phis = matrix(phis.T, (len(cells), 3 * NUM_POINTS), f"{path}, {names[2]}")
        for number, (cell, box, phi) in enumerate(zip(cells, boxes, phis, strict=True), 1):
            x, y, occluded = phi.reshape(3, NUM_POINTS)
            stem = f"cofw_{split}_{number:04d}"
            yield Sample(
                image=_picture(file, cell, f"{path}, {names[0]}{{{number}}}"),
                name=f"{stem}.png",
                points=np.stack([x, y], axis=1),
                layout="cofw29",
                photo=stem,
                box=xyxy(box),
                visible=occluded == 0,
            )


def read_68(root: Path, split: str) -> Iterator[Sample]:
    """COFW's test faces with the 68 points and the boxes of COFW-68.

    Raises:
        DataError: A file is missing or damaged, or h5py or SciPy is not installed.
    """
    require_split("cofw68", split, ("test",))
    path = find(root, "cofw68", "cofw68_test_bboxes.mat")
    folder = find(root, "cofw68", "test_annotations", "cofw68_test_annotations")
    boxes = matrix(*load_v5(path, "bboxes"), (None, 4), f"{path}, bboxes")
    for number, sample in enumerate(read(root, split), 1):
        if number > len(boxes):
            raise DataError(f"{path}: {len(boxes)} boxes, COFW_test_color.mat has more faces")
        file = find(folder, "cofw68", f"{number}_points.mat")
        points = matrix(*load_v5(file, "Points"), (68, 2), f"{file}, Points")
        box = xyxy(boxes[number - 1])
        yield replace(sample, points=points, layout="ibug68", box=box, visible=None)


def xyxy(box: NDArray[np.float64]) -> NDArray[np.float64]:
    """The first and last pixel of x y w h: x, y, x+w-1, y+h-1 (COMPAT 1.6)."""
    return np.concatenate([box[:2], box[:2] + box[2:] - 1])


def _variables(file: Any, path: Path, names: Sequence[str]) -> list[NDArray[Any]]:
    try:
        lacking = [name for name in names if name not in file]
        if not lacking:
            return [np.asarray(file[name]) for name in names]
    except DAMAGE as error:
        raise DataError(f"{path} is damaged: {error}") from None
    raise DataError(f"{path} has no variable {', '.join(lacking)}")


def _picture(file: Any, cell: Any, what: str) -> NDArray[np.uint8]:
    """A cell's image, (H, W) grey or (H, W, 3) BGR; stored (W, H) or (RGB, W, H)."""
    try:
        stored = np.asarray(file[cell])
    except DAMAGE:
        raise DataError(f"{what} does not refer to an image") from None
    if stored.dtype != np.uint8 or not (
        stored.ndim == 2 or (stored.ndim == 3 and stored.shape[0] == 3)
    ):
        raise DataError(f"{what}: want a grey or RGB uint8 image, got {stored.dtype}{stored.shape}")
    picture = stored.T if stored.ndim == 2 else stored.T[..., ::-1]
    return np.ascontiguousarray(picture)
