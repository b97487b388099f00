"""Landmark accuracy on held-out photos, with boxes from our own detector.

Protocol: held-out photos of the given folders (by hash of the photo's name, as the recipes split
them); each face's box is the detection that overlaps its points' bounding box most, by an IoU of
0.3 at least; a face that is not found counts as a failure and, for the NME, with the error of the
mean shape in the middle of the photo.
NME: mean over 68 points, over the distance of the outer eye corners (36-45). Failure: NME > 0.10.

    python benchmarks/accuracy_landmarks.py MODEL --detector D --data DIR... [--json F] [--sheet F]
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import tyro
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from facemark_export.crop_fit import box_of
from facemark_export.training.landmark_data import AnnotatedFace, read_faces, split_by_photo
from facemark_sdk import FaceDetector, LandmarkModel
from facemark_sdk.metrics import normalised_errors

FAILURE = 0.10


@dataclass(frozen=True)
class Judged:
    """A held-out face with what the models made of it; `points` is None when it was not found."""

    face: AnnotatedFace
    points: NDArray[np.float32] | None
    nme: float


def main(
    model: tyro.conf.Positional[str],
    data: tuple[Path, ...],
    detector: str = "retinaface_mnet025",
    threads: int = 2,
    json_file: Annotated[Path | None, tyro.conf.arg(name="json")] = None,
    sheet: Path | None = None,
) -> None:
    """Measure and print NME and failure rate by folder and over all.

    Args:
        model: A landmark model: name or ONNX file.
        data: Folders with an annotations.jsonl.
        detector: A detector: name or ONNX file.
        threads: CPU threads.
        json_file: Write the figures here.
        sheet: Write a picture of twenty evenly drawn faces, worst last, here.
    """
    landmarks = LandmarkModel(model, backend="cpu", threads=threads)
    faces_of = FaceDetector(detector, backend="cpu", threads=threads)
    judged = {}
    for folder in data:
        every = read_faces(folder, landmarks.layout.name, landmarks.layout.num_points)
        _, held_out = split_by_photo(every)
        judged[folder.name] = [
            judge(landmarks, faces_of, face) for face in track(held_out, folder.name)
        ]
    figures = {name: summary(rows) for name, rows in judged.items()}
    rows = [row for part in judged.values() for row in part]
    overall = summary(rows)
    show({**figures, "all": overall})
    if json_file is not None:
        protocol = (
            f"held-out photos of {' + '.join(judged)}, boxes from {faces_of.spec.name}, "
            "inter-ocular (36-45), 68 points, failure at NME > 0.10 or no detection"
        )
        record = {"protocol": protocol, **overall, "sets": figures}
        json_file.write_text(json.dumps(record, indent=2) + "\n")
    if sheet is not None:
        cv2.imwrite(str(sheet), draw_sheet(rows))


def judge(landmarks: LandmarkModel, detector: FaceDetector, face: AnnotatedFace) -> Judged:
    """Detect, predict and compare one face."""
    image = face.image()
    box = box_of(detector, image, face.points)
    points = None if box is None else landmarks.predict(image, box[None]).points[0]
    guess = points if points is not None else centred_mean_shape(landmarks, image)
    errors = normalised_errors(guess[None], face.points[None], landmarks.layout)
    return Judged(face, points, float(errors.mean()))


def centred_mean_shape(landmarks: LandmarkModel, image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The mean face in the middle of the photo, at half its size."""
    mean = np.asarray(landmarks.spec.decoder_params["mean_face"], np.float32)
    height, width = image.shape[:2]
    return (mean - 0.5) * min(height, width) / 2 + np.array([width, height], np.float32) / 2


def summary(rows: list[Judged]) -> dict[str, float]:
    """NME and failure rate in percent, faces, and faces that were not found."""
    nme = np.array([row.nme for row in rows])
    failed = (nme > FAILURE) | [row.points is None for row in rows]
    return {
        "faces": len(rows),
        "not_found": sum(row.points is None for row in rows),
        "nme_percent": round(100 * float(nme.mean()), 3),
        "median_nme_percent": round(100 * float(np.median(nme)), 3),
        "failure_percent": round(100 * float(failed.mean()), 2),
    }


def show(figures: dict[str, dict[str, float]]) -> None:
    """A table, a row a set."""
    table = Table("set", *next(iter(figures.values())))
    for name, row in figures.items():
        table.add_row(name, *(f"{value:g}" for value in row.values()))
    Console().print(table)


def draw_sheet(rows: list[Judged], side: int = 256) -> NDArray[np.uint8]:
    """Twenty faces from best to worst: truth in red, prediction in green, NME written."""
    rows = sorted(rows, key=lambda row: row.nme)
    chosen = [rows[i] for i in np.linspace(0, len(rows) - 1, 20).astype(int)]
    tiles = []
    for row in chosen:
        image = row.face.image()
        scale = side / max(image.shape[:2])
        tile = np.zeros((side, side, 3), np.uint8)
        small = cv2.resize(image, None, fx=scale, fy=scale)
        tile[: small.shape[0], : small.shape[1]] = small
        for points, colour in ((row.face.points, (0, 0, 255)), (row.points, (0, 255, 0))):
            for x, y in np.empty((0, 2)) if points is None else points * scale:
                cv2.circle(tile, (int(x * 16), int(y * 16)), 20, colour, -1, cv2.LINE_AA, 4)
        text = f"{100 * row.nme:.1f}%"
        cv2.putText(tile, text, (6, 22), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255, 255, 255), 2)
        tiles.append(tile)
    return np.vstack([np.hstack(tiles[i : i + 5]) for i in range(0, 20, 5)])


if __name__ == "__main__":
    tyro.cli(main)
