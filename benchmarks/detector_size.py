"""What a detector's input size buys: recall and precision against the time a frame takes.

The protocol and the figures are those of `accuracy_detection.py`, for each model file and each
size; and recall by how much of the photo's longer side the face's takes. Time: the whole of
`FaceDetector` on frames of 640 x 480 made of the same photos, of every detector in turn, so that
the ratios hold on a machine that is not quiet; `nothing_ms` is the same on frames without a face,
where a second look is taken.

    python benchmarks/detector_size.py MODEL... --data SCENES [--json F] [--plot F.png]
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import cv2
import numpy as np
import tyro
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from accuracy_detection import CURVE_SCORE, SCORE, SMALLEST, close_up, scene_figures, share_found
from facemark_export.training.detection import longer_sides
from facemark_export.training.detection_scenes import Scene, read_scenes, split_scenes
from facemark_sdk import FaceDetector
from facemark_sdk.detect.metrics import curve_over_images

SIZES = (160, 192, 224, 256, 288, 320, 384, 448, 512, 576, 640)
SHARES = (0.0, 1 / 8, 1 / 4, np.inf)
"""Between these a face's longer side, as a share of the photo's, is small, medium, large."""
GROUPS = ("small", "medium", "large")
FRAME = (640, 480)
FRAMES = 16
"""Photos that are timed."""


@dataclass(frozen=True)
class Candidate:
    """A model file at a size."""

    model: str
    label: str
    det_size: int
    usual: FaceDetector
    every: FaceDetector


def main(
    models: tyro.conf.Positional[tuple[str, ...]],
    data: Path,
    sizes: tuple[int, ...] = SIZES,
    threads: int = 2,
    rounds: int = 10,
    photos: int | None = None,
    json_file: Annotated[Path | None, tyro.conf.arg(name="json")] = None,
    plot: Path | None = None,
) -> None:
    """Measure face detectors at several input sizes.

    Args:
        models: Names or ONNX files, for example one a precision.
        data: The folder of scenes.
        sizes: Longest sides that the network sees.
        threads: CPU threads.
        rounds: How often each frame is timed.
        photos: Only so many of the held-out scenes, for a trial.
        json_file: Write the figures here.
        plot: Draw recall against time here.
    """
    _, scenes = split_scenes(read_scenes([data]), None)
    if photos is not None:
        scenes = scenes[:: max(1, len(scenes) // photos)][:photos]
    candidates = [load(model, size, threads) for model in models for size in sizes]
    times = frame_times(candidates, [frame(scene) for scene in scenes[:FRAMES]], rounds)
    empty = frame_times(candidates, [np.full((*FRAME[::-1], 3), 127, np.uint8)], rounds)
    rows = [
        {
            "model": candidate.model,
            "label": candidate.label,
            "det_size": candidate.det_size,
            "frame_ms": time,
            "nothing_ms": nothing,
            **scene_figures(candidate.every, candidate.usual, scenes)[0],
            "recall_by_share": recall_by_share(candidate.usual, scenes),
            "close_ups_found": share_found(candidate.usual, scenes, close_up),
        }
        for candidate, time, nothing in zip(candidates, times, empty, strict=True)
    ]
    show(rows)
    if json_file is not None:
        protocol = (
            f"{len(scenes)} held-out scenes, IoU 0.5, faces of {SMALLEST:g} px or more, score "
            f"{SCORE}; p50 of {rounds} rounds over {min(FRAMES, len(scenes))} frames of "
            f"{FRAME[0]} x {FRAME[1]}, {threads} threads"
        )
        json_file.write_text(json.dumps({"protocol": protocol, "rows": rows}, indent=2) + "\n")
    if plot is not None:
        draw(rows, plot)


def load(model: str, size: int, threads: int) -> Candidate:
    """A model file at a size, at the usual score and at the least one of a curve."""
    usual, every = (
        FaceDetector(model, backend="cpu", threads=threads, det_size=size, score_threshold=score)
        for score in (SCORE, CURVE_SCORE)
    )
    return Candidate(model, f"{usual.spec.name} {usual.spec.precision}", size, usual, every)


def frame(scene: Scene) -> NDArray[np.uint8]:
    """The photo fitted into a frame, grey beside it."""
    height, width = scene.image.shape[:2]
    scale = min(FRAME[0] / width, FRAME[1] / height)
    fitted = cv2.resize(scene.image, (round(width * scale), round(height * scale)))
    picture = np.full((*FRAME[::-1], 3), 127, np.uint8)
    picture[: fitted.shape[0], : fitted.shape[1]] = fitted
    return picture


def frame_times(
    candidates: Sequence[Candidate], frames: Sequence[NDArray[np.uint8]], rounds: int
) -> list[float]:
    """Median milliseconds a frame of each; they take turns, and a first round is not counted."""
    taken: list[list[float]] = [[] for _ in candidates]
    for turn in range(rounds + 1):
        for picture in frames:
            for candidate, times in zip(candidates, taken, strict=True):
                start = perf_counter()
                candidate.usual(picture)
                if turn:
                    times.append(1e3 * (perf_counter() - start))
    return [round(float(np.median(times)), 3) for times in taken]


def recall_by_share(detector: FaceDetector, scenes: Sequence[Scene]) -> dict[str, float | None]:
    """Recall at the usual score by the face's share of its photo; None where there is no face."""
    found = [detector(scene.image) for scene in scenes]
    recalls: dict[str, float | None] = {}
    for name, low, high in zip(GROUPS, SHARES[:-1], SHARES[1:], strict=True):
        counted = [in_group(scene, low, high) for scene in scenes]
        curve = curve_over_images(
            (faces.boxes, faces.scores, scene.boxes, ~mask)
            for faces, scene, mask in zip(found, scenes, counted, strict=True)
        )
        recalls[name] = round(curve.at(SCORE)[1], 4) if np.concatenate(counted).any() else None
    return recalls


def in_group(scene: Scene, low: float, high: float) -> NDArray[np.bool_]:
    """Which of the scene's faces (M,) count and have a share of the photo from low to high."""
    sides = longer_sides(scene.boxes)
    shares = sides / max(scene.image.shape[:2])
    group: NDArray[np.bool_] = (sides >= SMALLEST) & (shares >= low) & (shares < high)
    return group


def show(rows: Sequence[dict[str, Any]]) -> None:
    """The figures as a table."""
    columns = {
        "ms": "frame_ms",
        "no face": "nothing_ms",
        "recall": "recall",
        "precision": "precision",
        "AP": "average_precision",
    }
    table = Table("model", "size", *columns, *GROUPS, "close-ups")
    for row in rows:
        values = [row[name] for name in columns.values()]
        values += [*row["recall_by_share"].values(), row["close_ups_found"]]
        shown = ("-" if value is None else f"{value:.4g}" for value in values)
        table.add_row(row["label"], str(row["det_size"]), *shown)
    Console(width=130).print(table)


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Recall against time, of all faces and of the groups, a line a model, sizes beside it."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = {
        "recall, all faces": lambda row: row["recall"],
        "recall, faces under 1/8 of the photo": lambda row: row["recall_by_share"]["small"],
        "close-ups found": lambda row: row["close_ups_found"],
    }
    figure, axes = pyplot.subplots(1, len(panels), figsize=(5 * len(panels), 4))
    for axis, (title, value) in zip(axes, panels.items(), strict=True):
        for model in dict.fromkeys(row["model"] for row in rows):
            points = [row for row in rows if row["model"] == model and value(row) is not None]
            times, values = [row["frame_ms"] for row in points], [value(row) for row in points]
            axis.plot(times, values, marker="o", label=points[0]["label"] if points else model)
            for row, time, height in zip(points, times, values, strict=True):
                axis.annotate(str(row["det_size"]), (time, height), fontsize=7)
        axis.set(xlabel="ms a frame of 640 x 480", title=title)
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.savefig(path, dpi=120, bbox_inches="tight")


if __name__ == "__main__":
    tyro.cli(main)
