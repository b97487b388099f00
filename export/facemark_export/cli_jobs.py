"""What ``facemark-export`` is asked for, done with its progress and tables on the terminal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from facemark_export import checkpoint
from facemark_export.crop_fit import fit_crop_rule
from facemark_export.engine import engine_path, export_engine
from facemark_export.export import export_checkpoint
from facemark_export.export_file import export_file
from facemark_export.foreign import import_onnx
from facemark_export.making import ExportReport, Form
from facemark_export.parity_table import parity_table
from facemark_export.precision_data import PHOTOS
from facemark_export.precision_table import ladder_table
from facemark_export.source import Choices
from facemark_export.training.landmark_data import read_faces, split_by_photo
from facemark_sdk.backends.tensorrt.profile import Range
from facemark_sdk.detect.face_detector import FaceDetector
from facemark_sdk.errors import DataError
from facemark_sdk.layouts import get_layout
from facemark_sdk.spec import CropRule

_COMPARED = 64
"""Photos at most on which a file is compared."""
_TITLES = {
    "fp32": "fp32 against {}",
    "fp16": "fp16 against {}",
    "decoder": "decoder in the graph against numpy's",
}


def convert(
    console: Console,
    source: Path,
    out: Path,
    form: Form,
    *,
    name: str | None,
    accuracy: Path | None,
) -> None:
    """A float file of ours in another form, see `export_file`."""
    with console.status("") as status:
        report = export_file(
            source,
            out,
            form,
            name=name,
            accuracy=None if accuracy is None else figures(accuracy),
            photos=_photos(form.calibration) if form.compared else (),
            progress=lambda stage: status.update(f"{stage} ..."),
        )
    _tell(console, out, report, source="the fp32 file")


def bring_in(
    console: Console,
    source: str,
    out: Path,
    *,
    name: str | None,
    meanface: Path | None,
    layout: str | None,
    det_size: int | None,
    score_threshold: float | None,
) -> None:
    """Another project's file, see `import_onnx`."""
    with console.status("reading the file and comparing ..."):
        imported = import_onnx(
            source,
            out,
            name=name,
            meanface=meanface,
            layout=layout,
            det_size=det_size,
            score_threshold=score_threshold,
            notice=lambda text: console.print(text, style="bold yellow"),
        )
    batch = "any batch" if imported.batch is None else f"{imported.batch} at a time"
    title = (
        f"{out}, {_megabytes(out)}: {imported.kind}, {batch}; "
        f"compared on {imported.check.images} structured images"
    )
    console.print(parity_table(title, {"against the source": imported.check}))


def make_onnx(
    console: Console,
    ckpt: Path,
    out: Path,
    choices: Choices,
    form: Form,
) -> None:
    """A checkpoint as a file, see `export_checkpoint`."""
    photos = _photos(form.calibration)
    with console.status("") as status:
        report = export_checkpoint(
            ckpt,
            out,
            choices,
            form,
            photos=photos,
            progress=lambda stage: status.update(f"{stage} ..."),
        )
    _tell(console, out, report, source="torch")


def _tell(console: Console, out: Path, report: ExportReport, *, source: str) -> None:
    title = (
        f"{out}, {_megabytes(out)}: compared on {report.structured_images} structured images and "
        f"{report.photos} real ones"
    )
    checks = {_TITLES[name].format(source): check for name, check in report.checks.items()}
    console.print(parity_table(title, checks) if checks else f"{out}, {_megabytes(out)}")
    if report.ladder is not None:
        console.print(ladder_table(report.ladder))


def make_engine(
    console: Console,
    onnx: Path,
    calibration: Sequence[Path],
    *,
    batch: Range | None,
    sides: Range | None,
) -> None:
    """The engine of a file, see `export_engine`."""
    with console.status("") as status:
        check = export_engine(
            onnx,
            batch=batch,
            sides=sides,
            photos=_photos(calibration),
            progress=lambda stage: status.update(f"{stage} ..."),
        )
    written = engine_path(onnx)
    title = f"{written}, {_megabytes(written)}"
    console.print(parity_table(title, {"engine against ONNX": check}))


def fit_rule(console: Console, ckpt: Path, detector: str, folders: Sequence[Path]) -> CropRule:
    """The crop rule for a detector's boxes, see `fit_crop_rule`.

    Args:
        console: To say what was found.
        ckpt: What facemark-train wrote.
        detector: A name or an ONNX file.
        folders: Training folders.

    Raises:
        DataError: There are no folders, or the checkpoint is no landmark model's.
    """
    stored = checkpoint.read(ckpt)
    growth = stored.record.get("settings", {}).get("growth")
    if not folders or growth is None:
        raise DataError("--crop-detector needs --crop-data folders and a landmark checkpoint")
    points = get_layout(stored.spec.layout).num_points
    faces = [f for folder in folders for f in read_faces(folder, stored.spec.layout, points)]
    train, _ = split_by_photo(faces)
    with console.status(f"fitting the crop rule on {len(train)} faces ..."):
        fit = fit_crop_rule(FaceDetector(detector, backend="cpu"), train, float(growth))
    console.print(
        f"crop rule from {fit.faces} faces ({fit.missed} not found): {fit.rule}, "
        f"size spread {100 * fit.size_spread:.1f} %, shift {100 * fit.shift_spread:.1f} %"
    )
    return fit.rule


def figures(path: Path) -> dict[str, Any]:
    """What ``--accuracy`` holds.

    Raises:
        DataError: It is no readable JSON object.
    """
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"--accuracy {path} is not a readable JSON object: {error}") from None


def _photos(folders: Sequence[Path]) -> list[Path]:
    found = []
    for folder in folders:
        photos = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PHOTOS)
        if not photos:
            raise DataError(f"--calibration {folder} holds no {', '.join(PHOTOS)}")
        found += photos
    return found[:_COMPARED]


def _megabytes(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.2f} MB"
