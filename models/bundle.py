"""Make the bundled models from finished training runs: export, measure, state, card.

Run from the repository's root, with ``../shared/data`` or a folder laid out like it:

    python models/bundle.py --detector-run DIR --landmark-run DIR --data ../shared/data

The two runs are made by the commands that stand in the cards. A model without a run stays as it is,
its figures are measured again: a landmark model's crop rule is then still that for the boxes of the
detector before. `bundle_int8.py` comes next: its files and cards name these files.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import tyro

from facemark_export import checkpoint
from facemark_export.onnx_file import save
from facemark_sdk.backends import create_backend
from facemark_sdk.files import replace_file, sha256_of
from facemark_sdk.models import read_spec
from facemark_sdk.spec import ModelSpec

ROOT = Path(__file__).parents[1]
BUNDLE = ROOT / "models" / "facemark_models"
DET_SIZE = 512
"""Of 416, 448, 512 and 576 the least whose recall on the training scenes is within 0.004 of the
largest one's (`benchmarks/quick_look.py`)."""
DETECTOR, LANDMARKS = "retinaface_mnet025", "pipnet_lite0_68"
PRECISIONS, AGAIN = "## Precisions", "## Make it again"
"""Headings of the cards: what `bundle_int8.py` writes, and what it is written before."""


def main(
    data: Path,
    detector_run: Path | None = None,
    landmark_run: Path | None = None,
    threads: int = 2,
) -> None:
    """Write model.onnx, its report and CARD.md.

    Args:
        data: Folder with scenes and landmarks68.
        detector_run: Folder of a finished retinaface_mnet025 run.
        landmark_run: Folder of a finished pipnet_lite0_68 run.
        threads: CPU threads for measuring.
    """
    folders = [str(data / "landmarks68" / name) for name in ("helen_train", "afw")]
    scenes, photos = data / "scenes", data / "landmarks68" / "afw"
    detector = Making(
        DETECTOR,
        ("--calibration", str(scenes), "--det-size", str(DET_SIZE)),
        ("benchmarks/accuracy_detection.py", "--data", str(scenes)),
        detector_run,
    )
    landmarks = Making(
        LANDMARKS,
        ("--calibration", str(photos), "--crop-detector", DETECTOR, "--crop-data", *folders),
        ("benchmarks/accuracy_landmarks.py", "--data", *folders),
        landmark_run,
    )
    if detector_run is not None:
        midpoint = detector.measure(detector.export())["best_f1_score"]
        detector.export("--score-midpoint", f"{midpoint:.4f}")
    if landmark_run is not None:
        landmarks.export()
    specs = [making.state_figures() for making in (detector, landmarks)]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "speed.json"
        both = ("--model", LANDMARKS, "--detector", DETECTOR)
        run("examples/benchmark.py", *both, "--threads", str(threads), "--json", str(report))
        speed = json.loads(report.read_text())
    for making, spec in zip((detector, landmarks), specs, strict=True):
        write_card(making, spec, speed)


@dataclass(frozen=True)
class Making:
    """One model in the making: how it is exported and measured, and its training run's folder."""

    name: str
    options: tuple[str, ...]
    measuring: tuple[str, ...]
    folder: Path | None = None

    @property
    def path(self) -> Path:
        """The bundled file."""
        return BUNDLE / self.name / "model.onnx"

    def export(self, *options: str) -> Path:
        """Write model.onnx and its report into the bundle."""
        assert self.folder is not None
        ckpt = self.folder / "best.safetensors"
        command = ("--ckpt", str(ckpt), "-o", str(self.path), "--name", self.name)
        run("-m", "facemark_export.cli", *command, *self.options, *options)
        return self.path

    def measure(self, model: Path) -> dict[str, Any]:
        """Measured figures of an exported file."""
        program, *arguments = self.measuring
        with tempfile.TemporaryDirectory() as folder:
            figures = Path(folder) / "figures.json"
            run(program, str(model), *arguments, "--json", str(figures))
            return dict(json.loads(figures.read_text()))

    def state_figures(self) -> ModelSpec:
        """Measure the bundled file and state the figures in its spec."""
        spec = dataclasses.replace(spec_of(self.path), accuracy=self.measure(self.path))
        state(self.path, spec)
        return spec


def spec_of(path: Path) -> ModelSpec:
    """What a file says of itself."""
    return read_spec(create_backend("cpu", path), path)


def state(path: Path, spec: ModelSpec) -> None:
    """Write a spec into a file."""
    model = onnx.load(path)
    replace_file(path, lambda temporary: save(model, spec, temporary))


def run(*command: str) -> None:
    """Run one of our own programs; a failure ends all."""
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True)


def write_card(making: Making, spec: ModelSpec, speed: dict[str, Any]) -> None:
    """CARD.md from the card's text, the spec, the run's record and the measured speed."""
    name, path = making.name, making.path
    stages = (
        ("detect",) if name == DETECTOR else ("crop", "network", "decode points", "crop + decode")
    )
    milliseconds = "\n".join(
        f"| {s} | {speed['stages'][s]['p50_ms']:.2f} | {speed['stages'][s]['p95_ms']:.2f} |"
        for s in (*stages, "total")
    )
    text = (Path(__file__).with_name("cards") / f"{name}.md").read_text()
    card = path.with_name("CARD.md")
    folder = making.folder
    made = stated(text, card.read_text()) if folder is None else record(folder, path)
    filled = made | {
        "SHA256": sha256_of(path),
        "SIZE": f"{path.stat().st_size / 1e6:.1f} MB",
        "TRAINING_DATA": spec.training_data,
        "LICENCE": spec.licence,
        "PROTOCOL": spec.accuracy["protocol"],
        "ACCURACY": accuracy_table(dict(spec.accuracy)),
        "SPEED": "| stage | p50 ms | p95 ms |\n|---|---|---|\n" + milliseconds,
        "MACHINE": ", ".join(
            (
                speed["machine"]["cpu"],
                *(f"{k} {v}" for k, v in speed["machine"]["versions"].items()),
            )
        ),
    }
    for key, value in filled.items():
        text = text.replace(f"@{key}@", value)
    replace_file(card, lambda temporary: temporary.write_text(text))


def record(folder: Path, path: Path) -> dict[str, str]:
    """What a card says of the training run in a folder and of the export to a file."""
    trained = checkpoint.read(folder / "best.safetensors").record
    parity = json.loads(path.with_name("model.onnx.report.json").read_text())
    return {
        "EPOCH": str(trained["epoch"]),
        "EPOCHS": str(trained["settings"]["epochs"]),
        "PACE": f"{pace(folder):.0f} images/s",
        "PARITY": (
            f"{parity['fp32']['largest_px']:.1e} px at most over {parity['structured_images']} "
            f"structured images and {parity['photos']} real ones, "
            f"{parity['fp32']['argmax_flips']} argmax flips"
        ),
    }


def stated(text: str, card: str) -> dict[str, str]:
    """What a card that was made of a text says in each of its places.

    Raises:
        ValueError: The card was not made of this text.
    """
    before, _, after = card.partition(AGAIN)
    card = before.partition(PRECISIONS)[0] + AGAIN + after
    parts = re.split("@([A-Z0-9_]+)@", text)
    pattern, seen = "", set[str]()
    for words, key in zip(parts[::2], [*parts[1::2], ""], strict=True):
        pattern += re.escape(words)
        pattern += "" if not key else f"(?P={key})" if key in seen else f"(?P<{key}>.*?)"
        seen.add(key)
    found = re.fullmatch(pattern, card, re.DOTALL)
    if found is None:
        raise ValueError("the card is not of its present text: its training run is needed")
    return found.groupdict()


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
