"""Crops with a list of names and normalised points, as PIPNet and HIH use (COMPAT 1.6, 3.3)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from facemark_export.training.annotations import photo_of
from facemark_export.training.datasets.sample import Sample, layout_of
from facemark_export.training.datasets.source import find, numbers, require_part, rows
from facemark_sdk.errors import DataError
from facemark_sdk.image import load_image


def read_pipnet(root: Path, split: str) -> Iterator[Sample]:
    """The crops of ``SPLIT.txt`` in ``images_train``, or ``images_test`` for splits test*.

    A list ``SPLIT_PART.txt`` makes its crops part of subset PART, and is a split of its own too.

    Raises:
        DataError: A list or an image is missing, or a line is malformed.
    """
    path = find(root, "pipnet", f"{split}.txt")
    images = find(root, "pipnet", f"images_{'test' if split.startswith('test') else 'train'}")
    known = _names(path)
    parts = {}
    for part in sorted(root.glob(f"{split}_*.txt")):
        names = _names(part)
        require_part(part, names, path, known)
        parts[part.stem.removeprefix(f"{split}_")] = names
    return _read(path, images, "pipnet", parts)


def read_hih(root: Path, split: str) -> Iterator[Sample]:
    """The crops of folder SPLIT, such as ``test_blur``, with ``SPLIT.txt`` in or beside it.

    Raises:
        DataError: A list or an image is missing, or a line is malformed.
    """
    path = find(root, "hih", f"{split}.txt", f"{split}/{split}.txt")
    return _read(path, find(root, "hih", split), "hih", {})


def _names(path: Path) -> set[str]:
    return {tokens[0] for _, tokens in rows(path)}


def _read(path: Path, images: Path, dataset: str, parts: dict[str, set[str]]) -> Iterator[Sample]:
    """A list's crops, each a box of its own; one whose first line is a single token has no points.

    Sizes are read from the images, for coordinates are fractions of them.
    """
    width = 0
    for where, tokens in rows(path):
        width = width or len(tokens)
        if len(tokens) != width or width % 2 == 0:
            raise DataError(
                f"{where}: {len(tokens)} tokens; want a name and pairs of coordinates"
                f", as many in every line"
            )
        name = tokens[0]
        image = find(images, dataset, name)
        size = np.array(load_image(image).shape[1::-1], np.float64)
        points = layout = None
        if width > 1:
            points = numbers(tokens[1:], where).reshape(-1, 2) * size
            layout = layout_of(len(points))
        yield Sample(
            image=image,
            name=name,
            points=points,
            layout=layout,
            photo=photo_of({"image": name}),
            box=np.concatenate([np.zeros(2), size]),
            subsets=tuple(part for part, names in parts.items() if name in names),
        )
