"""What a detector's input size buys: recall and precision against the time a frame takes.

The protocol and the figures are those of `accuracy_detection.py`, for each model file and each
size, and for what `FaceDetector` does without one (`default`: a quick look, and a full one where
that is not sure); and recall by how much of the photo's longer side the face's takes. Time: the
whole of `FaceDetector` on frames of 640 x 480 made of the same photos, of every detector in turn,
so that the ratios hold on a machine that is not quiet. `frame_ms` is the mean over the frames, so
that it holds the second looks in their share; `p50_ms` is the median; `nothing_ms` is that of a
frame without a face, where a second look is always taken. `second_looks` is their share at the
scenes, `frame_second_looks` at the frames, in which the faces of tall photos are smaller.

    python benchmarks/detector_size.py MODEL... --data SCENES [--json F] [--plot F.png]
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import cv2
import numpy as np
import tyro
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from accuracy_detection import (
    CURVE_SCORE,
    SMALLEST,
    close_up,
    scene_figures,
    share_found,
    sizes_in_words,
)
from facemark_export.training.detection import longer_sides
from facemark_export.training.detection_scenes import Scene, read_scenes, split_scenes
from facemark_sdk import Detections, FaceDetector
from facemark_sdk.bench import Protocol, measure
from facemark_sdk.detect.metrics import curve_over_images

SIZES = (160, 192, 224, 256, 288, 320, 384, 448, 512, 576, 640)
DEFAULT = "default"
SHARES = (0.0, 1 / 8, 1 / 4, np.inf)
"""Between these a face's longer side, as a share of the photo's, is small, medium, large."""
GROUPS = ("small", "medium", "large")
FRAME = (640, 480)
FRAMES = 32
"""Photos that are timed."""


@dataclass(frozen=True)
class Candidate:
    """A model file at a size, or at none."""

    model: str
    label: str
    size: str
    usual: CountingDetector
    every: FaceDetector


class CountingDetector(FaceDetector):
    """A face detector that counts how often it ran its network."""

    looks = 0

    def _look(self, *given: Any) -> Detections:
        self.looks += 1
        return super()._look(*given)


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
        sizes: Longest sides that the network sees, beside the default.
        threads: CPU threads.
        rounds: How often each frame is timed.
        photos: Only so many of the held-out scenes, for a trial.
        json_file: Write the figures here.
        plot: Draw recall against time here.
    """
    _, scenes = split_scenes(read_scenes([data]), None)
    if photos is not None:
        scenes = scenes[:: max(1, len(scenes) // photos)][:photos]
    candidates = [load(model, size, threads) for model in models for size in (*sizes, None)]
    timed = [scenes[index] for index in np.linspace(0, len(scenes) - 1, FRAMES).astype(int)]
    frames = [frame(scene) for scene in timed]
    times = frame_times(candidates, frames, rounds)
    empty = frame_times(candidates, [np.full((*FRAME[::-1], 3), 127, np.uint8)], rounds)
    rows = [
        {
            "model": candidate.model,
            "label": candidate.label,
            "size": candidate.size,
            "looks_at": sizes_in_words(candidate.usual),
            "frame_ms": round(float(np.mean(each)), 3),
            "p50_ms": round(float(np.median(each)), 3),
            "nothing_ms": round(float(nothing[0]), 3),
            **scene_figures(candidate.every, candidate.usual, scenes)[0],
            "frame_second_looks": find_all(candidate.usual, frames)[1],
            **by_share(candidate.usual, scenes),
            "close_ups_found": share_found(candidate.usual, scenes, close_up),
        }
        for candidate, each, nothing in zip(candidates, times, empty, strict=True)
    ]
    show(rows)
    if json_file is not None:
        protocol = (
            f"{len(scenes)} held-out scenes, IoU 0.5, faces of {SMALLEST:g} px or more, each "
            f"model's own score; times of {FRAMES} frames of {FRAME[0]} x {FRAME[1]}, of each the "
            f"p50 of {rounds} rounds, {threads} threads"
        )
        json_file.write_text(json.dumps({"protocol": protocol, "rows": rows}, indent=2) + "\n")
    if plot is not None:
        draw(rows, plot)


def load(model: str, size: int | None, threads: int) -> Candidate:
    """A model file at a size, at the usual score and at the least one of a curve."""
    usual, every = (
        kind(model, backend="cpu", threads=threads, det_size=size, score_threshold=score)
        for kind, score in ((CountingDetector, None), (FaceDetector, CURVE_SCORE))
    )
    label = f"{usual.spec.name} {usual.spec.precision}"
    return Candidate(model, label, DEFAULT if size is None else str(size), usual, every)


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
) -> NDArray[np.float64]:
    """Median milliseconds of each candidate (C,) on each frame (F,), as (C, F).

    In a turn, a candidate goes through all frames after one more that is not counted.
    """
    count = len(frames)
    protocol = Protocol(repeat=rounds * count, warm_up=count, turn=count)
    times = measure([through(frames, candidate.usual) for candidate in candidates], protocol)
    return np.array(
        [
            [
                np.median([run[name] for run in runs if name in run])
                for name in map(str, range(count))
            ]
            for runs in times
        ]
    )


def through(
    frames: Sequence[NDArray[np.uint8]], detector: FaceDetector
) -> Callable[[], dict[str, float]]:
    """A detector on the next of the frames, over and over: milliseconds by the frame's number."""
    following = cycle(enumerate(frames))

    def run() -> dict[str, float]:
        number, picture = next(following)
        start = perf_counter()
        detector(picture)
        return {str(number): 1e3 * (perf_counter() - start)}

    return run


def find_all(
    detector: CountingDetector, images: Sequence[NDArray[np.uint8]]
) -> tuple[list[Detections], float]:
    """The faces of each image, and the share of the images that took a second look."""
    before = detector.looks
    found = [detector(image) for image in images]
    return found, round((detector.looks - before) / len(images) - 1, 4)


def by_share(detector: CountingDetector, scenes: Sequence[Scene]) -> dict[str, Any]:
    """Recall at the usual score by the face's share of its photo, None where there is no face; and
    the share of photos that took a second look.
    """
    found, second_looks = find_all(detector, [scene.image for scene in scenes])
    recalls: dict[str, float | None] = {}
    for name, low, high in zip(GROUPS, SHARES[:-1], SHARES[1:], strict=True):
        counted = [in_group(scene, low, high) for scene in scenes]
        curve = curve_over_images(
            (faces.boxes, faces.scores, scene.boxes, ~mask)
            for faces, scene, mask in zip(found, scenes, counted, strict=True)
        )
        recalls[name] = (
            round(curve.at(detector.score_threshold)[1], 4)
            if np.concatenate(counted).any()
            else None
        )
    return {"second_looks": second_looks, "recall_by_share": recalls}


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
        "p50": "p50_ms",
        "no face": "nothing_ms",
        "2nd looks": "frame_second_looks",
        "at scenes": "second_looks",
        "recall": "recall",
        "precision": "precision",
        "AP": "average_precision",
    }
    table = Table("model", "size", *columns, *GROUPS, "close-ups")
    for row in rows:
        values = [row[name] for name in columns.values()]
        values += [*row["recall_by_share"].values(), row["close_ups_found"]]
        shown = ("-" if value is None else f"{value:.4g}" for value in values)
        table.add_row(row["label"], row["size"], *shown)
    Console(width=160).print(table)


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Recall against time: a line of sizes and a star for the default, a colour a model.

    Precision and close-ups likewise.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = {
        "recall, all faces": lambda row: row["recall"],
        "recall, faces under 1/8 of the photo": lambda row: row["recall_by_share"]["small"],
        "precision": lambda row: row["precision"],
        "close-ups found": lambda row: row["close_ups_found"],
    }
    figure, axes = pyplot.subplots(2, 2, figsize=(12, 9))
    for axis, (title, value) in zip(axes.flat, panels.items(), strict=True):
        for number, model in enumerate(dict.fromkeys(row["model"] for row in rows)):
            points = [row for row in rows if row["model"] == model and value(row) is not None]
            line = [row for row in points if row["size"] != DEFAULT]
            colour = f"C{number}"
            axis.plot(
                [row["frame_ms"] for row in line],
                [value(row) for row in line],
                marker="o",
                color=colour,
                label=f"{rows_label(rows, model)}, single sizes",
            )
            for row in line:
                axis.annotate(
                    row["size"],
                    (row["frame_ms"], value(row)),
                    xytext=(4, 6 if number % 2 else -11),
                    textcoords="offset points",
                    fontsize=8,
                    color=colour,
                )
            for row in points[len(line) :]:
                axis.plot(
                    row["frame_ms"],
                    value(row),
                    marker="*",
                    markersize=16,
                    linestyle="none",
                    markeredgecolor="black",
                    color=colour,
                    label=f"default: {row['looks_at']}, "
                    f"second looks at {100 * row['frame_second_looks']:.0f} % of the frames",
                )
        axis.set(xlabel=f"ms a frame of {FRAME[0]} x {FRAME[1]}, mean", title=title)
        axis.margins(0.08)
        axis.grid(alpha=0.3)
    axes[0, 0].legend(fontsize=8, loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def rows_label(rows: Sequence[dict[str, Any]], model: str) -> str:
    """What a model is called in the plot."""
    return next(str(row["label"]) for row in rows if row["model"] == model)


if __name__ == "__main__":
    tyro.cli(main)
