"""What a checkpoint is: the network it holds and the spec its file shall carry."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from facemark_export import checkpoint, torch_file
from facemark_export.asked import layout_of, pip_params
from facemark_export.networks.architecture import Architecture, build_network
from facemark_export.networks.coordconv import plain_name
from facemark_export.networks.identify import identify
from facemark_export.networks.normalise import IMAGENET_MEAN, IMAGENET_STD
from facemark_export.networks.pipnet import ARCHITECTURES, TRUNK_STRIDE
from facemark_export.networks.stages import CELL_MIDDLE, HEATMAP_STRIDE
from facemark_export.networks.weights import load_weights, shapes_of
from facemark_export.onnx_file import IR_VERSION, OPSET
from facemark_sdk import __version__
from facemark_sdk.crop import CROP_RULES
from facemark_sdk.decode import DECODERS
from facemark_sdk.decode.barycentre import covariance_scale_param
from facemark_sdk.detect import retinaface
from facemark_sdk.errors import CheckpointError, ModelError
from facemark_sdk.files import sha256_of
from facemark_sdk.spec import CropRule, InputSpec, ModelSpec

PUBLISHED_SIZE = 256
"""Side of every published landmark network's input (COMPAT 1.2, 2.2, 3.2)."""
PUBLISHED_DET_SIZE = 640
"""RetinaFace's authors feed the whole image (COMPAT 5.2); this keeps its cost bounded."""
PUBLISHED_SCORE = 0.5
HRNET_ORIGIN = 0.75
"""Cells that HRNet's decoding adds: half a cell, and a pixel as it counts from 1 (COMPAT 2.3)."""
_FLOORED = ("hih", "offset_map", "offset_value")
"""Decoders of maps whose cells are floors, to which others add a cell's middle (COMPAT 3.3)."""
_SPREADING = ("barycentre", "barycentre_sum")
"""Decoders that give covariances."""
UNKNOWN = "unknown: the checkpoint does not say; ask who published it"


@dataclass(frozen=True)
class Choices:
    """What the checkpoint leaves open, or what shall be other than it says.

    Attributes:
        name: The model's name in its spec.
        meanface: PIPNet's mean face, for checkpoints that do not carry a neighbour table.
        layout: The landmarks' layout.
        arch: The architecture that the checkpoint must be of.
        size: Side of the landmark network's input in pixels.
        decoder: Another decoder for a heatmap network.
        crop: The crop rule for detector boxes.
        covariance_scale: For barycentres, what their covariances are multiplied by
            (`benchmarks/covariance_calibration.py` fits it).
        score_midpoint: For detectors, the network's own score that shall read 0.5.
        det_size: For detectors, the longest side of the image as the network sees it.
        score_threshold: For detectors, the score under which faces are left out by default.
        accuracy: Measured figures for the spec.
        licence: Of the weights.
        training_data: What they were trained on.
    """

    name: str | None = None
    meanface: Path | None = None
    layout: str | None = None
    arch: str | None = None
    size: int | None = None
    decoder: str | None = None
    crop: CropRule | None = None
    covariance_scale: float | None = None
    score_midpoint: float | None = None
    det_size: int | None = None
    score_threshold: float | None = None
    accuracy: Mapping[str, Any] = field(default_factory=dict)
    licence: str | None = None
    training_data: str | None = None


def read_source(ckpt: Path, choices: Choices) -> tuple[nn.Module, ModelSpec]:
    """The network with its weights, in evaluation mode, and the spec of its file.

    Reads what `facemark-train` wrote and what the authors of PIPNet, HRNet, HIH and RetinaFace
    published (COMPAT 1.1, 2.1, 3.1, 5.2). Nothing in the file is run.

    Raises:
        CheckpointError: The file cannot be read, is none of these, or leaves open what `choices`
            do not say.
        ModelError: A choice is out of range or for another kind of model.
        LayoutError: The layout is unknown.
    """
    if checkpoint.is_ours(ckpt):
        stored = checkpoint.read(ckpt)
        weights, spec = stored.weights, stored.spec
        _refuse_settled(choices)
    else:
        weights = torch_file.read_weights(ckpt)
        try:
            spec = published_spec(identify(shapes_of(weights)), choices)
        except CheckpointError as error:
            raise CheckpointError(f"{ckpt}: {error}") from None
    if choices.arch not in (None, spec.architecture):
        raise CheckpointError(f"{ckpt} holds {spec.architecture}, --arch says {choices.arch}")
    network = build_network(spec)
    try:
        load_weights(network, weights)
    except CheckpointError as error:
        raise CheckpointError(f"{ckpt} does not fit its own spec: {error}") from None
    sha256 = sha256_of(ckpt)
    return network.eval(), dataclasses.replace(_chosen(spec, choices), source_sha256=sha256)


def published_spec(architecture: Architecture, choices: Choices) -> ModelSpec:
    """The spec of a published checkpoint, by COMPAT's conventions for its family.

    Raises:
        CheckpointError: The checkpoint leaves open what `choices` do not say.
        ModelError: `choices` name an input size that the network cannot take.
    """
    published = _CONVENTIONS.get(architecture.family)
    on_trunk = architecture.family == "hih" and not architecture.stacks
    if published is None or on_trunk or plain_name(architecture.name) != architecture.name:
        raise CheckpointError(
            f"these are the tensors of {architecture}, which nobody but facemark-train makes: pass "
            "the best.safetensors that it wrote, which states the network's crop and decoder"
        )
    detects = architecture.family == "retinaface"
    layout = "kps5" if detects else layout_of(architecture.landmarks, choices.layout)
    spec = ModelSpec(
        name=f"{architecture.family}_{architecture.name}" + ("" if detects else f"_{layout}"),
        task="detection" if detects else "landmarks",
        family=architecture.family,
        architecture=architecture.name,
        layout=layout,
        precision="fp32",
        producer="",
        source_sha256="",
        training_data=UNKNOWN,
        licence=UNKNOWN,
        **published(architecture, choices),
    )
    if choices.meanface is not None and spec.family != "pipnet":
        raise CheckpointError(f"--meanface is for PIPNet checkpoints, this one is {spec.family}")
    return spec


def _pipnet(architecture: Architecture, choices: Choices) -> dict[str, Any]:
    network = ARCHITECTURES[architecture.name]
    return {
        "decoder": "pip",
        "decoder_params": pip_params(
            choices.meanface, architecture.landmarks, architecture.neighbours, architecture.stride
        ),
        "input": _input(
            choices,
            # a finer grid is made from the trunk's, which must be whole as well
            max(architecture.stride, TRUNK_STRIDE),
            tuple(network.input_mean),
            tuple(network.input_std),
        ),
        "crop": CROP_RULES["pipnet-demo"],
    }


def _hrnet(architecture: Architecture, choices: Choices) -> dict[str, Any]:
    return {
        "decoder": "quarter_shift",
        "decoder_params": {"stride": HEATMAP_STRIDE, "origin": HRNET_ORIGIN},
        "input": _input(choices, 32, IMAGENET_MEAN, IMAGENET_STD),
        "crop": CROP_RULES["hrnet"],
    }


def _hih(architecture: Architecture, choices: Choices) -> dict[str, Any]:
    if choices.size not in (None, PUBLISHED_SIZE):
        raise ModelError(f"HIH's input is {PUBLISHED_SIZE} pixels, --size says {choices.size}")
    return {
        "decoder": "hih",
        "decoder_params": {"stride": HEATMAP_STRIDE, "offset_size": architecture.offset_size},
        "input": _input(choices, HEATMAP_STRIDE, IMAGENET_MEAN, IMAGENET_STD),
        "crop": CROP_RULES["hih"],
    }


def _retinaface(architecture: Architecture, choices: Choices) -> dict[str, Any]:
    for option in ("layout", "size"):
        if getattr(choices, option) is not None:
            raise ModelError(f"--{option} is for landmark models, this is a detector")
    return {
        "decoder": "retinaface",
        "decoder_params": {
            "stride": retinaface.STRIDES[-1],
            "det_size": PUBLISHED_DET_SIZE,
            "nms_threshold": retinaface.NMS_THRESHOLD,
            "score_threshold": PUBLISHED_SCORE,
        },
        "input": InputSpec(0, 0, "BGR", retinaface.MEAN_BGR, (1.0, 1.0, 1.0)),
        "crop": None,
    }


_CONVENTIONS = {"pipnet": _pipnet, "hrnet": _hrnet, "hih": _hih, "retinaface": _retinaface}


def _input(
    choices: Choices, multiple: int, mean: tuple[float, ...], std: tuple[float, ...]
) -> InputSpec:
    size = PUBLISHED_SIZE if choices.size is None else choices.size
    if size < multiple or size % multiple:
        raise ModelError(f"--size must be a multiple of {multiple} for this network, got {size}")
    return InputSpec(size, size, "RGB", mean, std)  # type: ignore[arg-type]


def _refuse_settled(choices: Choices) -> None:
    """Refuse choices about what a checkpoint of ours says itself."""
    for option in ("meanface", "layout", "size"):
        if getattr(choices, option) is not None:
            raise CheckpointError(
                f"--{option} is for other projects' checkpoints; this one, written by "
                "facemark-train, says it itself"
            )


def _chosen(spec: ModelSpec, choices: Choices) -> ModelSpec:
    """The spec with what was chosen in it."""
    params = dict(spec.decoder_params)
    decoder = choices.decoder or spec.decoder
    if decoder != spec.decoder:
        _check_decoder(spec, decoder)
        if spec.decoder in _FLOORED:
            params["origin"] = CELL_MIDDLE
        # tau of a window and the temperature of a softmax are not the same thing
        if (decoder in _SPREADING) != (spec.decoder in _SPREADING):
            params.pop("temperature", None)
    if choices.covariance_scale is not None:
        if decoder not in _SPREADING:
            raise ModelError(
                f"covariance_scale is for decoder {' or '.join(_SPREADING)}, not {decoder}"
            )
        params["covariance_scale"] = choices.covariance_scale
    if choices.crop is not None and spec.task == "detection":
        raise ModelError("--crop is for landmark models, this is a detector")
    for option, usable, wanted in (
        ("score_midpoint", lambda value: 0 < value < 1, "a number between 0 and 1"),
        ("score_threshold", lambda value: 0 <= value <= 1, "a number from 0 to 1"),
        ("det_size", lambda value: value >= 1, "a whole number above 0"),
    ):
        value = getattr(choices, option)
        if value is None:
            continue
        if spec.task != "detection" or not usable(value):
            raise ModelError(f"{option} is for detectors, {wanted}; got {value}")
        params[option] = value
    chosen = dataclasses.replace(
        spec,
        name=choices.name or spec.name,
        decoder=decoder,
        decoder_params=params,
        crop=choices.crop or spec.crop,
        accuracy=dict(choices.accuracy),
        licence=choices.licence or spec.licence,
        training_data=choices.training_data or spec.training_data,
        producer=f"facemark-export {__version__}, ONNX opset {OPSET}, IR {IR_VERSION}",
    )
    if choices.covariance_scale is not None:
        covariance_scale_param(chosen)
    return chosen


def _check_decoder(spec: ModelSpec, decoder: str) -> None:
    there = set(DECODERS[spec.decoder].outputs) if spec.task == "landmarks" else set()
    usable = sorted(n for n, kind in DECODERS.items() if there >= set(kind.outputs))
    if decoder not in usable:
        raise ModelError(
            f"decoder {decoder!r} cannot read the outputs of {spec.family}; "
            f"it can be read with: {', '.join(usable) or spec.decoder}"
        )
