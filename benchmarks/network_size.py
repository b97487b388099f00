"""What a landmark network's input size and the width of its heads buy: NME against time.

Every file as it is (fp32) and in int8, with all channels of its trunk under its heads and with
fewer (`facemark-export --neck`). NME: the held-out faces of `accuracy_landmarks.py`, boxes from the
bundled detector, over the inter-ocular distance. Time: the network alone on one face, p50, all in
turns, over that of a ResNet-18 PIPNet of 98 landmarks in fp32 (random weights), so that the ratios
hold on a machine that is not quiet. In int8 all layers are integers here; the search that
`facemark-export` makes may keep some in float.

    python benchmarks/network_size.py MODEL... --data DIR... [--json F] [--plot F.png]
"""

from __future__ import annotations

import dataclasses
import json
import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from facemark_export.graph import ExportGraph
from facemark_export.narrow_heads import narrow_heads
from facemark_export.networks.architecture import build_network
from facemark_export.onnx_file import load, network_model, save
from facemark_export.precision_data import read_samples
from facemark_export.precision_speed import milliseconds_of
from facemark_export.quantise import Quantiser
from facemark_export.training.recipes.pipnet import PipnetRecipe
from facemark_sdk.evaluation.plots import require_matplotlib
from facemark_sdk.layouts import get_layout
from facemark_sdk.models import resolve_model
from facemark_sdk.spec import ModelSpec

NECKS = (64, 96, 128, 192, 256)
BATCH = 8
"""Faces at once on which the ranges of int8 are seen."""
REFERENCE = "PIPNet ResNet-18, 98 points, fp32"


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A file to be timed, and what is said of it."""

    path: Path
    image: NDArray[np.uint8]
    row: dict[str, Any]


def main(
    models: tyro.conf.Positional[tuple[str, ...]],
    data: tuple[Path, ...],
    necks: tuple[int, ...] = NECKS,
    json_file: Annotated[Path | None, tyro.conf.arg(name="json")] = None,
    plot: Path | None = None,
) -> None:
    """Measure PIPNets at several input sizes and widths of their heads.

    Args:
        models: Names or fp32 ONNX files of PIPNets, for example one an input size.
        data: Folders with an annotations.jsonl.
        necks: Channels under the heads, beside all of the trunk's.
        json_file: Write the figures here.
        plot: Draw NME against time here.
    """
    if plot is not None:
        require_matplotlib()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        reference = resnet18(folder / "reference.onnx")
        candidates = []
        for number, model in enumerate(models):
            (folder / str(number)).mkdir()
            candidates += variants(model, data, necks, folder / str(number))
        times = milliseconds_of([(each.path, each.image) for each in (reference, *candidates)])
    rows = [
        {**each.row, "p50_ms": round(time, 3), "time_over_r18": round(time / times[0], 4)}
        for each, time in zip(candidates, times[1:], strict=True)
    ]
    show(rows)
    if json_file is not None:
        record = {"reference": REFERENCE, "reference_p50_ms": round(times[0], 3), "rows": rows}
        json_file.write_text(json.dumps(record, indent=2) + "\n")
    if plot is not None:
        draw(rows, plot)


def resnet18(path: Path) -> Candidate:
    """The network that times are stated over."""
    torch.manual_seed(0)
    recipe = PipnetRecipe(architecture="resnet18", layout="wflw98", imagenet=False)
    shape = np.random.default_rng(0).random((get_layout("wflw98").num_points, 2))
    spec = recipe.model_spec(shape)
    save(network_model(ExportGraph(build_network(spec).eval(), spec).eval(), spec), spec, path)
    return Candidate(path, noise(spec), {})


def variants(
    name: str, data: Sequence[Path], necks: Sequence[int], folder: Path
) -> Iterator[Candidate]:
    """A file in fp32 and in int8, with all channels under its heads and with fewer."""
    source = resolve_model(name)
    model, spec = load(source)
    samples = read_samples(data, spec)
    seen = list(samples.calibration.batches(BATCH))
    truth = samples.validation.run(source)
    for neck in (None, *necks):
        narrow = model if neck is None else narrow_heads(model, seen, neck)
        quantiser = Quantiser(narrow, spec.input, seen)
        for precision, made in (("fp32", narrow), ("int8", quantiser.model(quantiser.layers))):
            path = folder / f"{neck}_{precision}.onnx"
            save(made, dataclasses.replace(spec, precision=precision), path)
            figures = samples.validation.compare(truth, samples.validation.run(path)).figures
            row = {
                "model": spec.name,
                "size": spec.input.width,
                "neck": neck,
                "precision": precision,
                "protocol": samples.validation.protocol,
                "megabytes": round(path.stat().st_size / 1e6, 2),
                **{key: round(value, 4) for key, value in figures.items()},
            }
            yield Candidate(path, noise(spec), row)


def noise(spec: ModelSpec) -> NDArray[np.uint8]:
    """One face's worth of pixels."""
    side = spec.input.width
    return np.random.default_rng(0).integers(0, 256, (1, side, side, 3), np.uint8)


def show(rows: Sequence[dict[str, Any]]) -> None:
    """The figures as a table."""
    columns = ("nme_percent", "argmax_flips_share", "p50_ms", "time_over_r18", "megabytes")
    table = Table("model", "size", "neck", "precision", *columns)
    for row in rows:
        words = (row["model"], str(row["size"]), str(row["neck"] or "all"), row["precision"])
        table.add_row(*words, *(f"{row[name]:.4g}" for name in columns))
    Console(width=140).print(table)


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """NME against time, a line an input size and precision, a point a neck."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(10, 6))
    models = list(dict.fromkeys((row["model"], row["size"]) for row in rows))
    for precision, style in (("fp32", "--"), ("int8", "-")):
        for number, (model, size) in enumerate(models):
            line = [
                row
                for row in rows
                if (row["model"], row["size"], row["precision"]) == (model, size, precision)
            ]
            line.sort(key=lambda row: row["neck"] or math.inf)
            axis.plot(
                [100 * row["time_over_r18"] for row in line],
                [row["nme_percent"] for row in line],
                marker="o",
                linestyle=style,
                color=f"C{number}",
                label=f"{model}, {size} x {size}, {precision}",
            )
            for row in line:
                axis.annotate(
                    str(row["neck"] or "all"),
                    (100 * row["time_over_r18"], row["nme_percent"]),
                    xytext=(4, 5),
                    textcoords="offset points",
                    fontsize=8,
                    color=f"C{number}",
                )
    axis.axvline(20, color="grey", linewidth=1)
    axis.set(
        xlabel=f"time of the network, % of {REFERENCE}",
        ylabel="NME %, held-out faces, detected boxes",
        title="Input size and channels under the heads",
    )
    axis.grid(alpha=0.3)
    axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    tyro.cli(main)
