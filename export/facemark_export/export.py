"""From a checkpoint to a proven ONNX file."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from facemark_export import checkpoint
from facemark_export.graph import ExportGraph
from facemark_export.networks import build_network
from facemark_export.onnx_file import write_onnx
from facemark_export.parity import ParityReport, check_parity
from facemark_sdk import __version__
from facemark_sdk.errors import CheckpointError, FacemarkError, ModelError
from facemark_sdk.files import replace_file
from facemark_sdk.spec import CropRule


class ParityError(FacemarkError):
    """The exported file does not compute what the checkpoint does."""


def export_checkpoint(
    ckpt: Path,
    out: Path,
    *,
    name: str | None = None,
    crop: CropRule | None = None,
    score_midpoint: float | None = None,
    det_size: int | None = None,
    accuracy: Mapping[str, Any] | None = None,
    photos: Sequence[Path] = (),
) -> ParityReport:
    """Export a checkpoint to one self-describing ONNX file, with its report beside it.

    Args:
        ckpt: A ``best.safetensors`` or ``last.safetensors`` of facemark-train.
        out: The ONNX file; ``OUT.report.json`` is written beside it.
        name: The model's name in its spec; the checkpoint's own when None.
        crop: The crop rule for detector boxes; the checkpoint's own when None.
        score_midpoint: For detectors, the network's own score that shall read 0.5; None leaves
            scores alone.
        det_size: For detectors, the default longest side of the image as the network sees it.
        accuracy: Measured figures for the spec.
        photos: Real images for the parity check.

    Raises:
        CheckpointError: The checkpoint cannot be read or does not fit its own spec.
        ModelError: An option is out of range or for another kind of model.
        ParityError: Out of tolerance; nothing is written then.
    """
    stored = checkpoint.read(ckpt)
    network = build_network(stored.spec)
    try:
        network.load_state_dict(dict(stored.weights))
    except RuntimeError as error:
        raise CheckpointError(f"{ckpt} does not fit its own spec: {error}") from None
    params = dict(stored.spec.decoder_params)
    if score_midpoint is not None:
        if stored.spec.task != "detection" or not 0 < score_midpoint < 1:
            raise ModelError("score_midpoint is for detectors, a number between 0 and 1")
        params["score_midpoint"] = score_midpoint
    if det_size is not None:
        if stored.spec.task != "detection" or det_size < 1:
            raise ModelError("det_size is for detectors, a whole number above 0")
        params["det_size"] = det_size
    spec = dataclasses.replace(
        stored.spec,
        decoder_params=params,
        name=name or stored.spec.name,
        crop=crop or stored.spec.crop,
        accuracy=dict(accuracy or {}),
        producer=f"facemark-export {__version__}",
        source_sha256=hashlib.sha256(ckpt.read_bytes()).hexdigest(),
    )
    graph = ExportGraph(network, spec).eval()
    reports: list[ParityReport] = []

    def write(temporary: Path) -> None:
        write_onnx(graph, spec, temporary)
        report = check_parity(graph, spec, temporary, photos)
        if not report.passed:
            raise ParityError(
                f"torch and the exported file differ by {report.largest_px:.3f} px "
                f"(tolerance {report.tolerance_px}) and {report.largest_score_difference:.4f} in "
                f"scores (tolerance {report.tolerance_score}); {out} is not written"
            )
        reports.append(report)

    out.parent.mkdir(parents=True, exist_ok=True)
    replace_file(out, write)
    record = {"model": out.name, "checkpoint": ckpt.name, **reports[0].to_dict()}
    text = json.dumps(record, indent=2) + "\n"
    replace_file(out.with_name(f"{out.name}.report.json"), lambda t: t.write_text(text))
    return reports[0]
