"""Pseudo-labels: what a trained network says of faces that nobody annotated (paper section 3.3).

An unlabelled face is cut out by its detector's box. Section 3.4 asks for crops of one style: the
box, which reaches to the forehead, must not be cut as if it hugged the landmarks. So the box grows
by a rule that is fitted to the labelled faces: their crops are known, and `crop_fit` finds the
growth that makes them of a detector's boxes. The same crop is labelled and trained in; a crop
around the pseudo-labels themselves would follow their errors from round to round.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from facemark_export.crop_fit import fit_crop_rule
from facemark_export.networks.normalise import Normalise
from facemark_export.training.annotations import read_annotations
from facemark_export.training.landmark_data import AnnotatedFace, read_faces
from facemark_sdk.crop import check_boxes, crop_affines, to_image, warp_crops
from facemark_sdk.decode import find_decoder
from facemark_sdk.detect.face_detector import FaceDetector
from facemark_sdk.errors import DataError, FacemarkError, ModelError
from facemark_sdk.files import replace_file
from facemark_sdk.image import load_image
from facemark_sdk.layouts import get_layout
from facemark_sdk.models import DEFAULT_DETECTOR
from facemark_sdk.spec import CropRule, ModelSpec

FITTED_FACES = 200
"""Labelled faces that the crop rule is fitted on; medians of so many are steady to a percent."""
_BATCH = 32


@dataclass(frozen=True, slots=True)
class UnlabelledFace:
    """A face without annotations.

    Attributes:
        path: The image file.
        box: A detector's, x1 y1 x2 y2 in pixels of the image.
    """

    path: Path
    box: tuple[float, float, float, float]


def read_unlabelled(folders: Sequence[Path]) -> list[UnlabelledFace]:
    """The faces of folders whose ``annotations.jsonl`` states ``image`` and ``box``, in order.

    Raises:
        DataError: A record is malformed or its image is missing.
    """
    faces = []
    for folder in folders:
        for number, record in enumerate(read_annotations(folder), 1):
            where = f"{folder / 'annotations.jsonl'}, line {number}"
            try:
                path = folder / str(record["image"])
                box = tuple(check_boxes([record["box"]])[0].tolist())
            except (KeyError, IndexError) as error:
                raise DataError(
                    f"{where}: an unlabelled face needs image and box ({error})"
                ) from None
            except FacemarkError as error:
                raise DataError(f"{where}: {error}") from None
            if not path.is_file():
                raise DataError(f"{where}: no image {path}")
            faces.append(UnlabelledFace(path.resolve(), box))
    return faces


def fitted_rule(faces: Sequence[AnnotatedFace], growth: float) -> CropRule:
    """Fit the crop rule for detectors' boxes on labelled faces.

    The bundled detector's boxes stand for those of the unlabelled faces: detectors that are trained
    on WIDER FACE frame faces alike.

    Args:
        faces: Labelled training faces.
        growth: Side of their crop over the longer side of their points' box.

    Raises:
        DataError: The detector finds none of the faces.
        ModelError: There is no bundled detector.
    """
    step = max(1, len(faces) // FITTED_FACES)
    try:
        return fit_crop_rule(FaceDetector(DEFAULT_DETECTOR), faces[::step], growth).rule
    except (DataError, ModelError) as error:
        raise type(error)(f"{error}; state --box-growth, how boxes grow to the crop") from None


def predict_points(
    network: nn.Module,
    spec: ModelSpec,
    rule: CropRule,
    faces: Sequence[UnlabelledFace],
    device: torch.device,
) -> NDArray[np.float32]:
    """What a landmark network's decoder says of faces, (N, L, 2) in image pixels.

    For a PIPNet these are the predictions merged with the neighbours' (COMPAT 1.5, GSSL).

    Raises:
        ImageError: An image cannot be read.
    """
    network = network.to(device).eval()
    normalise = Normalise(spec.input).to(device)
    decoder = find_decoder(spec)
    decode, size = decoder.make(spec), spec.input.width
    points = []
    for start in range(0, len(faces), _BATCH):
        part = faces[start : start + _BATCH]
        affines = crop_affines(rule, [face.box for face in part], size)
        crops = np.concatenate(
            [
                warp_crops(load_image(face.path), affine[None], size)
                for face, affine in zip(part, affines, strict=True)
            ]
        )
        with torch.inference_mode():
            outputs = network(normalise(torch.from_numpy(crops).to(device)))
        named = zip(decoder.outputs, outputs, strict=True)
        decoded = decode({name: maps.float().cpu().numpy() for name, maps in named})
        points.append(to_image(decoded.points * size, affines))
    return np.concatenate(points)


def write_labels(
    folder: Path,
    faces: Sequence[UnlabelledFace],
    rule: CropRule,
    points: NDArray[np.float32],
    layout: str,
) -> None:
    """Store pseudo-labels as ``annotations.jsonl``, which any recipe can train on.

    Args:
        folder: Where to; made if it is not there.
        faces: Whose labels they are.
        rule: The rule by which they were cut out; each record's ``square`` is the crop by it,
            centre x, y and side in image pixels.
        points: (N, L, 2) in image pixels.
        layout: Its name.
    """
    affines = crop_affines(rule, [face.box for face in faces], 1)
    sides = affines[:, 0, 0]
    squares = np.concatenate((affines[:, :, 2] + sides[:, None] / 2, sides[:, None]), axis=1)
    lines = [
        json.dumps(
            {
                "image": str(face.path),
                "box": face.box,
                "square": square.tolist(),
                "points": label.tolist(),
                "layout": layout,
            }
        )
        for face, square, label in zip(faces, squares, points, strict=True)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    text = "\n".join(lines) + "\n"
    replace_file(folder / "annotations.jsonl", lambda temporary: temporary.write_text(text))


def read_labels(
    folder: Path, layout: str
) -> tuple[list[AnnotatedFace], list[tuple[float, float, float]]]:
    """Faces with the pseudo-labels that `write_labels` stored, and the squares they are cut by.

    Raises:
        DataError: The file or an image is missing or malformed.
    """
    faces = read_faces(folder, layout, get_layout(layout).num_points)
    return faces, [tuple(record["square"]) for record in read_annotations(folder)]
