"""``facemark-export --ckpt FILE -o OUT.onnx``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from facemark_export import checkpoint
from facemark_export.crop_fit import fit_crop_rule
from facemark_export.export import export_checkpoint
from facemark_export.parity import ParityReport
from facemark_export.training.landmark_data import read_faces, split_by_photo
from facemark_sdk.detect.face_detector import FaceDetector
from facemark_sdk.errors import DataError, FacemarkError
from facemark_sdk.layouts import get_layout
from facemark_sdk.spec import CropRule

_PHOTOS = ("*.jpg", "*.jpeg", "*.png")


def export(
    ckpt: Path,
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    name: str | None = None,
    calibration: Path | None = None,
    crop_detector: str | None = None,
    crop_data: tuple[Path, ...] = (),
    score_midpoint: float | None = None,
    det_size: int | None = None,
    accuracy: Path | None = None,
) -> None:
    """Export a checkpoint to one self-describing ONNX file and prove that it computes the same.

    Args:
        ckpt: A best.safetensors or last.safetensors that facemark-train wrote.
        out: The ONNX file to write; OUT.report.json is written beside it.
        name: The model's name in its spec.
        calibration: A folder of photos on which parity is checked as well (the first 64).
        crop_detector: Fit the crop rule for the boxes of this detector (a name or an ONNX file).
        crop_data: The landmark model's training folders, for --crop-detector.
        score_midpoint: The detector's own score that shall read 0.5 in the file, for example the
            f1_threshold that facemark-train logs.
        det_size: The detector's default longest side of the image as the network sees it.
        accuracy: A JSON file of measured figures to state in the spec.
    """
    if crop_data and crop_detector is None:
        raise DataError("--crop-data is for --crop-detector, which is missing")
    console = Console(stderr=True)
    crop = _fit(console, ckpt, crop_detector, crop_data) if crop_detector else None
    with console.status("exporting and comparing with torch ..."):
        report = export_checkpoint(
            ckpt,
            out,
            name=name,
            crop=crop,
            score_midpoint=score_midpoint,
            det_size=det_size,
            accuracy=None if accuracy is None else _figures(accuracy),
            photos=_photos(calibration),
        )
    _show(console, out, report)


def _figures(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"--accuracy {path} is not a readable JSON object: {error}") from None


def _photos(folder: Path | None) -> list[Path]:
    if folder is None:
        return []
    photos = sorted(path for pattern in _PHOTOS for path in folder.rglob(pattern))[:64]
    if not photos:
        raise DataError(f"--calibration {folder} holds no {', '.join(_PHOTOS)}")
    return photos


def _fit(console: Console, ckpt: Path, detector: str, folders: tuple[Path, ...]) -> CropRule:
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


def _show(console: Console, out: Path, report: ParityReport) -> None:
    table = Table(title=f"{out} against torch")
    table.add_column("check")
    table.add_column("value", justify="right")
    table.add_row("structured images, photos", f"{report.structured_images}, {report.photos}")
    table.add_row("largest difference of raw outputs", f"{report.largest_map_difference:.2e}")
    table.add_row("largest difference of points", f"{report.largest_px:.2e} px")
    table.add_row("mean difference of points", f"{report.mean_px:.2e} px")
    table.add_row("largest difference of scores", f"{report.largest_score_difference:.2e}")
    table.add_row("argmax flips", str(report.argmax_flips))
    table.add_row("size", f"{out.stat().st_size / 1e6:.2f} MB")
    console.print(table)


def main() -> None:
    """Entry point: exit status 0, 1 for a failed export, 2 for wrong use."""
    try:
        tyro.cli(export, prog="facemark-export")
    except (FacemarkError, OSError) as error:
        print(f"facemark-export: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
