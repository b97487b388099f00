"""Samples of any data set as one of our folders: ``annotations.jsonl`` and ``images``."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from facemark_export.training.datasets.sample import Sample
from facemark_sdk.errors import DataError, LayoutError
from facemark_sdk.files import replace_file
from facemark_sdk.layouts import convert as convert_points

JPEG_QUALITY = 95
DECIMALS = 6
"""Of written coordinates: as many as the data sets' text files have."""


@dataclass(frozen=True, slots=True)
class Converted:
    """Faces that were written, and faces that were left out for their layout."""

    faces: int
    skipped: int


def convert(
    samples: Iterable[Sample],
    out: Path,
    split: str,
    prepare: Callable[[Sample], Sample | None],
    *,
    link: bool = False,
) -> Converted:
    """Write a data folder that ``facemark-train`` and ``facemark eval`` read.

    A record has ``image``, ``photo``, ``split`` and ``subsets``, then as far as they are known
    ``points`` with their ``layout``, ``box``, ``visible`` and ``norm``.

    Args:
        samples: The faces. One image is written for all that share an image file, one for each
            that comes as an array.
        out: The folder, without an ``annotations.jsonl`` so far.
        split: The split's name, for the records.
        prepare: Brings a face into our layout and coordinates, or leaves it out (None).
        link: Make links to image files instead of copies.

    Raises:
        DataError: The folder is in use, or no face could be written; or from a reader.
        OSError: A file cannot be written.
    """
    annotations = out / "annotations.jsonl"
    if annotations.exists():
        raise DataError(f"{annotations} is there already; give a new folder")
    out.mkdir(parents=True, exist_ok=True)
    faces = skipped = 0

    def write(path: Path) -> None:
        nonlocal faces, skipped
        taken: set[PurePosixPath] = set()
        with path.open("w", encoding="utf-8") as file:
            for sample in samples:
                ready = prepare(sample)
                if ready is None:
                    skipped += 1
                    continue
                image = _write_image(ready, out / "images", taken, link=link)
                record = _record(ready, image.relative_to(out).as_posix(), split)
                file.write(json.dumps(record) + "\n")
                faces += 1
        if not faces:
            raise DataError(f"split {split!r}: no face to write, {skipped} of another layout")

    replace_file(annotations, write)
    return Converted(faces, skipped)


def in_layout(sample: Sample, layout: str) -> Sample | None:
    """The face in a layout, mapped in raw pixels (COMPAT 1.6); None where no mapping exists.

    A face without points stays as it is.
    """
    if sample.points is None or sample.layout is None or sample.layout == layout:
        return sample
    try:
        points = convert_points(sample.points, sample.layout, layout)  # type: ignore[arg-type]
    except LayoutError:
        return None
    return replace(sample, points=points.astype(np.float64), layout=layout, visible=None)


def from_zero(sample: Sample, origin: int) -> Sample:
    """The face in pixels counted from 0, of a set that counts from `origin`."""
    return replace(
        sample,
        points=None if sample.points is None else sample.points - origin,
        box=None if sample.box is None else sample.box - origin,
    )


def _write_image(sample: Sample, folder: Path, taken: set[PurePosixPath], *, link: bool) -> Path:
    """Write the face's image, unless an earlier face's is the same, and say where."""
    name = PurePosixPath(sample.name)
    if name.is_absolute() or ".." in name.parts:
        raise DataError(f"image {sample.name!r}: want a path inside the data set's image folder")
    if isinstance(sample.image, Path):
        path = folder / name
        if name not in taken:
            path.parent.mkdir(parents=True, exist_ok=True)
            if link:
                path.symlink_to(sample.image.resolve())
            else:
                shutil.copyfile(sample.image, path)
    else:
        plain = name
        number = 0
        while name in taken:
            number += 1
            name = plain.with_name(f"{plain.stem}_{number}{plain.suffix}")
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
        path.write_bytes(cv2.imencode(path.suffix, sample.image, quality)[1].tobytes())
    taken.add(name)
    return path


def _record(sample: Sample, image: str, split: str) -> dict[str, Any]:
    record: dict[str, Any] = {
        "image": image,
        "photo": sample.photo,
        "split": split,
        "subsets": list(sample.subsets),
    }
    if sample.points is not None:
        record |= {"points": _rounded(sample.points), "layout": sample.layout}
    if sample.box is not None:
        record["box"] = _rounded(sample.box)
    if sample.visible is not None:
        record["visible"] = sample.visible.tolist()
    if sample.norm is not None:
        record["norm"] = sample.norm
    return record


def _rounded(values: NDArray[np.float64]) -> Any:
    return np.round(values, DECIMALS).tolist()
