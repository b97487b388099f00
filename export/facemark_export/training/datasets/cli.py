"""``facemark-convert FORMAT --source DIR --split SPLIT --out FOLDER``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from facemark_export.training.datasets.convert import convert, from_zero, in_layout
from facemark_export.training.datasets.crops import face_crop, pipnet_crop
from facemark_export.training.datasets.formats import FORMATS
from facemark_export.training.datasets.pipnet_crop import PIPNET_RULES
from facemark_export.training.datasets.sample import Sample
from facemark_sdk.errors import FacemarkError
from facemark_sdk.layouts import get_layout


class UsageError(FacemarkError):
    """Options that do not go together; exit status 2."""


def run(
    format: Annotated[Literal[tuple(FORMATS)], tyro.conf.Positional],  # type: ignore[valid-type]
    source: Path,
    out: Path,
    split: str = "train",
    crop: Literal["none", "face", "pipnet", "pipnet-gssl"] = "none",
    layout: str | None = None,
    origin: int | None = None,
    stride: int | None = None,
    link: bool = False,
) -> None:
    """Turn a public landmark data set into a folder for facemark-train and facemark eval.

    Args:
        format: The data set as its owners publish it, or one of its processed forms: hrnet (CSV
            files), pipnet (normalised lists), hih (the same, a folder a split).
        source: The data set's folder.
        out: The folder to write: annotations.jsonl and images.
        split: train or test; hrnet also valid, valid_common, ...; pipnet and hih any list's name.
        crop: none keeps the images as they are; face cuts each face out with room for
            augmentation, at most 320 pixels a side; pipnet makes the 256-pixel crops of PIPNet's
            protocol for the data set, pipnet-gssl those of its cross-data-set protocols.
        layout: Another layout to map the points to, such as ibug68 for wflw. Faces without a
            mapping are left out (menpo2d's profiles, unless points39 is asked for).
        origin: What the files call the centre of the top-left pixel, if not the format's own: 1
            for 300w, menpo2d, 300vw, cofw and cofw68, which count as MATLAB does, else 0.
        stride: For videos: take the first frame of each and every N-th after it; 1 takes all.
        link: Make links to the images instead of copies.
    """
    chosen = FORMATS[format]
    options = {}
    if stride is not None:
        if not chosen.video:
            raise UsageError(f"--stride is for videos, {format} has none")
        if stride < 1:
            raise UsageError(f"--stride must be at least 1, got {stride}")
        options["stride"] = stride
    if link and crop != "none":
        raise UsageError("--link is for whole images, not for --crop")
    wanted = chosen.layout if layout is None else get_layout(layout).name
    counted_from = chosen.origin if origin is None else origin
    finish = _finish(format, crop, counted_from)

    def prepare(sample: Sample) -> Sample | None:
        mapped = sample if wanted is None else in_layout(sample, wanted)
        return None if mapped is None else finish(mapped)

    console = Console(stderr=True)
    samples = _counted(chosen.read(source, split, **options), console)
    result = convert(samples, out, split, prepare, link=link)
    left_out = f", {result.skipped} left out for their layout" if result.skipped else ""
    console.print(f"{result.faces} faces -> {out}{left_out}", soft_wrap=True)


def _finish(format: str, crop: str, origin: int) -> Callable[[Sample], Sample]:
    """What happens to a face once its layout is right."""
    if crop == "none":
        return partial(from_zero, origin=origin)
    if crop == "face":
        return lambda sample: face_crop(from_zero(sample, origin))
    name = FORMATS[format].pipnet if crop == "pipnet" else FORMATS[format].pipnet_gssl
    if name is None:
        able = [n for n, f in FORMATS.items() if (f.pipnet if crop == "pipnet" else f.pipnet_gssl)]
        raise UsageError(f"--crop {crop}: no such protocol for {format}; for: {', '.join(able)}")
    # The published preprocessing takes the files' numbers as they are.
    return partial(pipnet_crop, rule=PIPNET_RULES[name])


def _counted(samples: Iterable[Sample], console: Console) -> Iterator[Sample]:
    columns = SpinnerColumn(), TextColumn("faces"), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as progress:
        yield from progress.track(samples, total=None)


def main() -> None:
    """Entry point: exit status 0, 1 for a failed conversion, 2 for wrong use."""
    try:
        tyro.cli(run, prog="facemark-convert")
    except (FacemarkError, OSError) as error:
        print(f"facemark-convert: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UsageError) else 1)
    except KeyboardInterrupt:
        print("facemark-convert: interrupted", file=sys.stderr)
        sys.exit(130)
