"""What the grid alone costs: true landmarks made into maps and read back, nothing learned.

HIH, section IV-B and Table IX ("Ideal"); Subpixel, Figure 3. Shapes of WFLW's and 300W's test faces
without their photos; the training's own targets, the SDK's own decoders, maps of 64 x 64 cells. A
minute or two on one core; writes quantisation.json and quantisation.png into DOCS/reproduction and
the section between its markers in DOCS/reproduction.md.

    python benchmarks/quantisation.py --data ../shared/data --docs docs
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

import quantisation_page
import quantisation_picture
from facemark_export.training.heatmap_targets import (
    Quantise,
    continuous_maps,
    decimal_maps,
    grid_cells,
    rounded_maps,
)
from facemark_sdk.decode import make_decoder
from facemark_sdk.decode.decoded import Decoder
from facemark_sdk.files import replace_file
from facemark_sdk.layouts import get_layout
from facemark_sdk.metrics import normalised_errors
from facemark_sdk.spec import InputSpec, ModelSpec
from quantisation_faces import (
    INPUT,
    WFLW_TEST,
    Floats,
    Shapes,
    in_crop,
    in_square,
    read_shapes,
    square,
)

SIDE = 64
SIGMAS = {"wflw98": 1.5, "ibug68": 1.0}
"""Of the heatmaps, in cells (HIH, section IV-A; COMPAT 2.5)."""
INNER_SIGMA = 1.0
"""Of the decimal maps, in their cells (HIH, section IV-A)."""
GROWTHS = np.linspace(1.0, 1.4, 21)
"""Sides of square crops over the tight box's longer side."""
AT_ONCE = 32
"""Faces: 50 MB of maps of each kind."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How landmarks become maps and maps landmarks.

    Attributes:
        maps: ``floor``, ``round`` or ``continuous``.
        decoder: The SDK's name.
        params: The decoder's.
        inner: Cells a side of the decimal maps, 0 for none.
        inner_quantise: How places in a cell become decimal cells.
        unit_sum: The Gaussian is divided by 2 pi sigma^2 (Subpixel, equation 1).
        sigma: In cells; None takes the set's.
    """

    maps: str
    decoder: str
    params: Mapping[str, float] = field(default_factory=dict)
    inner: int = 0
    inner_quantise: Quantise = "round"
    unit_sum: bool = False
    sigma: float | None = None


DECIMALS = [
    Reading("floor", "hih", inner=inner, inner_quantise=quantise)
    for quantise in ("round", "floor")
    for inner in (4, 8, 16)
]
PLAIN = [
    Reading("floor", "argmax"),
    Reading("floor", "argmax", {"origin": 0.5}),
    Reading("round", "argmax"),
]
LOCAL = Reading("continuous", "local_soft_argmax", {"window": 5, "temperature": 10.0})
BETWEEN_CELLS = [
    Reading("continuous", decoder) for decoder in ("quarter_shift", "dark", "barycentre_sum")
]
WINDOWS = [
    replace(reading, sigma=sigma)
    for sigma in (1.0, 1.5, 2.0)
    for reading in (
        *(replace(LOCAL, params={**LOCAL.params, "window": window}) for window in (3, 5, 7)),
        replace(LOCAL, unit_sum=True),
        *BETWEEN_CELLS,
    )
]


@dataclass(frozen=True, slots=True)
class Run:
    """What is measured for a table: readings in a crop, on sets of faces."""

    crop: str
    layouts: tuple[str, ...]
    readings: list[Reading]


RUNS = {
    "square": Run(
        "hih",
        tuple(SIGMAS),
        [
            *PLAIN,
            *(replace(reading, maps="round") for reading in (*BETWEEN_CELLS, LOCAL)),
            *DECIMALS,
            Reading("continuous", "argmax"),
            *BETWEEN_CELLS,
            Reading("continuous", "barycentre"),
            LOCAL,
        ],
    ),
    "pipnet": Run("pipnet", tuple(SIGMAS), [*PLAIN, *DECIMALS]),
    "subpixel": Run("subpixel", tuple(SIGMAS), [Reading("round", "argmax"), LOCAL]),
    "windows": Run("subpixel", ("wflw98",), WINDOWS),
}


def main(data: Path, docs: Path) -> None:
    """Measure everything and write it down.

    Args:
        data: The folder with annotations_only.
        docs: The folder of reproduction.md.
    """
    torch.set_num_threads(1)
    sets = read_shapes(data / "annotations_only")
    rows: list[dict[str, Any]] = []
    for table, run in RUNS.items():
        for shapes in (shapes for shapes in sets if shapes.layout in run.layouts):
            rows += measured(table, run, shapes)
    curves = {shapes.layout: growth_curve(shapes) for shapes in sets}
    folder = docs / "reproduction"
    folder.mkdir(parents=True, exist_ok=True)
    picture = quantisation_picture.picture(rows, curves)
    replace_file(folder / "quantisation.png", lambda path: path.write_bytes(picture))
    figures = {
        "faces": {shapes.layout: len(shapes.points) for shapes in sets},
        "wflw_easy_faces": int(sets[0].easy.sum()),
        "rows": [{key: value for key, value in row.items() if key != "errors"} for row in rows],
        "growth_curves": curves,
    }
    text = json.dumps(figures, indent=1) + "\n"
    replace_file(folder / "quantisation.json", lambda path: path.write_text(text))
    quantisation_page.write(docs / "reproduction.md", figures)


def measured(table: str, run: Run, shapes: Shapes) -> Iterator[dict[str, Any]]:
    """A row of figures for each reading; errors are taken in the crop (COMPAT 1.7, 3.3)."""
    truth = in_crop(shapes, run.crop)
    layout = get_layout(shapes.layout)
    found = read_back(truth, shapes.layout, run.readings)
    for reading, points in zip(run.readings, found, strict=True):
        errors = 100 * normalised_errors(points, truth, layout).mean(axis=1)
        boxed = 100 * normalised_errors(points, truth, layout, "box").mean()
        row: dict[str, Any] = {"table": table, "crop": run.crop, "layout": shapes.layout}
        row |= asdict(reading)
        row |= {"sigma": reading.sigma or SIGMAS[shapes.layout]}
        row |= {"nme": float(errors.mean()), "nme_box": float(boxed), "errors": errors}
        if shapes.easy.any():
            missing = WFLW_TEST - len(errors)
            guessed = errors.sum() + missing * errors[shapes.easy].mean()
            row["nme_whole_set"] = float(guessed / WFLW_TEST)
        yield row


def read_back(truth: Floats, layout: str, readings: Sequence[Reading]) -> list[Floats]:
    """What each reading makes of the true points (N, L, 2), fractions of the crop."""
    decoders = [decoder(reading, layout) for reading in readings]
    found: list[list[Any]] = [[] for _ in readings]
    for start in range(0, len(truth), AT_ONCE):
        points = torch.from_numpy(truth[start : start + AT_ONCE].astype(np.float32))
        kinds = {(reading.maps, reading.sigma or SIGMAS[layout]) for reading in readings}
        maps = {kind: encoded(points, *kind).numpy() for kind in kinds}
        for reading, decode, parts in zip(readings, decoders, found, strict=True):
            sigma = reading.sigma or SIGMAS[layout]
            heatmaps = maps[reading.maps, sigma]
            if reading.unit_sum:
                heatmaps = heatmaps / np.float32(2 * np.pi * sigma**2)
            outputs = {"heatmaps": heatmaps}
            if reading.inner:
                outputs["offsets"] = decimal_maps(
                    points, SIDE, reading.inner, INNER_SIGMA, quantise=reading.inner_quantise
                ).numpy()
            parts.append(decode(outputs).points)
    return [np.concatenate(parts).astype(np.float64) for parts in found]


def encoded(points: torch.Tensor, maps: str, sigma: float) -> torch.Tensor:
    """The heatmaps of points (N, L, 2)."""
    if maps == "continuous":
        return continuous_maps(points, SIDE, sigma)
    return rounded_maps(points, SIDE, sigma, quantise="floor" if maps == "floor" else "round")


def decoder(reading: Reading, layout: str) -> Decoder:
    """The SDK's decoder, from a spec as an exported file has it."""
    spec = ModelSpec(
        name="true maps",
        task="landmarks",
        family="heatmap",
        architecture="none",
        decoder=reading.decoder,
        decoder_params=dict(reading.params),
        layout=layout,
        input=InputSpec(INPUT, INPUT, "RGB", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
        crop=None,
        precision="fp32",
        producer="benchmarks/quantisation.py",
        source_sha256="",
        training_data="none",
        licence="none",
    )
    return make_decoder(spec)


def growth_curve(shapes: Shapes) -> dict[str, list[float]]:
    """NME of the arg-max for square crops of several sizes, by how points become cells."""
    layout = get_layout(shapes.layout)
    curve: dict[str, list[float]] = {"growth": GROWTHS.tolist(), "round": [], "floor": []}
    for growth in GROWTHS:
        truth = in_square(shapes.points, square(growth))
        for quantise in ("round", "floor"):
            cells = grid_cells(torch.from_numpy(truth), SIDE, quantise).numpy()
            curve[quantise].append(100 * normalised_errors(cells / SIDE, truth, layout).mean())
    return curve


if __name__ == "__main__":
    tyro.cli(main)
