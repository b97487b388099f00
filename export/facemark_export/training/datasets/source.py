"""Files of a data set: found or missed with a word on where to get them; text read by the line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facemark_sdk.errors import DataError

PUBLISHED = {
    "300w": "https://ibug.doc.ic.ac.uk/resources/facial-point-annotations/",
    "300vw": "https://ibug.doc.ic.ac.uk/resources/300-VW/",
    "menpo2d": "https://ibug.doc.ic.ac.uk/resources/"
    "2nd-facial-landmark-tracking-competition-menpo-ben/",
    "wflw": "https://wywu.github.io/projects/LAB/WFLW.html",
    "cofw": "https://data.caltech.edu/records/bc0bf-nc666",
    "cofw68": "https://github.com/golnazghiasi/cofw68-benchmark",
    "aflw": "http://mmlab.ie.cuhk.edu.hk/projects/compositional.html (annotations) and "
    "https://www.tugraz.at/institute/icg/research/team-bischof/lrs/downloads/aflw/ (images)",
    "celeba": "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html (images) and "
    "https://github.com/jhb86253817/PIPNet (celeba_bboxes.txt)",
    "hrnet": "https://github.com/HRNet/HRNet-Facial-Landmark-Detection",
    "pipnet": "https://github.com/jhb86253817/PIPNet",
    "hih": "https://github.com/starhiking/HeatmapInHeatmap",
}
"""Where the owners of each set, or of its annotations in this form, publish it."""
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp"})


def missing(dataset: str, what: str, folder: Path) -> DataError:
    """The error for a file or folder that a data set lacks."""
    return DataError(
        f"no {what} in {folder}; {dataset} is published by its owners at {PUBLISHED[dataset]}"
    )


def find(root: Path, dataset: str, *places: str) -> Path:
    """The first of the places, paths relative to the root, that exists.

    Raises:
        DataError: None does.
    """
    for place in places:
        if (root / place).exists():
            return root / place
    raise missing(dataset, " nor ".join(places), root)


def require_split(dataset: str, split: str, known: Sequence[str] = ("train", "test")) -> None:
    """Refuse a split that the set does not have.

    Raises:
        DataError: It has others.
    """
    if split not in known:
        raise DataError(f"split {split!r}: {dataset} has {', '.join(known)}")


def read_lines(path: Path) -> list[str]:
    """A text file's lines.

    Raises:
        DataError: It cannot be read, or is no UTF-8 text.
    """
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path} is not a text file in UTF-8") from None


def rows(path: Path) -> Iterator[tuple[str, list[str]]]:
    """The tokens of each line that has any, with the words that say where it stands.

    Raises:
        DataError: As `read_lines`, or no line has any.
    """
    found = False
    for number, line in enumerate(read_lines(path), 1):
        tokens = line.split()
        if tokens:
            found = True
            yield f"{path}, line {number}", tokens
    if not found:
        raise DataError(f"{path} is empty")


def require_part(part: Path, keys: Set[object], whole: Path, known: Set[object]) -> None:
    """Refuse a subset's list that names faces which the whole set's list lacks.

    Raises:
        DataError: It does; the two files are not of one release.
    """
    lost = len(keys - known)
    if lost:
        raise DataError(f"{part}: {lost} of {len(keys)} faces are not in {whole.name}")


def numbers(tokens: Sequence[str], where: str) -> NDArray[np.float64]:
    """Tokens as finite numbers, (N,) float64.

    Raises:
        DataError: One is none; `where` says where it stands.
    """
    try:
        values = np.array([float(token) for token in tokens])
    except ValueError as error:
        raise DataError(f"{where}: {error}") from None
    if not np.isfinite(values).all():
        raise DataError(f"{where}: a number is not finite")
    return values
