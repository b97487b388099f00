"""Detection accuracy on held-out scenes, and whether close-ups and rolled faces are found.

Protocol: the held-out scenes of `facemark_export.training.splits`; a detection is right at
IoU >= 0.5; faces with a longer side under 24 px in the photo, and what is found on them, do not
count. Close-ups: each held-out face of 60 px or more cut out tightly, so that it fills the frame.
Roll: each such face's photo turned by +30 and -30 degrees about the face. There a face is found
when a detection has its middle within a quarter of the face's longer side from the face's, and a
longer side between half and twice the face's.

    python benchmarks/accuracy_detection.py MODEL --data SCENES [--json F] [--curve F.png]
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import tyro
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from facemark_export.training.detection import VALIDATION_SIDE as SMALLEST
from facemark_export.training.detection import longer_sides
from facemark_export.training.detection_scenes import Scene, read_scenes, split_scenes
from facemark_sdk import FaceDetector
from facemark_sdk.detect.metrics import (
    Curve,
    average_precision,
    curve_over_images,
)

LARGE = 60.0
CURVE_SCORE = 0.01


def main(
    model: tyro.conf.Positional[str],
    data: Path,
    det_size: int | None = None,
    threads: int = 2,
    json_file: Annotated[Path | None, tyro.conf.arg(name="json")] = None,
    curve: Path | None = None,
) -> None:
    """Measure a face detector.

    Args:
        model: Name or ONNX file.
        data: The folder of scenes.
        det_size: Longest side that the network sees; by default what `FaceDetector` does without.
        threads: CPU threads.
        json_file: Write the figures here.
        curve: Draw the precision-recall curve here.
    """
    every = FaceDetector(
        model, backend="cpu", threads=threads, det_size=det_size, score_threshold=CURVE_SCORE
    )
    _, scenes = split_scenes(read_scenes([data]), None)
    usual = FaceDetector(model, backend="cpu", threads=threads, det_size=det_size)
    figures, found = scene_figures(every, usual, scenes)
    figures |= {
        "close_ups_found": share_found(usual, scenes, close_up),
        "rolled_30_found": share_found(usual, scenes, lambda s, i: rolled(s, i, 30)),
        "rolled_-30_found": share_found(usual, scenes, lambda s, i: rolled(s, i, -30)),
    }
    table = Table("figure", "value")
    for name, value in figures.items():
        table.add_row(name, f"{value:g}")
    Console().print(table)
    if json_file is not None:
        protocol = (
            f"{len(scenes)} held-out scenes, IoU 0.5, faces of {SMALLEST:g} px or more, "
            f"det_size {sizes_in_words(usual)}, score {usual.score_threshold:g}"
        )
        json_file.write_text(json.dumps({"protocol": protocol, **figures}, indent=2) + "\n")
    if curve is not None:
        draw_curve(found, usual.score_threshold, curve)


def sizes_in_words(detector: FaceDetector) -> str:
    """The sizes at which a detector looks, as a protocol states them."""
    if detector.quick_size is None:
        return str(detector.det_size)
    return f"{detector.det_size} after a quick look at {detector.quick_size}"


def scene_figures(
    every: FaceDetector, usual: FaceDetector, scenes: list[Scene]
) -> tuple[dict[str, float], Curve]:
    """Precision and recall at the detector's own score; average precision and best F1 over all."""
    curve = scene_curve(every, scenes)
    precision, recall = scene_curve(usual, scenes).at(usual.score_threshold)
    threshold, f1 = curve.best()
    figures = {
        "faces": int(sum((longer_sides(scene.boxes) >= SMALLEST).sum() for scene in scenes)),
        "precision": precision,
        "recall": recall,
        "average_precision": average_precision(curve),
        "best_f1": f1,
        "best_f1_score": threshold,
    }
    return {name: round(value, 4) for name, value in figures.items()}, curve


def scene_curve(detector: FaceDetector, scenes: list[Scene]) -> Curve:
    """Precision and recall over the scores that a detector gives."""
    found = ((detector(scene.image), scene) for scene in track(scenes, "scenes"))
    return curve_over_images(
        (faces.boxes, faces.scores, scene.boxes, longer_sides(scene.boxes) < SMALLEST)
        for faces, scene in found
    )


def share_found(detector: FaceDetector, scenes: list[Scene], change: object) -> float:
    """Share of the large faces that are found after a change of the photo."""
    hits = []
    for scene in track(scenes, "faces"):
        for index in np.flatnonzero(longer_sides(scene.boxes) >= LARGE):
            image, centre, side = change(scene, index)  # type: ignore[operator]
            boxes = detector(image).boxes
            middles = (boxes[:, :2] + boxes[:, 2:]) / 2
            near = np.linalg.norm(middles - centre, axis=1) < side / 4
            size = longer_sides(boxes) / side
            hits.append(bool((near & (size > 0.5) & (size < 2)).any()))
    return round(float(np.mean(hits)), 4)


def close_up(scene: Scene, index: int) -> tuple[NDArray[np.uint8], NDArray[np.float64], float]:
    """The face cut out along its box: the image, the face's middle and longer side in it."""
    height, width = scene.image.shape[:2]
    x1, y1, x2, y2 = np.clip(scene.boxes[index], 0, [width, height, width, height]).astype(int)
    image = np.ascontiguousarray(scene.image[y1:y2, x1:x2])
    return image, np.array([x2 - x1, y2 - y1]) / 2, float(max(x2 - x1, y2 - y1))


def rolled(
    scene: Scene, index: int, degrees: float
) -> tuple[NDArray[np.uint8], NDArray[np.float64], float]:
    """The photo turned about the face, around it three times the face's size."""
    x1, y1, x2, y2 = scene.boxes[index].astype(float)
    side = max(x2 - x1, y2 - y1)
    frame = round(3 * side)
    matrix = cv2.getRotationMatrix2D(((x1 + x2) / 2, (y1 + y2) / 2), degrees, 1.0)
    matrix[:, 2] += frame / 2 - np.array([(x1 + x2) / 2, (y1 + y2) / 2])
    image = cv2.warpAffine(scene.image, matrix, (frame, frame))
    return image, np.array([frame / 2, frame / 2]), side  # type: ignore[return-value]


def draw_curve(curve: Curve, score: float, path: Path) -> None:
    """Precision over recall as a picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5, 4))
    axes.plot(curve.recall, curve.precision)
    axes.scatter(*reversed(curve.at(score)), color="tab:red", label=f"score {score:g}")
    axes.set(xlabel="recall", ylabel="precision", xlim=(0.5, 1.01), ylim=(0.5, 1.01))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120, bbox_inches="tight")


if __name__ == "__main__":
    tyro.cli(main)
