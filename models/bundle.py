"""Make the bundled models from finished training runs: export, measure, export again, card.

Run from the repository's root, with ``../shared/data`` or a folder laid out like it:

    python models/bundle.py --detector-run DIR --landmark-run DIR --data ../shared/data

The two runs are made by the commands that stand in the cards.
"""

from __future__ import annotations

import csv
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from facemark_export import checkpoint
from facemark_sdk.files import replace_file

ROOT = Path(__file__).parents[1]
BUNDLE = ROOT / "models" / "facemark_models"
DET_SIZE = 576
"""Of 448, 512, 576 and 640 the best F1 on held-out scenes."""
DETECTOR, LANDMARKS = "retinaface_mnet025", "pipnet_lite0_68"


def main(detector_run: Path, landmark_run: Path, data: Path, threads: int = 2) -> None:
    """Write model.onnx, its report and CARD.md of both models.

    Args:
        detector_run: Folder of a finished retinaface_mnet025 run.
        landmark_run: Folder of a finished pipnet_lite0_68 run.
        data: Folder with scenes and landmarks68.
        threads: CPU threads for measuring.
    """
    folders = [str(data / "landmarks68" / name) for name in ("helen_train", "afw")]
    scenes, photos = data / "scenes", data / "landmarks68" / "afw"
    detector = Making(
        DETECTOR,
        detector_run / "best.safetensors",
        ("--calibration", str(scenes), "--det-size", str(DET_SIZE)),
        ("benchmarks/accuracy_detection.py", "--data", str(scenes)),
    )
    midpoint = detector.measure(detector.export())["best_f1_score"]
    detector.bundle("--score-midpoint", f"{midpoint:.4f}")
    Making(
        LANDMARKS,
        landmark_run / "best.safetensors",
        ("--calibration", str(photos)),
        ("benchmarks/accuracy_landmarks.py", "--data", *folders),
    ).bundle("--crop-detector", DETECTOR, "--crop-data", *folders)
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "speed.json"
        both = ("--model", LANDMARKS, "--detector", DETECTOR)
        run("examples/benchmark.py", *both, "--threads", str(threads), "--json", str(report))
        speed = json.loads(report.read_text())
    write_card(DETECTOR, detector_run, speed)
    write_card(LANDMARKS, landmark_run, speed)


@dataclass(frozen=True)
class Making:
    """One model in the making: its name, its checkpoint, how it is exported and measured."""

    name: str
    ckpt: Path
    options: tuple[str, ...]
    measuring: tuple[str, ...]

    def export(self, *options: str) -> Path:
        """Write model.onnx and its report into the bundle."""
        out = BUNDLE / self.name / "model.onnx"
        command = ("--ckpt", str(self.ckpt), "-o", str(out), "--name", self.name)
        run("-m", "facemark_export.cli", *command, *self.options, *options)
        return out

    def measure(self, model: Path) -> dict[str, Any]:
        """Measured figures of an exported file."""
        program, *arguments = self.measuring
        with tempfile.TemporaryDirectory() as folder:
            figures = Path(folder) / "figures.json"
            run(program, str(model), *arguments, "--json", str(figures))
            return dict(json.loads(figures.read_text()))

    def bundle(self, *options: str) -> None:
        """Export, measure what was exported, and export again with the figures in the spec."""
        figures = self.measure(self.export(*options))
        with tempfile.TemporaryDirectory() as folder:
            stated = Path(folder) / "accuracy.json"
            stated.write_text(json.dumps(figures))
            self.export(*options, "--accuracy", str(stated))


def run(*command: str) -> None:
    """Run one of our own programs; a failure ends all."""
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True)


def write_card(name: str, folder: Path, speed: dict[str, Any]) -> None:
    """CARD.md from the card's text, the spec, the run's record and the measured speed."""
    from facemark_sdk.backends import create_backend
    from facemark_sdk.models import read_spec

    path = BUNDLE / name / "model.onnx"
    spec = read_spec(create_backend("cpu", path), path)
    parity = json.loads(path.with_name("model.onnx.report.json").read_text())
    record = checkpoint.read(folder / "best.safetensors").record
    stages = (
        ("detect",) if name == DETECTOR else ("crop", "network", "decode points", "crop + decode")
    )
    milliseconds = "\n".join(
        f"| {s} | {speed['stages'][s]['p50_ms']:.2f} | {speed['stages'][s]['p95_ms']:.2f} |"
        for s in (*stages, "total")
    )
    text = (Path(__file__).with_name("cards") / f"{name}.md").read_text()
    filled = {
        "SHA256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "SIZE": f"{path.stat().st_size / 1e6:.1f} MB",
        "TRAINING_DATA": spec.training_data,
        "LICENCE": spec.licence,
        "PROTOCOL": spec.accuracy["protocol"],
        "ACCURACY": accuracy_table(dict(spec.accuracy)),
        "PARITY": (
            f"{parity['fp32']['largest_px']:.1e} px at most over {parity['structured_images']} "
            f"structured images and {parity['photos']} real ones, "
            f"{parity['fp32']['argmax_flips']} argmax flips"
        ),
        "EPOCH": str(record["epoch"]),
        "EPOCHS": str(record["settings"]["epochs"]),
        "SPEED": "| stage | p50 ms | p95 ms |\n|---|---|---|\n" + milliseconds,
        "PACE": f"{pace(folder):.0f} images/s",
        "MACHINE": ", ".join(
            (
                speed["machine"]["cpu"],
                *(f"{k} {v}" for k, v in speed["machine"]["versions"].items()),
            )
        ),
    }
    for key, value in filled.items():
        text = text.replace(f"@{key}@", value)
    replace_file(path.with_name("CARD.md"), lambda card: card.write_text(text))


def pace(folder: Path) -> float:
    """Median training speed of a run's epochs in images a second."""
    with (folder / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return statistics.median(float(row["images_per_second"]) for row in rows)


def accuracy_table(accuracy: dict[str, Any]) -> str:
    """The figures of a spec as a Markdown table: a row a set, or a row a figure."""
    figures = {k: v for k, v in accuracy.items() if isinstance(v, int | float)}
    sets = accuracy.get("sets")
    if not sets:
        rows = [f"| {name.replace('_', ' ')} | {value:g} |" for name, value in figures.items()]
        return "\n".join(["| figure | value |", "|---|---|", *rows])
    head = f"| set | {' | '.join(c.replace('_', ' ') for c in figures)} |"
    rows = [
        f"| {name} | {' | '.join(f'{row[c]:g}' for c in figures)} |"
        for name, row in {**sets, "all": figures}.items()
    ]
    return "\n".join([head, "|---" * (len(figures) + 1) + "|", *rows])


if __name__ == "__main__":
    tyro.cli(main)
