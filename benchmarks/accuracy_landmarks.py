"""Landmark accuracy on held-out photos, with boxes from our own detector.

Protocol: held-out photos of the given folders (by hash of the photo's name, as the recipes split
them); each face's box is the detection that overlaps its points' bounding box most, by an IoU of
0.3 at least; a face that is not found counts as a failure and, for the NME, with the error of the
mean face in the middle of the photo. (`facemark eval` measures so on all photos.)
NME: mean over 68 points, over the distance of the outer eye corners (36-45). Failure: NME > 0.10.

    python benchmarks/accuracy_landmarks.py MODEL --detector D --data DIR... [--json F] [--sheet F]
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import tyro
from rich.console import Console
from rich.progress import track
from rich.table import Table

from facemark_export.training.landmark_data import for_evaluation, read_faces, split_by_photo
from facemark_sdk import FaceDetector, LandmarkModel, Layout, load_image
from facemark_sdk.evaluation import (
    AnnotatedFace,
    Judged,
    Norm,
    detected_boxes,
    figures,
    judge,
    parts,
    predict_faces,
)
from facemark_sdk.evaluation.sheet import Tile, draw_sheet

SHOWN = 20
"""Faces on the sheet."""


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
    boxes_from = FaceDetector(detector, backend="cpu", threads=threads)
    faces = [face for folder in data for face in held_out(folder, landmarks.layout)]
    run = predict_faces(landmarks, faces, detected_boxes(boxes_from), layout=landmarks.layout)
    judged = judge(list(track(run, landmarks.spec.name, len(faces))), "clean", Norm())
    sets = {name: summary(judged.only(mask)) for name, mask in parts(faces)[0].items()}
    overall = summary(judged)
    show({**sets, "all": overall})
    if json_file is not None:
        protocol = (
            f"held-out photos of {' + '.join(sets)}, boxes from {boxes_from.spec.name}, "
            "inter-ocular (36-45), 68 points, failure at NME > 0.10 or no detection"
        )
        record = {"protocol": protocol, **overall, "sets": sets}
        json_file.write_text(json.dumps(record, indent=2) + "\n")
    if sheet is not None:
        cv2.imwrite(str(sheet), draw_sheet(evenly_drawn(judged)))


def held_out(folder: Path, layout: Layout) -> list[AnnotatedFace]:
    """The faces of a folder whose photos no recipe trains on."""
    _, faces = split_by_photo(read_faces(folder, layout.name, layout.num_points))
    return for_evaluation(faces, folder, layout)


def summary(judged: Judged) -> dict[str, float]:
    """NME and failure rate in percent, faces, and faces that were not found."""
    measured = figures(judged)
    return {
        "faces": measured.faces,
        "not_found": measured.missed,
        "nme_percent": round(measured.nme_percent, 3),
        "median_nme_percent": round(measured.median_nme_percent, 3),
        "failure_percent": round(measured.failure_percent["0.10"], 2),
    }


def show(rows: dict[str, dict[str, float]]) -> None:
    """A table, a row a set."""
    table = Table("set", *next(iter(rows.values())))
    for name, row in rows.items():
        table.add_row(name, *(f"{value:g}" for value in row.values()))
    Console().print(table)


def evenly_drawn(judged: Judged) -> list[Tile]:
    """Faces from the best to the worst, at even steps."""
    rising = np.argsort(judged.nme)
    tiles = []
    for i in rising[np.linspace(0, len(rising) - 1, SHOWN).astype(int)]:
        face, points = judged.faces[i], judged.points[i] if judged.found[i] else None
        said = f"{100 * judged.nme[i]:.1f} %" if judged.found[i] else "not found"
        tiles.append(Tile(load_image(face.path), face.points, points, (said, face.image)))
    return tiles


if __name__ == "__main__":
    tyro.cli(main)
