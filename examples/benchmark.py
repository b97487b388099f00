"""Milliseconds by stage on one frame with one face: p50, p95 and frames per second.

    python examples/benchmark.py --threads 2 --backend cpu --frames 200

The stages are the methods that `Detector` itself calls, timed one by one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import onnxruntime

from facemark_sdk import Detector, FacemarkError, __version__, load_image
from facemark_sdk.detector import largest_first
from facemark_sdk.image import Image

FRAME_SIZE = (640, 480)
STAGES = ("detect", "crop", "network", "decode")
OURS = "crop + decode"
"""What is not the networks' work: crop, decode and mapping back to the image."""
PHOTO = Path(__file__).with_name("astronaut.png")

Result = TypeVar("Result")


class Stopwatch:
    """Collects milliseconds under names."""

    def __init__(self) -> None:
        """Start empty."""
        self.times: dict[str, list[float]] = {}

    def time(self, name: str, work: Callable[[], Result]) -> Result:
        """Do the work, note how long it took, return its result."""
        start = time.perf_counter()
        result = work()
        self.times.setdefault(name, []).append((time.perf_counter() - start) * 1e3)
        return result


def make_frame(photo: Image) -> Image:
    """A 640x480 frame with the photo as large as fits, in its middle."""
    width, height = FRAME_SIZE
    scale = min(width / photo.shape[1], height / photo.shape[0])
    small = cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    small = small[:height, :width]
    frame = np.zeros((height, width, 3), np.uint8)
    top, left = (height - small.shape[0]) // 2, (width - small.shape[1]) // 2
    frame[top : top + small.shape[0], left : left + small.shape[1]] = small
    return frame


def process(detector: Detector, frame: Image, watch: Stopwatch) -> None:
    """One frame through the stages; `total` is the whole as a user calls it, timed apart."""
    model = detector.landmark_model
    found = watch.time(
        "detect", lambda: largest_first(detector.face_detector(frame), detector.max_faces)
    )
    crops, affines = watch.time("crop", lambda: model.crop([frame], [found.boxes]))
    outputs = watch.time("network", lambda: model.infer(crops))
    watch.time("decode", lambda: model.to_image(model.decode(outputs), affines))
    watch.time("total", lambda: detector(frame))


def measure(detector: Detector, frame: Image, frames: int, warm_up: int) -> dict[str, Any]:
    """Percentiles by stage over `frames` runs."""
    for _ in range(warm_up):
        process(detector, frame, Stopwatch())
    watch = Stopwatch()
    for _ in range(frames):
        process(detector, frame, watch)
    times = {name: np.array(values) for name, values in watch.times.items()}
    times[OURS] = times["crop"] + times["decode"]
    return {name: _summary(times[name]) for name in (*STAGES, OURS, "total")}


def _summary(milliseconds: np.ndarray) -> dict[str, float]:
    p50, p95 = np.percentile(milliseconds, (50, 95))
    return {"p50_ms": float(p50), "p95_ms": float(p95), "fps": 1e3 / float(p50)}


def describe_machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    return {
        "machine": platform.machine(),
        "cpu": _cpu_name(),
        "cpus": os.cpu_count(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        "opencv": cv2.__version__,
        "numpy": np.__version__,
        "facemark": __version__,
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def print_table(report: dict[str, Any]) -> None:
    """The report for people."""
    machine = report["machine"]
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    print(
        f"{report['frames']} frames of {report['frame'][0]}x{report['frame'][1]}, "
        f"{report['faces']} face(s), backend {report['backend']}, threads {report['threads']}\n"
    )
    print(f"{'stage':<15}{'p50 ms':>9}{'p95 ms':>9}{'FPS':>9}")
    for name, row in report["stages"].items():
        print(f"{name:<15}{row['p50_ms']:>9.2f}{row['p95_ms']:>9.2f}{row['fps']:>9.1f}")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--image", default=str(PHOTO), help="photo to make the frame from")
    parser.add_argument("--frames", type=int, default=200, help="frames to measure (default: 200)")
    parser.add_argument("--warm-up", type=int, default=10, help="frames before (default: 10)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")
    parser.add_argument("--backend", default="cpu", help="auto, cpu, cuda (default: cpu)")
    parser.add_argument("--model", help="landmark model: bundled name or ONNX file")
    parser.add_argument("--detector", help="face detector: bundled name or ONNX file")
    parser.add_argument("--json", metavar="FILE", help="also write the report as JSON")
    options = parser.parse_args()
    if options.frames < 1 or options.warm_up < 0:
        parser.error("--frames must be at least 1 and --warm-up at least 0")
    return options


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure as the options say."""
    named = {"landmarks": options.model, "detector": options.detector}
    detector = Detector(
        **{key: value for key, value in named.items() if value is not None},
        backend=options.backend,
        threads=options.threads,
        max_faces=1,
    )
    frame = make_frame(load_image(options.image))
    faces = detector(frame)
    if not faces:
        raise FacemarkError(f"no face found in {options.image!r}; choose another with --image")
    return {
        "machine": describe_machine(),
        "frame": FRAME_SIZE,
        "frames": options.frames,
        "faces": len(faces),
        "backend": detector.landmark_model.backend,
        "threads": options.threads,
        "models": [detector.face_detector.spec.name, detector.landmark_model.spec.name],
        "stages": measure(detector, frame, options.frames, options.warm_up),
    }


def main() -> None:
    """Run; an error is one line and exit status 1."""
    options = parse_arguments()
    try:
        report = run(options)
    except FacemarkError as error:
        sys.exit(f"benchmark: {error}")
    print_table(report)
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
