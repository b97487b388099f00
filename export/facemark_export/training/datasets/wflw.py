"""WFLW: 98 points, rectangle and six attributes a face (COMPAT 1.6)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from facemark_export.training.datasets.sample import Sample
from facemark_export.training.datasets.source import (
    find,
    numbers,
    require_part,
    require_split,
    rows,
)
from facemark_sdk.errors import DataError

SUBSETS = ("largepose", "expression", "illumination", "makeup", "occlusion", "blur")
"""In the order of a line's flags."""
NUM_POINTS = 98
COORDINATES = 2 * NUM_POINTS
TOKENS = COORDINATES + 4 + len(SUBSETS) + 1
LISTS = "WFLW_annotations/list_98pt_rect_attr_train_test/list_98pt_rect_attr_{}.txt"
SUBSET_LISTS = "WFLW_annotations/list_98pt_test/list_98pt_test_{}.txt"
IMAGES = "WFLW_images"


def read(root: Path, split: str) -> Iterator[Sample]:
    """The faces of a split, in the list's order.

    A test face's subsets are those whose lists name it; a training face's, the flags of its line.

    Raises:
        DataError: A list or an image is missing, or a line is malformed.
    """
    require_split("wflw", split)
    path = find(root, "wflw", LISTS.format(split))
    listed = _listed(root, path) if split == "test" else None
    images = find(root, "wflw", IMAGES)
    for where, tokens in rows(path):
        if len(tokens) != TOKENS:
            raise DataError(f"{where}: {len(tokens)} tokens, a WFLW line has {TOKENS}")
        values = numbers(tokens[:-1], where)
        name, key = tokens[-1], _key(tokens)
        if listed is None:
            flags = values[COORDINATES + 4 :]
            subsets = [subset for subset, flag in zip(SUBSETS, flags, strict=True) if flag]
        else:
            subsets = [subset for subset in SUBSETS if key in listed[subset]]
        yield Sample(
            image=find(images, "wflw", name),
            name=name,
            points=values[:COORDINATES].reshape(-1, 2),
            layout="wflw98",
            photo=name,
            box=values[COORDINATES : COORDINATES + 4],
            subsets=tuple(subsets),
        )


def _listed(root: Path, path: Path) -> dict[str, set[str]]:
    """The test faces' keys by subset."""
    known = {_key(tokens) for _, tokens in rows(path)}
    listed = {}
    for subset in SUBSETS:
        part = find(root, "wflw", SUBSET_LISTS.format(subset))
        listed[subset] = {_key(tokens) for _, tokens in rows(part)}
        require_part(part, listed[subset], path, known)
    return listed


def _key(tokens: list[str]) -> str:
    """What the lists agree on: first coordinate and image (COMPAT 1.6)."""
    return f"{tokens[0]}_{tokens[-1]}"
