"""What a detector's quick look costs in recall and how often a second look follows.

For each size of the quick look and of the full one, the rule of `facemark_sdk.detect.quick` beside
one full look, on the scenes that the detector was trained on, by how many faces they have, and on
the held-out ones. A detection is right at IoU >= 0.5; faces with a longer side under 24 px do not
count. The rule's constants may be tried as well.

    python benchmarks/quick_look.py MODEL --data SCENES [--full-sizes 448 512 576]
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import tyro
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from accuracy_detection import CURVE_SCORE, SMALLEST
from facemark_export.training.detection import longer_sides
from facemark_export.training.detection_scenes import Scene, read_scenes, split_scenes
from facemark_sdk import Detections, FaceDetector
from facemark_sdk.detect import quick
from facemark_sdk.detect.metrics import curve_over_images


class Remembering(FaceDetector):
    """A face detector that runs its network once for each image and size, and counts its looks."""

    looks = 0

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self._seen: dict[tuple[int, int], tuple[NDArray[Any], Detections]] = {}

    def _look(self, image: NDArray[Any], size: int, threshold: float | None = None) -> Detections:
        self.looks += 1
        key = id(image), size
        if key not in self._seen:
            self._seen[key] = image, super()._look(image, size, CURVE_SCORE)
        seen = self._seen[key][1]  # beside its image, without which the key could be another's
        faces = seen.scores >= (self.score_threshold if threshold is None else threshold)
        return Detections(seen.boxes[faces], seen.scores[faces], seen.kps[faces])


def main(
    model: tyro.conf.Positional[str],
    data: Path,
    quick_sizes: tuple[int, ...] = (quick.SIZE,),
    full_sizes: tuple[int, ...] = (),
    least_sides: tuple[int, ...] = (quick.LEAST_SIDE,),
    hints: tuple[float, ...] = (quick.HINT,),
    threads: int = 2,
) -> None:
    """Compare a quick look with a full one where that is not sure, and one full look.

    Args:
        model: Name or ONNX file of a RetinaFace detector.
        data: The folder of scenes.
        quick_sizes: Longest sides of the quick look.
        full_sizes: Longest sides of the full look; by default the model's own.
        least_sides: Values of `quick.LEAST_SIDE`.
        hints: Values of `quick.HINT`.
        threads: CPU threads.
    """
    detector = Remembering(model, backend="cpu", threads=threads)
    training, held_out = split_scenes(read_scenes([data]), None)
    groups = {
        "training": training,
        "several faces": [scene for scene in training if len(scene.boxes) > 1],
        "one face": [scene for scene in training if len(scene.boxes) == 1],
        "held-out": held_out,
    }
    table = Table("full", "quick", "least side", "hint", "scenes", "", "recall", "precision", "2nd")
    for full in full_sizes or (detector.det_size,):
        detector.det_size, detector._sizes = full, detector._decoder.sizes(full)
        for rule in (None, *product(quick_sizes, least_sides, hints)):
            if rule is None:
                detector.quick_size = None
            else:
                detector.quick_size, quick.LEAST_SIDE, quick.HINT = rule
            said = [f"{value:g}" for value in rule] if rule else ["-"] * 3
            for name, scenes in groups.items():
                row = figures(detector, scenes)
                table.add_row(str(full), *said, name, str(len(scenes)), *row)
    Console(width=120).print(table)
    Console().print(f"score {detector.score_threshold:g}, faces of {SMALLEST:g} px and more")


def figures(detector: Remembering, scenes: Sequence[Scene]) -> tuple[str, str, str]:
    """Recall, precision and the share of scenes with a second look."""
    before = detector.looks
    found = [detector(scene.image) for scene in track(scenes, "scenes", transient=True)]
    curve = curve_over_images(
        (faces.boxes, faces.scores, scene.boxes, longer_sides(scene.boxes) < SMALLEST)
        for faces, scene in zip(found, scenes, strict=True)
    )
    precision, recall = curve.at(detector.score_threshold)
    second = (detector.looks - before) / len(scenes) - 1
    return f"{recall:.4f}", f"{precision:.4f}", f"{100 * second:.0f} %"


if __name__ == "__main__":
    tyro.cli(main)
