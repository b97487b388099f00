"""Milliseconds by stage on one photo with one face: p50, p95 and frames per second.

    python examples/benchmark.py --threads 2 --backend cpu --frames 200

A page over `facemark_sdk.bench`; `facemark bench` compares models, backends, threads and batches.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from facemark_sdk import FaceDetector, FacemarkError
from facemark_sdk.bench import (
    STAGES,
    Configuration,
    Protocol,
    Subject,
    describe_machine,
    measure,
    open_frames,
    summarise,
)
from facemark_sdk.models import default_detector, default_landmarks

OURS = "crop + decode"
"""What is not the networks' work: crop, decode and mapping back to the image."""


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure as the options say.

    Raises:
        FacemarkError: A model or the photo cannot be used, or there is no face in it.
    """
    frames = open_frames([Path(options.image)] if options.image else [])
    detector = options.detector or default_detector(options.backend)
    finder = FaceDetector(detector, backend=options.backend, threads=options.threads)
    model = options.model or default_landmarks(options.backend)
    subject = Subject(
        Configuration(model, options.backend, options.threads, batch=1), finder, frames
    )
    if not subject.faces[0]:
        raise FacemarkError(f"no face found in {frames[0].name}; choose another with --image")
    (runs,) = measure([subject], Protocol(options.frames, options.warm_up))
    times = {stage: [run[stage] for run in runs] for stage in STAGES}
    times[OURS] = [run["crop"] + run["decode points"] for run in runs]
    order = (*STAGES[:-1], OURS, "total")
    return {
        "machine": describe_machine(),
        "photo": frames[0].name,
        "frames": options.frames,
        "backend": subject.resolved.backend,
        "threads": options.threads,
        "stages": {
            name: {**asdict(summary), "fps": 1e3 / summary.p50_ms}
            for name, summary in ((name, summarise(times[name])) for name in order)
        },
    }


def print_table(report: dict[str, Any]) -> None:
    """The report for people."""
    versions = report["machine"]["versions"]
    print(", ".join((report["machine"]["cpu"], *(f"{k} {v}" for k, v in versions.items()))))
    print(
        f"{report['frames']} runs on {report['photo']}, backend {report['backend']}, "
        f"threads {report['threads']}\n"
    )
    print(f"{'stage':<15}{'p50 ms':>9}{'p95 ms':>9}{'FPS':>9}")
    for name, row in report["stages"].items():
        print(f"{name:<15}{row['p50_ms']:>9.2f}{row['p95_ms']:>9.2f}{row['fps']:>9.1f}")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--image", help="photo to look at (default: a frame that ships)")
    parser.add_argument("--frames", type=int, default=200, help="runs to measure (default: 200)")
    parser.add_argument("--warm-up", type=int, default=10, help="runs before (default: 10)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")
    parser.add_argument("--backend", default="cpu", help="auto, cpu, cuda, tensorrt (default: cpu)")
    parser.add_argument("--model", help="landmark model: name or file (default: the SDK's own)")
    parser.add_argument("--detector", help="face detector: name or file (default: the SDK's own)")
    parser.add_argument("--json", metavar="FILE", help="also write the report as JSON")
    options = parser.parse_args()
    if options.frames < 1 or options.warm_up < 0:
        parser.error("--frames must be at least 1 and --warm-up at least 0")
    return options


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
