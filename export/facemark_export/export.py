"""From a checkpoint to a proven ONNX file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from facemark_export.decoder_inside import check_decode, put_decoder_inside
from facemark_export.graph import ExportGraph
from facemark_export.narrow_heads import check_neck
from facemark_export.onnx_file import network_model, save, to_fp16
from facemark_export.parity import (
    TOLERANCES,
    Arrays,
    ParityError,
    ParityReport,
    Pixels,
    check_parity,
    torch_outputs,
)
from facemark_export.precision import Ladder, float_ladder, to_int8
from facemark_export.precision_data import read_samples
from facemark_export.quantise_amx import require_amx
from facemark_export.samples import photo_batches, structured_batches
from facemark_export.source import Choices, read_source
from facemark_sdk.backends import create_backend
from facemark_sdk.errors import CheckpointError, ModelError
from facemark_sdk.files import replace_file
from facemark_sdk.spec import ModelSpec, Precision


@dataclass(frozen=True)
class ExportReport:
    """What was proven of an exported file.

    Attributes:
        structured_images: Noise, blurred noise, ramps and flat images that were compared.
        photos: Real crops, or photos for detectors, that were compared.
        checks: By what was compared: ``fp32`` and, where asked for, ``fp16`` (torch against the
            file of that precision) and ``decoder`` (the one in the graph against numpy's).
        ladder: The precisions' accuracy and speed; None where no faces were given to measure on.
    """

    structured_images: int
    photos: int
    checks: dict[str, ParityReport]
    ladder: Ladder | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        return {
            "passed": all(check.passed for check in self.checks.values()),
            "structured_images": self.structured_images,
            "photos": self.photos,
            **{name: check.to_dict() for name, check in self.checks.items()},
            **({} if self.ladder is None else {"ladder": self.ladder.to_dict()}),
        }


def export_checkpoint(
    ckpt: Path,
    out: Path,
    choices: Choices | None = None,
    *,
    photos: Sequence[Path] = (),
    calibration: Sequence[Path] = (),
    max_loss: float | None = None,
    symmetric: bool = False,
    neck: int | None = None,
    amx: bool = False,
    progress: Callable[[str], None] = lambda stage: None,
) -> ExportReport:
    """Export a checkpoint to one self-describing ONNX file, with its report beside it.

    Args:
        ckpt: What facemark-train wrote, or a published checkpoint (`read_source`).
        out: The ONNX file; ``OUT.report.json`` is written beside it.
        choices: What the checkpoint leaves open.
        photos: Real images for the parity check.
        calibration: Folders of photos; int8 needs them, and where their faces are annotated the
            precisions are measured on those that training holds out.
        max_loss: What int8 may lose; None for `precision.MAX_LOSS`.
        symmetric: int8 as TensorRT takes it, see `Quantiser`.
        neck: Channels that a PIPNet's heads shall take in int8; None leaves them.
        amx: Store int8 convolutions for AMX where that is faster here, see `quantise_amx`; not with
            `symmetric`.
        progress: Told what is being done.

    Raises:
        CheckpointError: The checkpoint cannot be read, is of no known kind, or leaves something
            open that `choices` do not say.
        ModelError: A choice is out of range or for another kind of model.
        ParityError: Out of tolerance; nothing is written then.
        PrecisionError: int8 loses more than is allowed; nothing is written then.
        DataError: `calibration` cannot be used.
        BackendError: `amx` is asked for on a CPU without it.
    """
    choices = choices or Choices()
    for source in (ckpt, choices.meanface):
        if source is not None and out.exists() and source.exists() and out.samefile(source):
            raise CheckpointError(f"{out} is the source itself; choose another file to write")
    progress("reading the checkpoint")
    network, spec = read_source(ckpt, choices)
    check_decode(choices.decode, spec)
    if neck is not None and choices.precision != "int8":
        raise ModelError(f"--neck is for --precision int8; got {choices.precision}")
    check_neck(neck, spec)
    if amx:
        if choices.precision != "int8" or symmetric:
            raise ModelError("--amx is for --precision int8 without --engine")
        require_amx()
    graph = ExportGraph(network, spec).eval()
    structured, photographed = structured_batches(spec), photo_batches(spec, photos)
    batches = structured + photographed
    progress("running torch")
    reference = torch_outputs(graph, batches)
    reports: list[ExportReport] = []

    def write(temporary: Path) -> None:
        making = _Making(spec, batches, reference, progress)
        progress("tracing the network")
        model = making.prove("fp32", network_model(graph, spec), temporary)
        models: dict[Precision, onnx.ModelProto] = {"fp32": model}
        if choices.precision == "fp16":
            progress("converting to fp16")
            model = models["fp16"] = making.prove("fp16", to_fp16(model), temporary)
        ladder = None
        if choices.precision == "int8":
            samples = read_samples(calibration, spec)
            model, ladder = to_int8(
                model,
                spec,
                samples,
                max_loss,
                symmetric=symmetric,
                neck=neck,
                amx=amx,
                progress=progress,
            )
            making.keep("int8", model, temporary)
        elif calibration:
            ladder = float_ladder(models, spec, calibration)
        if choices.decode == "graph":
            making.prove_decoder(model, temporary)
        for name, check in making.checks.items():
            if not check.passed:
                raise ParityError(
                    f"{name}: torch and the exported file {check.in_words()}; {out} is not written"
                )
        count = sum(map(len, structured))
        reports.append(ExportReport(count, sum(map(len, photographed)), making.checks, ladder))

    out.parent.mkdir(parents=True, exist_ok=True)
    replace_file(out, write)
    record = {"model": out.name, "checkpoint": ckpt.name, **reports[0].to_dict()}
    text = json.dumps(record, indent=2) + "\n"
    replace_file(out.with_name(f"{out.name}.report.json"), lambda t: t.write_text(text))
    return reports[0]


class _Making:
    """A file in the making: each step is written and compared with the step before."""

    def __init__(
        self,
        spec: ModelSpec,
        batches: Sequence[Pixels],
        reference: Sequence[Arrays],
        progress: Callable[[str], None],
    ) -> None:
        self.spec, self.batches, self.reference = spec, batches, reference
        self.progress = progress
        self.checks: dict[str, ParityReport] = {}

    def keep(self, precision: Precision, model: onnx.ModelProto, path: Path) -> None:
        """Write a model of some precision."""
        self.spec = dataclasses.replace(self.spec, precision=precision)
        save(model, self.spec, path)

    def prove(self, precision: Precision, model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
        """Write a model of some precision and compare it with torch."""
        self.keep(precision, model, path)
        self.progress(f"comparing the {precision} file with torch")
        self.checks[precision] = check_parity(
            self.spec,
            self.batches,
            self.reference,
            create_backend("cpu", path),
            TOLERANCES[precision],
        )
        return model

    def prove_decoder(self, network: onnx.ModelProto, path: Path) -> None:
        """Append the decoder, write, and compare with numpy's decoder on the same network."""
        self.progress("putting the decoder into the graph and comparing it with numpy's")
        self.checks["decoder"] = put_decoder_inside(network, self.spec, self.batches, path)
