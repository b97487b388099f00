"""CelebA as faces without points, for PIPNet's self-training (COMPAT 1.6, GSSL variants)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from facemark_export.training.datasets.sample import Sample
from facemark_export.training.datasets.source import find, numbers, require_split, rows
from facemark_sdk.errors import DataError


def read(root: Path, split: str) -> Iterator[Sample]:
    """The faces of ``celeba_bboxes.txt``; the one split is train.

    Raises:
        DataError: The list or an image is missing, or a line is malformed.
    """
    require_split("celeba", split, ("train",))
    images = find(root, "celeba", "img_celeba")
    for where, tokens in rows(find(root, "celeba", "celeba_bboxes.txt")):
        if len(tokens) != 5:
            raise DataError(f"{where}: want name xmin ymin xmax ymax, got {len(tokens)} tokens")
        name = tokens[0]
        yield Sample(
            image=find(images, "celeba", name),
            name=name,
            points=None,
            layout=None,
            photo=name,
            box=numbers(tokens[1:], where),
        )
