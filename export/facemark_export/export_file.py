"""int8 from a float ONNX file of ours, whose checkpoint need not be there."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import onnx
import onnx.version_converter

from facemark_export.decoder_inside import check_decode, put_decoder_inside
from facemark_export.narrow_heads import check_neck
from facemark_export.nodes import opset_of
from facemark_export.onnx_file import IR_VERSION, OPSET, load, save
from facemark_export.parity import ParityError
from facemark_export.precision import Ladder, fixed_batch, to_int8
from facemark_export.precision_data import read_samples
from facemark_export.quantise_amx import require_amx
from facemark_export.samples import structured_batches
from facemark_sdk import __version__
from facemark_sdk.errors import CheckpointError, ModelError
from facemark_sdk.files import replace_file
from facemark_sdk.spec import ModelSpec

_BATCH, _BATCHES = 8, 8
"""Faces at once, and how often, on which a decoder in the graph is compared with numpy's."""


def quantise_file(
    source: Path,
    out: Path,
    calibration: Sequence[Path],
    *,
    name: str | None = None,
    accuracy: Mapping[str, Any] | None = None,
    max_loss: float | None = None,
    neck: int | None = None,
    amx: bool = False,
    decode: Literal["numpy", "graph"] = "numpy",
    progress: Callable[[str], None] = lambda stage: None,
) -> Ladder:
    """Write a float file of ours anew in int8, and a report beside it.

    Its spec is kept but for the precision, the SHA-256 of what it was made from, and the accuracy,
    which is what int8 has on the held-out faces, unless it is given.

    Args:
        source: An fp32 file with a facemark spec.
        out: The int8 file; ``OUT.report.json`` is written beside it.
        calibration: Folders of photos, see `read_samples`.
        name: The model's name in its spec; the source's when None.
        accuracy: Measured figures for the spec.
        max_loss: What int8 may lose; None for `precision.MAX_LOSS`.
        neck: Channels that a PIPNet's heads shall take, see `narrow_heads`; None leaves them.
        amx: Store convolutions for AMX where that is faster on this machine, see `quantise_amx`.
        decode: Where a landmark model's decoder runs: in numpy, or inside the graph.
        progress: Told what is being done.

    Raises:
        CheckpointError: The source cannot be read, has no spec, is not fp32, has its decoder
            inside, or would be overwritten.
        ModelError: The spec cannot be read, the graph's opset is too old, or `neck` or `decode` is
            for other networks.
        BackendError: `amx` is asked for on a CPU without it.
        DataError: The photos or their annotations cannot be used.
        ParityError: The decoder in the graph gives other points; nothing is written then.
        PrecisionError: int8 loses more than is allowed; nothing is written then.
    """
    model, spec = _read(source)
    if out.exists() and out.samefile(source):
        raise CheckpointError(f"{out} is the source itself; choose another file to write")
    check_neck(neck, spec)
    check_decode(decode, spec)
    if decode == "graph":
        model = _like_ours(model, source)
    if amx:
        require_amx()
    progress("reading the photos")
    samples = read_samples(calibration, spec)
    quantised, ladder = to_int8(
        model, spec, samples, max_loss, symmetric=False, neck=neck, amx=amx, progress=progress
    )
    if accuracy is None:
        figures = {k: round(v, 4) for k, v in ladder.rungs["int8"].compared.figures.items()}
        accuracy = {"protocol": ladder.protocol, **figures}
    opset = opset_of(quantised)
    written = dataclasses.replace(
        spec,
        name=name or spec.name,
        precision="int8",
        producer=f"facemark-export {__version__}, ONNX opset {opset}, IR {quantised.ir_version}",
        source_sha256=hashlib.sha256(source.read_bytes()).hexdigest(),
        accuracy=dict(accuracy),
    )
    record = {"model": out.name, "source": source.name, "ladder": ladder.to_dict()}

    def write(temporary: Path) -> None:
        save(quantised, written, temporary)
        if decode == "graph":
            progress("putting the decoder into the graph and comparing it with numpy's")
            images = islice(samples.validation.batches(_BATCH, rest=True), _BATCHES)
            batches = [*structured_batches(spec), *images]
            check = put_decoder_inside(quantised, written, batches, temporary)
            if not check.passed:
                raise ParityError(
                    f"decoder: numpy's and the file's {check.in_words()}; {out} is not written"
                )
            record["decoder"] = check.to_dict()

    out.parent.mkdir(parents=True, exist_ok=True)
    replace_file(out, write)
    text = json.dumps(record, indent=2) + "\n"
    replace_file(out.with_name(f"{out.name}.report.json"), lambda t: t.write_text(text))
    return ladder


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
            f"{source} is {spec.precision} already; make int8 from the fp32 file or the checkpoint"
        )
    if spec.decoder == "graph":
        raise CheckpointError(
            f"{source} has its decoder inside, so that what its network finds cannot be compared: "
            "export the checkpoint with --precision int8 --decode graph"
        )
    return model, spec
