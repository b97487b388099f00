"""AFLW-19: 19 points of every face, from AFLWinfo_release.mat (COMPAT 1.6)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from facemark_export.training.datasets.matlab import load_v5, matrix
from facemark_export.training.datasets.sample import Sample
from facemark_export.training.datasets.source import find, require_split
from facemark_sdk.errors import DataError

TRAIN_FACES = 20_000
"""That many of the order ``ra`` are for training, the rest for the test."""
NUM_POINTS = 19


def read(root: Path, split: str) -> Iterator[Sample]:
    """The faces of a split, in the order that the file gives.

    Raises:
        DataError: The file or an image is missing or damaged, or SciPy is not installed.
    """
    require_split("aflw", split)
    path = find(root, "aflw", "AFLWinfo_release.mat")
    images = find(root, "aflw", "flickr")
    stored_boxes, data, names, order = load_v5(path, "bbox", "data", "nameList", "ra")
    boxes = matrix(stored_boxes, (None, 4), f"{path}, bbox")
    data = matrix(data, (len(boxes), 2 * NUM_POINTS), f"{path}, data")
    names, order = names.ravel(), order.ravel()
    if len(names) != len(boxes):
        raise DataError(f"{path}: {len(names)} names in nameList for {len(boxes)} faces")
    if sorted(order.tolist()) != list(range(1, len(boxes) + 1)):
        raise DataError(f"{path}: ra is not an order of the faces 1 to {len(boxes)}")
    chosen = order[:TRAIN_FACES] if split == "train" else order[TRAIN_FACES:]
    for index in chosen.astype(np.int64) - 1:
        if np.size(names[index]) != 1:
            raise DataError(f"{path}, nameList: entry {index + 1} is no file name")
        name = str(np.asarray(names[index]).item())
        left, right, top, bottom = boxes[index]
        yield Sample(
            image=find(images, "aflw", name),
            name=name,
            points=data[index].reshape(2, NUM_POINTS).T.copy(),
            layout="aflw19",
            photo=name,
            box=np.array([left, top, right, bottom]),
        )
