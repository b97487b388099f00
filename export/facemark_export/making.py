"""From a proven float network to its file: precision, decoder, and what was proven of them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import onnx

from facemark_export.decoder_inside import put_decoder_inside
from facemark_export.onnx_file import save, to_fp16
from facemark_export.parity import (
    TOLERANCES,
    Arrays,
    ParityError,
    ParityReport,
    Pixels,
    check_parity,
)
from facemark_export.precision import Ladder, float_ladder, to_int8
from facemark_export.precision_data import read_samples
from facemark_export.quantise_amx import require_amx
from facemark_sdk.backends import create_backend
from facemark_sdk.errors import ModelError
from facemark_sdk.files import replace_file
from facemark_sdk.spec import ModelSpec, Precision


@dataclass(frozen=True)
class Form:
    """What a float network's file shall be.

    Attributes:
        precision: Of its arithmetic.
        decode: Where a landmark model's decoder runs: in numpy, or inside the graph.
        calibration: Folders of photos; int8 needs them, and where their faces are annotated the
            precisions are measured on those that training holds out.
        max_loss: What int8 may lose; None for `precision.MAX_LOSS`.
        symmetric: For TensorRT: int8 has the form that it takes, see `Quantiser`.
        neck: Channels that a PIPNet's heads shall take in int8; None leaves them.
        amx: Store int8 convolutions for AMX where that is faster here, see `quantise_amx`; not with
            `symmetric`.
    """

    precision: Precision = "fp32"
    decode: Literal["numpy", "graph"] = "numpy"
    calibration: Sequence[Path] = ()
    max_loss: float | None = None
    symmetric: bool = False
    neck: int | None = None
    amx: bool = False

    @property
    def compared(self) -> bool:
        """Whether images prove its file; plain int8 made of a file is judged by its loss alone."""
        return self.precision == "fp16" or self.decode == "graph"

    def check(self, spec: ModelSpec) -> None:
        """Refuse what does not go together, before anything is measured.

        Raises:
            ModelError: A setting is for another precision or another kind of network.
            BackendError: `amx` is asked for on a CPU without it.
        """
        if spec.task == "detection" and self.decode == "graph":
            raise ModelError(
                "--decode graph is for landmark models; a detector's faces vary in number"
            )
        if spec.family == "insightface" and (self.precision == "fp16" or self.symmetric):
            raise ModelError(
                "--precision fp16 and --engine are not for insightface's detectors, whose outputs "
                "are not compared in these forms yet"
            )
        if self.neck is not None and self.precision != "int8":
            raise ModelError(f"--neck is for --precision int8; got {self.precision}")
        if self.neck is not None and spec.family != "pipnet":
            raise ModelError(f"--neck is for PIPNets, {spec.name!r} is a {spec.family}")
        if self.amx:
            if self.precision != "int8" or self.symmetric:
                raise ModelError("--amx is for --precision int8 without --engine")
            require_amx()


@dataclass(frozen=True)
class ExportReport:
    """What was proven of an exported file.

    Attributes:
        structured_images: Noise, blurred noise, ramps and flat images that were compared.
        photos: Real crops, or photos for detectors, that were compared.
        checks: By what was compared: ``fp32`` and, where asked for, ``fp16`` (the source against
            the file of that precision) and ``decoder`` (the one in the graph against numpy's).
        ladder: The precisions' accuracy and speed; None where no faces were given to measure on.
    """

    structured_images: int
    photos: int
    checks: dict[str, ParityReport]
    ladder: Ladder | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        return {
            **({"passed": all(c.passed for c in self.checks.values())} if self.checks else {}),
            "structured_images": self.structured_images,
            "photos": self.photos,
            **{name: check.to_dict() for name, check in self.checks.items()},
            **({} if self.ladder is None else {"ladder": self.ladder.to_dict()}),
        }


class Making:
    """A file in the making: each step is written and compared with the source.

    Attributes:
        checks: What was compared so far.
        ladder: The precisions, where they were measured.
    """

    def __init__(
        self,
        out: Path,
        spec: ModelSpec,
        structured: Sequence[Pixels],
        photographed: Sequence[Pixels],
        progress: Callable[[str], None],
    ) -> None:
        """Take what there is to prove on.

        Args:
            out: The file's name at last, for messages.
            spec: The source's.
            structured: (N, H, W, 3) uint8 each, from `structured_batches`.
            photographed: Likewise, from `photo_batches`.
            progress: Told what is being done.
        """
        self.out, self.spec, self.progress = out, spec, progress
        self.batches = [*structured, *photographed]
        self._counts = [sum(map(len, part)) for part in (structured, photographed)]
        self.checks: dict[str, ParityReport] = {}
        self.ladder: Ladder | None = None

    def write(
        self,
        path: Path,
        model: onnx.ModelProto,
        form: Form,
        reference: Sequence[Arrays],
        named: Callable[[onnx.ModelProto, Ladder | None], ModelSpec],
    ) -> None:
        """Write a float network in the form that is wanted.

        Args:
            path: The file.
            model: The network, without a decoder.
            form: Checked.
            reference: What the source computes of all batches.
            named: Makes the written file's spec, but for its precision and decoder, of the network
                in its precision and of what was measured.

        Raises:
            ModelError: Some values overflow in fp16, the graph's opset is too old for int8, or the
                decoder has no twin.
            DataError: The photos cannot be used.
            PrecisionError: int8 loses more than is allowed.
            ParityError: Out of tolerance.
        """
        models: dict[Precision, onnx.ModelProto] = {"fp32": model}
        if form.precision == "fp16":
            self.progress("converting to fp16")
            model = models["fp16"] = to_fp16(model)
            self.prove("fp16", model, reference, path)
        if form.precision == "int8":
            self.progress("reading the photos")
            samples = read_samples(form.calibration, self.spec)
            model, self.ladder = to_int8(
                model,
                self.spec,
                samples,
                form.max_loss,
                symmetric=form.symmetric,
                neck=form.neck,
                amx=form.amx,
                progress=self.progress,
            )
        elif form.calibration:
            self.ladder = float_ladder(models, self.spec, form.calibration)
        spec = dataclasses.replace(named(model, self.ladder), precision=form.precision)
        save(model, spec, path)
        if form.decode == "graph":
            self.progress("putting the decoder into the graph and comparing it with numpy's")
            self.checks["decoder"] = put_decoder_inside(model, spec, self.batches, path)
        for name, check in self.checks.items():
            if not check.passed:
                compared = "numpy's" if name == "decoder" else "the source"
                raise ParityError(
                    f"{name}: {compared} and the exported file {check.in_words()}; "
                    f"{self.out} is not written"
                )

    def prove(
        self,
        precision: Precision,
        model: onnx.ModelProto,
        reference: Sequence[Arrays],
        path: Path,
    ) -> None:
        """Write a model of some precision and compare it with the source.

        Raises:
            ModelError: Some of its values are not finite.
        """
        spec = dataclasses.replace(self.spec, precision=precision)
        save(model, spec, path)
        self.progress(f"comparing the {precision} file with its source")
        backend = create_backend("cpu", path)
        self.checks[precision] = check_parity(
            spec, self.batches, reference, backend, TOLERANCES[precision]
        )

    def report(self) -> ExportReport:
        """What was proven."""
        return ExportReport(*self._counts, self.checks, self.ladder)


def write_report(out: Path, source: Mapping[str, str], report: ExportReport) -> None:
    """``OUT.report.json`` beside a file.

    Args:
        out: The file.
        source: What it was made from: one name under ``checkpoint`` or ``source``.
        report: What was proven.
    """
    record = {"model": out.name, **source, **report.to_dict()}
    text = json.dumps(record, indent=2) + "\n"
    replace_file(out.with_name(f"{out.name}.report.json"), lambda t: t.write_text(text))
