"""From a proven ONNX file to a proven TensorRT engine for this machine's GPU."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from facemark_export.parity import (
    TOLERANCES,
    Differences,
    ParityError,
    ParityReport,
    Pixels,
    Tolerance,
    check_parity,
)
from facemark_export.samples import photo_batches, structured_batches
from facemark_sdk.backends import Backend, TensorInfo, create_backend, describe_file
from facemark_sdk.backends.cuda import open_cuda
from facemark_sdk.backends.tensorrt.api import import_tensorrt
from facemark_sdk.backends.tensorrt.build import build_engine
from facemark_sdk.backends.tensorrt.engine_file import write_engine
from facemark_sdk.backends.tensorrt.profile import SIDE_STEP, Profile, Range, default_profile
from facemark_sdk.detect.face_detector import DECODERS
from facemark_sdk.errors import ModelError
from facemark_sdk.files import replace_file
from facemark_sdk.models import read_spec
from facemark_sdk.spec import ModelSpec, Precision

ENGINE_TOLERANCES: dict[Precision, Tolerance] = {
    "fp32": TOLERANCES["fp32"],
    "fp16": TOLERANCES["fp16"],
    # Both sides hold the same eight bits; a value halfway between two may be rounded either way,
    # and such steps add up from layer to layer. Eight bits leave more cells as good as equal
    # than fp32 does, which may have a tenth: 16 % of the points of pipnet_lite0_68_int8 are ties on
    # our structured images between ONNX Runtime with and without its optimisations. Where over a
    # quarter jump, it is no rounding.
    "int8": Tolerance(px=1.0, score=0.05, rounding=5e-2, ties=0.25),
}
"""What an engine may differ by from the ONNX file of its precision."""

GRAPH_TIES = 0.10
"""Share of the points that may be ties where the decoder is in the graph: the outputs then do not
show whether two cells were as good as equal. It is fp32's own share."""


def require_tensorrt() -> None:
    """See that an engine can be built here, before hours are spent on what comes first.

    Raises:
        BackendError: TensorRT, CUDA's Python library, the driver or the GPU is missing.
    """
    import_tensorrt()
    open_cuda()


def engine_path(onnx: Path) -> Path:
    """Where the engine of an ONNX file goes: beside it."""
    return onnx.with_suffix(".engine")


def export_engine(
    onnx: Path,
    *,
    batch: Range | None = None,
    sides: Range | None = None,
    photos: Sequence[Path] = (),
    progress: Callable[[str], None] = lambda stage: None,
) -> ParityReport:
    """Build the engine of an exported ONNX file and prove that it computes the same.

    ``OUT.engine`` and ``OUT.engine.report.json`` are written beside ``OUT.onnx``.

    Args:
        onnx: What `export_checkpoint` wrote.
        batch: Least, tuned and largest batch; None for `default_profile`'s.
        sides: Least, tuned and largest height and width, for a detector; None likewise.
        photos: Real images for the parity check.
        progress: Told what is being done.

    Raises:
        ModelError: The file is damaged or without a spec, always takes another batch, or is a
            detector whose quick look is smaller than the least side.
        BackendError: Something that it takes is missing, or TensorRT cannot build it.
        ParityError: Out of tolerance; nothing is written then.
    """
    described = describe_file(onnx)
    spec = read_spec(described, onnx)
    default = default_profile(spec).for_input(described.inputs[0])
    profile = Profile(batch or default.batch, sides or default.sides)
    _check_profile(profile, spec, described.inputs[0])
    progress("building the engine")
    record, plan = build_engine(onnx, profile)
    reports: list[ParityReport] = []
    out = engine_path(onnx)

    def write(temporary: Path) -> None:
        write_engine(temporary, record, plan)
        progress("comparing the engine with the ONNX file")
        images = structured_batches(spec) + photo_batches(spec, photos)
        batches = [_within(profile.sides, batch) for batch in images]
        engine = create_backend("tensorrt", temporary)
        report = compare(spec, batches, create_backend("cpu", onnx), engine)
        if not report.passed:
            raise ParityError(f"the engine and {onnx} {report.in_words()}; {out} is not written")
        reports.append(report)

    replace_file(out, write)
    record_json = {
        "model": out.name,
        "onnx": onnx.name,
        **dataclasses.asdict(record.built),
        **profile.to_dict(),
        **reports[0].to_dict(),
    }
    text = json.dumps(record_json, indent=2) + "\n"
    replace_file(out.with_name(f"{out.name}.report.json"), lambda t: t.write_text(text))
    return reports[0]


def _check_profile(profile: Profile, spec: ModelSpec, image: TensorInfo) -> None:
    fixed = profile.for_input(image).batch
    if profile.batch != fixed:
        raise ModelError(
            f"input {image.name!r} always takes {fixed[0]} images at once; leave out --engine-batch"
        )
    if spec.task != "detection" or profile.sides is None:
        return
    decoder = DECODERS[spec.decoder](spec, spec.decoder_params["nms_threshold"])
    if decoder.quick_size is None:
        return
    canvas = -(-decoder.quick_size // SIDE_STEP) * SIDE_STEP
    if profile.sides[0] > canvas:
        raise ModelError(
            f"--engine-sides must begin at {canvas} or less, got {profile.sides[0]}: by default "
            f"model {spec.name!r} looks at images of {canvas} pixels first, which such an engine "
            "would refuse"
        )


def _within(sides: Range | None, batch: Pixels) -> Pixels:
    """Images cut, or mirrored on, to sides that an engine takes, in whole strides."""
    if sides is None:
        return batch
    least = -(-sides[0] // SIDE_STEP) * SIDE_STEP
    most = max(least, sides[2] // SIDE_STEP * SIDE_STEP)
    more = [(0, max(0, least - side)) for side in batch.shape[1:3]]
    return np.pad(batch, ((0, 0), *more, (0, 0)), mode="symmetric")[:, :most, :most]


def compare(
    spec: ModelSpec, batches: Sequence[Pixels], source: Backend, engine: Backend
) -> ParityReport:
    """Run both on the same images and compare their points and scores.

    Args:
        spec: Both's.
        batches: (N, H, W, 3) each.
        source: The ONNX file.
        engine: What was built from it.
    """
    tolerance = ENGINE_TOLERANCES[spec.precision]
    reference = [source.run({"image": batch}) for batch in batches]
    if spec.decoder != "graph":
        return check_parity(spec, batches, reference, engine, tolerance)
    differences = Differences(dataclasses.replace(tolerance, ties=GRAPH_TIES))
    changes = []
    for batch, ours in zip(batches, reference, strict=True):
        theirs = engine.run({"image": batch})
        decoded = [(outputs["points"], outputs["scores"]) for outputs in (ours, theirs)]
        differences.add(decoded[0], decoded[1], np.ones(len(batch), np.bool_))
        changes.append(np.abs(ours["scores"] - theirs["scores"]).max())
    # Ties have the same score, whichever cell wins: none of these is left out.
    return dataclasses.replace(
        differences.report(), largest_score_difference=float(np.max(changes))
    )
