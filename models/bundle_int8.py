"""Make the int8 files of the bundled models, with their cards; the float ones' get the ladder, too.

Run from the repository's root, with ``../shared/data`` or a folder laid out like it, on a quiet
machine: layers are timed.

    python models/bundle_int8.py --data ../shared/data [--out FOLDER]
"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import tyro

from bundle import (
    AGAIN,
    BUNDLE,
    DETECTOR,
    LANDMARKS,
    PRECISIONS,
    Making,
    accuracy_table,
    run,
    spec_of,
    state,
)
from facemark_sdk.files import replace_file, sha256_of
from facemark_sdk.spec import ModelSpec

SUFFIX = "_int8"
LANDMARK_OPTIONS = ("--neck", "128", "--decode", "graph")
"""Channels under the heads by docs/speed/network_size.png; a decoder in the graph of an int8 file
reads bytes, of which it needs few."""
_THRESHOLD = (
    "its own score threshold is that of its best F1 on the held-out scenes, which judge it as "
    "well, so the figures are a little optimistic"
)


def main(data: Path, names: tuple[str, ...] = (LANDMARKS, DETECTOR), out: Path = BUNDLE) -> None:
    """Write NAME_int8/model.onnx, its report and its CARD.md.

    Args:
        data: Folder with scenes and landmarks68.
        names: Which bundled models.
        out: The folder of models. The float models' cards are changed in the bundle only.
    """
    out = out.resolve()
    folders = [str(data / "landmarks68" / name) for name in ("helen_train", "afw")]
    scenes = [str(data / "scenes")]
    for name in names:
        photos = scenes if name == DETECTOR else folders
        script = "detection" if name == DETECTOR else "landmarks"
        measuring = (f"benchmarks/accuracy_{script}.py", "--data", *photos)
        make(name, photos, measuring, out)
        if out == BUNDLE:
            card = BUNDLE / name / "CARD.md"
            section = precisions(ladder_of(out / f"{name}{SUFFIX}"))
            write(card, with_section(card.read_text(), section))


def make(name: str, photos: list[str], measuring: tuple[str, ...], out: Path) -> None:
    """One model: quantise, measure, state what was measured, card."""
    source, folder = BUNDLE / name / "model.onnx", out / f"{name}{SUFFIX}"
    path = folder / "model.onnx"
    made = ("--precision", "int8", *own_options(name))
    options = ("--name", folder.name, *made, "--calibration", *photos)
    run("-m", "facemark_export.cli", "--onnx", str(source), "-o", str(path), *options)
    making = Making(folder.name, (), measuring)
    spec, figures = spec_of(path), making.measure(path)
    if name == DETECTOR:  # int8 moves the scores: the threshold follows
        threshold = math.floor(1000 * figures["best_f1_score"]) / 1000  # that face counts, too
        params = {**spec.decoder_params, "score_threshold": threshold}
        spec = dataclasses.replace(spec, decoder_params=params)
        state(path, spec)
        figures = making.measure(path)
    spec = dataclasses.replace(spec, accuracy=figures)
    state(path, spec)
    write(folder / "CARD.md", card_text(name, folder, photos, spec))


def own_options(name: str) -> tuple[str, ...]:
    """What a model is exported with beyond what all are."""
    return LANDMARK_OPTIONS if name == LANDMARKS else ()


def card_text(name: str, folder: Path, photos: list[str], spec: ModelSpec) -> str:
    """CARD.md of an int8 model."""
    path, ladder = folder / "model.onnx", ladder_of(folder)
    search = ladder["search"]
    filled = {
        "NAME": folder.name,
        "SOURCE_SHA256": spec.source_sha256,
        "SOURCE": name,
        "SHA256": sha256_of(path),
        "SIZE": f"{path.stat().st_size / 1e6:.1f} MB",
        "LAYERS": (
            (
                f"its heads share {ladder['neck']} channels, chosen and taught on those photos\n"
                "- its decoder is in the graph: outputs are points and scores\n- "
                if ladder["neck"]
                else ""
            )
            + f"of {search['layers']} layers {len(search['faster'])} stay in float because that is "
            f"faster and {len(search['kept'])} because they hurt (`model.onnx.report.json`)"
            + (f"\n- {_THRESHOLD}" if name == DETECTOR else "")
        ),
        "TRAINING_DATA": spec.training_data,
        "LICENCE": spec.licence,
        "PROTOCOL": spec.accuracy["protocol"],
        "ACCURACY": accuracy_table(dict(spec.accuracy)),
        "PRECISIONS": precisions(ladder),
        "CALIBRATION": " ".join(photos),
        "OPTIONS": "".join(f"{word} " for word in own_options(name)),
    }
    text = (Path(__file__).with_name("cards") / "int8.md").read_text()
    for key, value in filled.items():
        text = text.replace(f"@{key}@", value)
    return text


def precisions(ladder: dict[str, Any]) -> str:
    """The section with a row a precision."""
    rungs = ladder["rungs"]
    figures = list(rungs["int8"])
    rows = [
        f"| {precision} | {' | '.join(f'{rung[figure]:.4g}' for figure in figures)} |"
        for precision, rung in rungs.items()
    ]
    head = f"| precision | {' | '.join(figure.replace('_', ' ') for figure in figures)} |"
    table = "\n".join([head, "|---" * (len(figures) + 1) + "|", *rows])
    return f"{PRECISIONS}\n\n{ladder['protocol']}; {ladder['speed']}:\n\n{table}"


def with_section(card: str, section: str) -> str:
    """A card with its section on precisions replaced, or added before the last one."""
    before, _, again = card.partition(AGAIN)
    before = before.partition(PRECISIONS)[0]
    return f"{before}{section}\n\n{AGAIN}{again}"


def ladder_of(folder: Path) -> dict[str, Any]:
    """The ladder in a model's report."""
    report = json.loads((folder / "model.onnx.report.json").read_text())
    return dict(report["ladder"])


def write(path: Path, text: str) -> None:
    """A text file, whole or not at all."""
    replace_file(path, lambda temporary: temporary.write_text(text))


if __name__ == "__main__":
    tyro.cli(main)
