"""The precision ladder: what fp16 and int8 cost in accuracy and save in time, on held-out faces."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import onnx
import onnxruntime

from facemark_export.constant_shapes import constant_shapes
from facemark_export.narrow_heads import narrow_heads
from facemark_export.onnx_file import save, to_fp16
from facemark_export.precision_compared import Compared
from facemark_export.precision_data import Measured, Samples, read_validation
from facemark_export.precision_speed import ROUNDS, milliseconds
from facemark_export.quantise import Pixels, Quantiser
from facemark_export.quantise_amx import AmxChoice, choose_for_amx
from facemark_export.quantise_search import Progress, Search, Trials, search
from facemark_sdk.errors import DataError, FacemarkError
from facemark_sdk.spec import ModelSpec, Precision, Task

MAX_LOSS: dict[Task, float] = {"landmarks": 0.10, "detection": 1.0}
"""What int8 may lose unless told otherwise: points of NME; points of average precision."""
_BATCH = 8
"""Images that ranges are seen on at once, where the network's batch is free."""


class PrecisionError(FacemarkError):
    """The network loses more in this precision than is allowed."""


@dataclass(frozen=True)
class Rung:
    """A network in one precision.

    Attributes:
        compared: With fp32, on the validation faces.
        p50_ms: Of the network, one image.
        bytes: Of the file.
    """

    compared: Compared
    p50_ms: float
    bytes: int


@dataclass(frozen=True)
class Ladder:
    """A network's precisions beside each other.

    Attributes:
        protocol: What the accuracy is measured on, in words.
        rungs: By precision; fp32 is always there.
        unit: What a loss is counted in.
        max_loss: What int8 may lose; None where it was not asked for.
        search: How the layers of int8 were chosen; None where they were not.
        neck: Channels of int8's heads where these were made narrower.
        amx: Which convolutions of int8 are stored for AMX; None where it was not asked for.
    """

    protocol: str
    rungs: Mapping[Precision, Rung]
    unit: str
    max_loss: float | None = None
    search: Search | None = None
    neck: int | None = None
    amx: AmxChoice | None = None

    def rows(self) -> dict[Precision, dict[str, float]]:
        """The figures of each rung: accuracy, flips, time and its ratio to fp32's, size."""
        reference = self.rungs["fp32"].p50_ms
        return {
            precision: {
                **rung.compared.figures,
                "p50_ms": rung.p50_ms,
                "time_over_fp32": rung.p50_ms / reference,
                "megabytes": rung.bytes / 1e6,
            }
            for precision, rung in self.rungs.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        return {
            "protocol": self.protocol,
            "speed": f"the network alone on one image, p50 of {ROUNDS} runs in turns, ONNX Runtime "
            f"{onnxruntime.__version__} on the CPU",
            "rungs": {
                precision: {name: round(value, 4) for name, value in row.items()}
                for precision, row in self.rows().items()
            },
            "max_loss": self.max_loss,
            "neck": self.neck,
            "amx": None if self.amx is None else dataclasses.asdict(self.amx),
            "search": None if self.search is None else dataclasses.asdict(self.search),
        }


def climb(
    models: Mapping[Precision, onnx.ModelProto], spec: ModelSpec, validation: Measured
) -> Ladder:
    """Measure a network's precisions.

    Args:
        models: By precision, fp32 first.
        spec: The network's.
        validation: What to measure on.

    Raises:
        DataError: There are fewer faces than the network takes at once.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = {precision: Path(folder) / f"{precision}.onnx" for precision in models}
        for precision, path in files.items():
            save(models[precision], dataclasses.replace(spec, precision=precision), path)
        found = {precision: validation.run(path) for precision, path in files.items()}
        times = milliseconds(list(files.values()), _one_run(models["fp32"], validation))
        rungs = {
            precision: Rung(
                validation.compare(found["fp32"], found[precision]), time, path.stat().st_size
            )
            for (precision, path), time in zip(files.items(), times, strict=True)
        }
    return Ladder(validation.protocol, rungs, validation.unit)


def float_ladder(
    models: Mapping[Precision, onnx.ModelProto], spec: ModelSpec, folders: Sequence[Path]
) -> Ladder | None:
    """The rungs above int8, where enough faces are annotated for the network's task.

    Raises:
        DataError: Annotations are malformed.
        ImageError: A photo cannot be read.
    """
    validation = read_validation(folders, spec)
    return None if validation is None else climb(models, spec, validation)


def to_int8(
    model: onnx.ModelProto,
    spec: ModelSpec,
    samples: Samples,
    max_loss: float | None,
    *,
    symmetric: bool,
    neck: int | None = None,
    amx: bool = False,
    progress: Progress,
) -> tuple[onnx.ModelProto, Ladder]:
    """A float network in int8, with its ladder.

    Args:
        model: The network without a decoder in the graph.
        spec: Its spec.
        samples: What to calibrate, search and judge on.
        max_loss: What it may lose; None for `MAX_LOSS` of its task.
        symmetric: As TensorRT takes it, see `Quantiser`; then layers stay in float for the sake of
            accuracy alone, as TensorRT's times are not known here.
        neck: Channels that a PIPNet's heads shall take, see `narrow_heads`; None leaves them. What
            that loses is part of what int8 may lose.
        amx: Store convolutions for AMX where that is faster on this machine, see `quantise_amx`;
            not with `symmetric`.
        progress: Told what is being done.

    Raises:
        PrecisionError: It loses more, or there is no layer to quantise.
        ModelError: The graph's opset is too old, or `neck` is for other networks.
        DataError: There are fewer faces than the network takes at once.
    """
    limit = MAX_LOSS[spec.task] if max_loss is None else max_loss
    progress("measuring the ranges of the activations")
    seen = list(_batches(model, samples.calibration, _BATCH))
    narrow = constant_shapes(model, spec) if neck is None else narrow_heads(model, seen, neck)
    step = int(spec.decoder_params.get("stride", 1))
    quantiser = Quantiser(narrow, spec.input, seen, symmetric=symmetric, step=step)
    if not quantiser.layers:
        raise PrecisionError("the network has no convolution or matrix product to make int8")
    images = _runs(model, samples.search)
    with tempfile.TemporaryDirectory() as folder:
        timed = () if symmetric else images
        trials = Trials(narrow, spec, samples.search, timed, Path(folder))
        quantised, how = search(quantiser, trials, limit, progress)
    stored = None
    if amx:
        quantised, stored = choose_for_amx(quantised, images[0], progress)
    progress("measuring fp32, fp16 and int8 on the validation faces")
    models: dict[Precision, onnx.ModelProto] = {"fp32": model, "fp16": to_fp16(model)}
    ladder = climb({**models, "int8": quantised}, spec, samples.validation)
    loss = ladder.rungs["int8"].compared.loss
    if not loss <= limit:  # NaN fails
        raise PrecisionError(
            f"int8 loses {loss:.2f} {ladder.unit} against fp32 on {ladder.protocol}; allowed are "
            f"{limit:g}: calibrate on more photos like those it is for"
            + ("" if neck is None else f", take a wider --neck than {neck}")
            + ", or pass --max-loss"
        )
    return quantised, dataclasses.replace(ladder, max_loss=limit, search=how, neck=neck, amx=stored)


def _one_run(model: onnx.ModelProto, samples: Measured) -> Pixels:
    """One image, or as many as the network takes at once."""
    return next(_batches(model, samples, 1))


def _runs(model: onnx.ModelProto, samples: Measured) -> list[Pixels]:
    """One such run of each size in which the network sees a photo: in full, in a quick look."""
    seen = islice(_batches(model, samples, 1), 2)
    return list({batch.shape: batch for batch in seen}.values())


def _batches(model: onnx.ModelProto, samples: Measured, size: int) -> Iterator[Pixels]:
    """All images as a network takes them: so many at a time, or those of its fixed batch."""
    fixed = fixed_batch(model)
    batches = samples.batches(fixed or size, rest=fixed is None)
    first = next(batches, None)
    if first is None:
        raise DataError(
            f"the network takes {fixed or size} images at once, there are {len(samples)} "
            f"({samples.protocol}); give more photos with --calibration"
        )
    yield first
    yield from batches


def fixed_batch(model: onnx.ModelProto) -> int | None:
    """Images that a network takes at once; None for any number."""
    (image,) = (entry for entry in model.graph.input if entry.name == "image")
    batch = image.type.tensor_type.shape.dim[0]
    return int(batch.dim_value) if batch.HasField("dim_value") else None
