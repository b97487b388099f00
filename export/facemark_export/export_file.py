"""From a float ONNX file of ours, whose checkpoint need not be there, to another form of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.version_converter

from facemark_export.making import ExportReport, Form, Making, write_report
from facemark_export.nodes import opset_of
from facemark_export.onnx_file import IR_VERSION, OPSET, load
from facemark_export.parity import Pixels
from facemark_export.precision import Ladder, fixed_batch
from facemark_export.samples import photo_batches, structured_batches
from facemark_sdk import __version__
from facemark_sdk.backends import create_backend
from facemark_sdk.errors import CheckpointError, ModelError
from facemark_sdk.files import replace_file, sha256_of
from facemark_sdk.spec import ModelSpec


def export_file(
    source: Path,
    out: Path,
    form: Form,
    *,
    name: str | None = None,
    accuracy: Mapping[str, Any] | None = None,
    photos: Sequence[Path] = (),
    progress: Callable[[str], None] = lambda stage: None,
) -> ExportReport:
    """Write a float file of ours anew in another precision or with its decoder inside.

    Its spec is kept but for that, the SHA-256 of what it was made from, and the accuracy: where the
    precision changes, it is what the new one has on the held-out faces, and nothing where there
    are none, unless it is given.

    Args:
        source: An fp32 file with a facemark spec.
        out: The new file; ``OUT.report.json`` is written beside it.
        form: What it shall be.
        name: The model's name in its spec; the source's when None.
        accuracy: Measured figures for the spec.
        photos: Real images for the parity check.
        progress: Told what is being done.

    Raises:
        CheckpointError: The source cannot be read, has no spec, is not fp32, has its decoder
            inside, or would be overwritten.
        ModelError: The spec cannot be read, the graph's opset is too old, or `form` is for other
            networks.
        BackendError: AMX is asked for on a CPU without it.
        DataError: The photos or their annotations cannot be used.
        ParityError: The new file finds other points; nothing is written then.
        PrecisionError: int8 loses more than is allowed; nothing is written then.
    """
    model, spec = _read(source)
    if out.exists() and out.samefile(source):
        raise CheckpointError(f"{out} is the source itself; choose another file to write")
    form.check(spec)
    if form.decode == "graph":
        model = _like_ours(model, source)
    making = Making(out, spec, *_images(model, spec, form, photos), progress)
    reference = []
    if form.compared and form.precision != "int8":
        progress("running the source")
        backend = create_backend("cpu", source)
        reference = [backend.run({"image": batch}) for batch in making.batches]

    def named(made: onnx.ModelProto, ladder: Ladder | None) -> ModelSpec:
        figures = spec.accuracy if form.precision == "fp32" else _measured(ladder, form)
        return dataclasses.replace(
            spec,
            name=name or spec.name,
            producer=f"facemark-export {__version__}, ONNX opset {opset_of(made)}, "
            f"IR {made.ir_version}",
            source_sha256=sha256_of(source),
            accuracy=dict(figures if accuracy is None else accuracy),
        )

    def write(temporary: Path) -> None:
        if form.precision == "fp32" and making.batches:
            making.prove("fp32", model, reference, temporary)
        making.write(temporary, model, form, reference, named)

    out.parent.mkdir(parents=True, exist_ok=True)
    replace_file(out, write)
    write_report(out, {"source": source.name}, making.report())
    return making.report()


def _measured(ladder: Ladder | None, form: Form) -> Mapping[str, Any]:
    """What a precision has on the held-out faces; nothing where there are none."""
    if ladder is None:
        return {}
    figures = ladder.rungs[form.precision].compared.figures
    return {"protocol": ladder.protocol, **{k: round(v, 4) for k, v in figures.items()}}


def _images(
    model: onnx.ModelProto, spec: ModelSpec, form: Form, photos: Sequence[Path]
) -> tuple[list[Pixels], list[Pixels]]:
    """Structured images and real ones to compare on, if anything is compared image by image."""
    if not form.compared:
        return [], []
    fixed = fixed_batch(model)
    return _as_taken(structured_batches(spec), fixed), _as_taken(photo_batches(spec, photos), fixed)


def _as_taken(batches: Sequence[Pixels], fixed: int | None) -> list[Pixels]:
    """Images as a network takes them: of its fixed batch, filled up with the first ones again."""
    if fixed is None:
        return list(batches)
    parts = []
    for batch in batches:
        count = -(-len(batch) // fixed)
        filled = np.resize(batch, (count * fixed, *batch.shape[1:]))
        parts += np.split(filled, count)
    return parts


def _like_ours(model: onnx.ModelProto, source: Path) -> onnx.ModelProto:
    """A network in the opset and IR version that a decoder behind it has.

    Raises:
        ModelError: It takes so many images at once only, or cannot be converted.
    """
    batch = fixed_batch(model)
    if batch is not None:
        raise ModelError(
            f"{source} takes {batch} image(s) at once only, for which there is no "
            "--decode graph; leave it out"
        )
    opset = opset_of(model)
    if opset < OPSET:
        try:
            model = onnx.version_converter.convert_version(model, OPSET)
        except (RuntimeError, ValueError) as error:
            raise ModelError(
                f"{source} has opset {opset}, --decode graph needs {OPSET}, and it cannot be "
                f"converted: {error}; leave --decode graph out"
            ) from None
    model.ir_version = IR_VERSION
    return model


def _read(source: Path) -> tuple[onnx.ModelProto, ModelSpec]:
    model, spec = load(source)
    if spec.precision != "fp32":
        raise CheckpointError(
            f"{source} is {spec.precision} already; start from the fp32 file or the checkpoint"
        )
    if spec.decoder == "graph":
        raise CheckpointError(
            f"{source} has its decoder inside, so that what its network finds cannot be compared: "
            "start from the file without, or from the checkpoint"
        )
    return model, spec
