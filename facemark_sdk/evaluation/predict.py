"""What a model makes of annotated faces, photo by photo, as they are and made harder."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from facemark_sdk.errors import DataError, ImageError, LayoutError
from facemark_sdk.evaluation.annotations import AnnotatedFace
from facemark_sdk.evaluation.boxes import BoxesOf
from facemark_sdk.image import Image, load_image
from facemark_sdk.landmark_model import LandmarkModel
from facemark_sdk.layouts import Layout, convert, mapping_weights
from facemark_sdk.robustness import Protocol, perturb


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """An annotated face with what the model made of it.

    Attributes:
        face: The annotation.
        size: Width and height of its photo, pixels.
        points: By protocol, (L, 2) float32 in pixels of the photo and in the layout asked for; None
            when the face has no box, as the detector did not find it.
    """

    face: AnnotatedFace
    size: tuple[int, int]
    points: Mapping[Protocol, NDArray[np.float32]] | None


def predict_faces(
    model: LandmarkModel,
    faces: Sequence[AnnotatedFace],
    boxes_of: BoxesOf,
    *,
    layout: Layout,
    protocols: Sequence[Protocol] = ("clean",),
    seed: int = 0,
) -> Iterator[Prediction]:
    """Run a model over faces, in their order.

    Boxes are those of the photo as it is under every protocol, so that what is measured is the
    landmark model: the Wasserstein paper, too, perturbs photos whose boxes are given.

    Args:
        model: The model.
        faces: Annotated faces; neighbours of one photo share its reading and its detection.
        boxes_of: Where boxes come from.
        layout: What is measured, to which predictions are mapped: the annotations' layout, or
            another that they map to as well.
        protocols: What is done to the photos, each by itself.
        seed: Of all that is random, with each face's photo and points (`seed_of`).

    Raises:
        LayoutError: There is no mapping from the model's layout.
        DataError: A photo cannot be used, or a box is wanted that is not annotated.
    """
    try:
        mapping_weights(model.layout.name, layout.name)
    except LayoutError as error:
        raise LayoutError(
            f"{error}; measure in a layout that the model's and the annotations' both map to"
        ) from None
    return _predictions(model, faces, boxes_of, layout, tuple(protocols), seed)


def _predictions(
    model: LandmarkModel,
    faces: Sequence[AnnotatedFace],
    boxes_of: BoxesOf,
    layout: Layout,
    protocols: tuple[Protocol, ...],
    seed: int,
) -> Iterator[Prediction]:
    for _, group in groupby(faces, key=lambda face: face.path):
        in_photo = list(group)
        image = _photo(in_photo[0])
        size = (image.shape[1], image.shape[0])
        for face, box in zip(in_photo, boxes_of(image, in_photo), strict=True):
            if box is None:
                yield Prediction(face, size, None)
                continue
            pictures = [perturb(image, face.points, p, seed_of(face, seed)) for p in protocols]
            crops, affines = model.crop(pictures, [box[None]] * len(pictures))
            points = model.to_image(model.predict_crops(crops), affines).points
            mapped = convert(points, model.layout.name, layout.name)
            yield Prediction(face, size, dict(zip(protocols, mapped, strict=True)))


def seed_of(face: AnnotatedFace, seed: int) -> tuple[int, int, int]:
    """The seed of a face's perturbations, whatever the order and number of the others.

    It depends on the names and annotations, not on decoded pixels, which differ a little between
    OpenCV's versions.
    """
    return seed, zlib.crc32(face.image.encode()), zlib.crc32(face.points.astype("<f4").tobytes())


def _photo(face: AnnotatedFace) -> Image:
    try:
        return load_image(face.path)
    except ImageError as error:
        raise DataError(f"{face.where}: {error}") from None
