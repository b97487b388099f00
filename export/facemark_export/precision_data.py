"""What a network's precisions are measured on: real faces to calibrate, to search and to judge.

The photos that training holds out judge, all others calibrate. A landmark network's faces are cut
by its own crop rule from the boxes that the bundled detector finds. Where nothing is annotated,
photos are held out by the hash of their names, and what the float network finds is the measure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facemark_export.precision_detection import Photos
from facemark_export.precision_landmarks import Crops
from facemark_export.training.annotations import is_held_out, photo_of, read_annotations
from facemark_export.training.detection_scenes import BUNDLED_LIST, read_names
from facemark_export.training.landmark_data import read_faces
from facemark_sdk import FaceDetector, crop, get_layout, load_image
from facemark_sdk.errors import DataError
from facemark_sdk.evaluation import fitting_box
from facemark_sdk.evaluation.annotations import ANNOTATIONS
from facemark_sdk.models import DEFAULT_DETECTOR
from facemark_sdk.spec import ModelSpec

CALIBRATED, SEARCHED, JUDGED = 128, 48, 400
"""Faces or photos at most, drawn evenly: to see ranges, to choose layers, to judge."""
FEWEST = 4
"""Faces or photos for either."""
PHOTOS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")

Pixels = NDArray[np.uint8]
Measured = Crops | Photos


@dataclass(frozen=True)
class Samples:
    """Faces or photos of both sides.

    Attributes:
        calibration: To see ranges.
        search: Others of the same side, to choose layers.
        validation: Of the photos that are held out, to judge.
    """

    calibration: Measured
    search: Measured
    validation: Measured


@dataclass(frozen=True)
class _Source:
    """A photo and what is annotated in it: the points (L, 2) of a face, or all boxes (M, 4)."""

    path: Path
    held_out: bool
    truth: NDArray[np.float32] | None


def read_samples(folders: Sequence[Path], spec: ModelSpec) -> Samples:
    """Read folders of photos; where some are annotated for the network's task, those alone count.

    Raises:
        DataError: There are too few faces or photos, or annotations are malformed.
        ImageError: A photo cannot be read.
    """
    sources = _all_sources(folders, spec)
    ours = _evenly([s for s in sources if not s.held_out], CALIBRATED + SEARCHED)
    every = (CALIBRATED + SEARCHED) // SEARCHED
    names = _names(folders)
    samples = Samples(
        calibration=_measured([s for i, s in enumerate(ours) if i % every], spec, names),
        search=_measured(ours[::every], spec, names),
        validation=_validation(sources, spec, names),
    )
    for aim, found in (
        ("to calibrate on", samples.calibration),
        ("to choose layers on", samples.search),
        ("to judge on, as a tenth of the photos is held out", samples.validation),
    ):
        if len(found) < FEWEST:
            raise DataError(
                f"--calibration {', '.join(map(str, folders))}: {len(found)} faces {aim}, at least "
                f"{FEWEST} are needed; give more photos"
            )
    return samples


def read_validation(folders: Sequence[Path], spec: ModelSpec) -> Measured | None:
    """What judges alone; None where too few faces are annotated for the network's task.

    Raises:
        DataError: Annotations are malformed.
        ImageError: A photo cannot be read.
    """
    sources = _all_sources(folders, spec)
    if any(source.truth is None for source in sources):
        return None
    validation = _validation(sources, spec, _names(folders))
    return validation if len(validation) >= FEWEST else None


def _all_sources(folders: Sequence[Path], spec: ModelSpec) -> list[_Source]:
    sources = [source for folder in folders for source in _sources(folder, spec)]
    return [source for source in sources if source.truth is not None] or sources


def _validation(sources: Sequence[_Source], spec: ModelSpec, names: str) -> Measured:
    held_out = _evenly([source for source in sources if source.held_out], JUDGED)
    return _measured(held_out, spec, f"held-out photos of {names}")


def _names(folders: Sequence[Path]) -> str:
    return " + ".join(dict.fromkeys(folder.resolve().name for folder in folders))


def _sources(folder: Path, spec: ModelSpec) -> Iterator[_Source]:
    """The photos of a folder: those that its annotations name, else all there are."""
    if not folder.is_dir():
        raise DataError(f"--calibration {folder} is no folder; give one of photos")
    annotated = (folder / ANNOTATIONS).exists()
    records = read_annotations(folder) if annotated else []
    wanted = "points" if spec.task == "landmarks" else "faces"
    usable = all(
        wanted in record and record.get("layout", spec.layout) == spec.layout for record in records
    )
    if not annotated:
        for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in PHOTOS):
            yield _Source(path, is_held_out(photo_of({"image": path.name})), None)
    elif not usable:  # annotated for something else
        photos = {str(record.get("image")): photo_of({"image": "", **record}) for record in records}
        for name, photo in photos.items():
            yield _Source(folder / name, is_held_out(photo), None)
    elif spec.task == "landmarks":
        for face in read_faces(folder, spec.layout, get_layout(spec.layout).num_points):
            yield _Source(face.path, is_held_out(face.photo), face.points)
    else:
        yield from _scenes(folder, records)


def _scenes(folder: Path, records: Sequence[dict[str, object]]) -> Iterator[_Source]:
    names = [str(record.get("image")) for record in records]
    listed = read_names(BUNDLED_LIST) & set(names)
    for name, record in zip(names, records, strict=True):
        try:
            boxes = np.asarray([face["box"] for face in record["faces"]], np.float32)  # type: ignore[attr-defined]
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{folder}: the faces of {name} are malformed ({error})") from None
        held_out = name in listed if listed else is_held_out(name)
        yield _Source(folder / name, held_out, boxes.reshape(-1, 4))


def _evenly(sources: Sequence[_Source], most: int) -> list[_Source]:
    if len(sources) <= most:
        return list(sources)
    return [sources[i] for i in np.linspace(0, len(sources) - 1, most).round().astype(int)]


def _measured(sources: Sequence[_Source], spec: ModelSpec, names: str) -> Measured:
    if spec.task == "landmarks":
        return _crops(sources, spec, names)
    truths = [source.truth for source in sources if source.truth is not None]
    return Photos(
        spec=spec,
        paths=tuple(source.path for source in sources),
        truth=tuple(truths) if truths else None,
        said=names,
    )


def _crops(sources: Sequence[_Source], spec: ModelSpec, names: str) -> Crops:
    """The faces cut out; an annotated one that is not found is left out and counted."""
    assert spec.crop is not None
    detector = FaceDetector(DEFAULT_DETECTOR, backend="cpu")
    size, missed = spec.input.width, 0
    crops = [np.empty((0, size, size, 3), np.uint8)]
    affines, truths = [], []
    for source in sources:
        image = load_image(source.path)
        boxes = detector(image).boxes
        if source.truth is not None:
            fitting = fitting_box(boxes, source.truth)
            if fitting is None:
                missed += 1
                continue
            boxes = fitting[None]
            truths.append(source.truth)
        cut = np.empty((len(boxes), size, size, 3), np.uint8)
        affines.append(crop.cut(spec.crop, image, crop.check_boxes(boxes), out=cut))
        crops.append(cut)
    said = f"{names}, boxes from {detector.spec.name}"
    return Crops(
        spec=spec,
        crops=np.concatenate(crops),
        affines=np.concatenate(affines) if affines else np.empty((0, 2, 3)),
        truth=np.stack(truths) if truths else None,
        said=f"{said} ({missed} not found, left out)" if missed else said,
    )
