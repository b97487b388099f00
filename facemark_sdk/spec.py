"""`ModelSpec`: everything a model file says about itself.

It is stored as JSON under the key ``facemark`` of the ONNX file's metadata, so that one file
needs no flags. Nothing at run time is guessed from node names or shapes.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from facemark_sdk.errors import ModelError

METADATA_KEY = "facemark"
SCHEMA_VERSION = 1

_MOST_GROWTH = 10.0
"""Box sides that a crop may grow on one side: no network looks at a face from so far."""

Task = Literal["landmarks", "detection"]
Channels = Literal["BGR", "RGB"]
Precision = Literal["fp32", "fp16", "int8"]
CropSource = Literal["facemark", "pipnet-demo", "hrnet"]


@dataclass(frozen=True, slots=True)
class InputSpec:
    """The network's image input: always uint8 BGR (N, H, W, 3); the graph normalises it itself.

    Attributes:
        width: Pixels; 0 when a detector's graph takes any multiple of its stride.
        height: Pixels; 0 likewise.
        channels: The order in which the network was trained; the graph reorders from BGR.
        mean: Per channel in that order, in units of the 0..255 image.
        std: Likewise.
    """

    width: int
    height: int
    channels: Channels
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class CropRule:
    """How a detector's box becomes the network's crop.

    The box x1 y1 x2 y2 grows on each side by a fraction of its own width (left, right) or
    height (top, bottom); a negative fraction cuts. With `square` the longer side then counts
    for both, about the same centre. The crop is one affine map of the image, black outside of it;
    a crop that lies in the image begins and ends at whole pixels. Some sources say otherwise.

    Attributes:
        left: Growth on the left, a fraction of the box's width.
        top: Growth at the top, a fraction of the box's height.
        right: As `left`.
        bottom: As `top`.
        square: The longer grown side counts for both.
        source: Whose arithmetic cuts the crop, with its truncations: ``facemark`` (none),
            ``pipnet-demo`` (COMPAT 1.2, never square), ``hrnet`` (COMPAT 2.2, always square and
            centred).
        stretch: For ``hrnet``: the crop's contrast is stretched to 0..255, as its authors' SciPy
            did in training and in their published figures.
        integer: For ``hrnet``: points in the image are the published code's whole pixels, which
            count from 1 (COMPAT 2.3), instead of sub-pixel ones that count from 0.
    """

    left: float
    top: float
    right: float
    bottom: float
    square: bool
    source: CropSource = "facemark"
    stretch: bool = False
    integer: bool = False


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What a model is, how it is fed and how its outputs are read.

    Attributes:
        name: Short name, also the folder's name for a bundled model.
        task: ``landmarks`` or ``detection``.
        family: The method: ``pipnet``, ``retinaface``, ...
        architecture: The network in words of the field: ``efficientnet_lite0``, ``resnet18``, ...
        decoder: Registered name of the function that turns outputs into points or boxes.
        decoder_params: What that decoder needs (stride, neighbours, det_size, ...), JSON values.
        layout: Landmark layout; ``kps5`` for detectors with five points.
        input: The image input.
        crop: The crop rule for detector boxes; None for detectors.
        precision: Of weights and arithmetic.
        producer: Program and version that wrote the file, and the ONNX version it wrote.
        source_sha256: Of the checkpoint the file was made from.
        training_data: The sets it was trained on and their terms.
        licence: Of the weights.
        accuracy: Measured figures with their protocol, free-form.
        schema: Version of this record.
    """

    name: str
    task: Task
    family: str
    architecture: str
    decoder: str
    decoder_params: Mapping[str, Any]
    layout: str
    input: InputSpec
    crop: CropRule | None
    precision: Precision
    producer: str
    source_sha256: str
    training_data: str
    licence: str
    accuracy: Mapping[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA_VERSION

    def to_json(self) -> str:
        """The record as one line of JSON."""
        return json.dumps(dataclasses.asdict(self), separators=(",", ":"), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ModelSpec:
        """Read `to_json`'s output back.

        Raises:
            ModelError: Not JSON, of a newer schema, or fields are missing or of a wrong kind.
        """
        try:
            record = json.loads(text, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise ModelError(f"the model's spec is not valid JSON: {error}") from None
        if not isinstance(record, dict):
            raise ModelError("the model's spec is not a JSON object")
        schema = record.get("schema")
        if schema != SCHEMA_VERSION:
            raise ModelError(
                f"the model's spec has schema {schema!r}, this facemark reads {SCHEMA_VERSION}; "
                "update facemark-sdk or export the model again"
            )
        try:
            crop = record["crop"]
            spec = cls(
                **{
                    **record,
                    "input": _input_spec(record["input"]),
                    "crop": None if crop is None else CropRule(**crop),
                }
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(
                f"the model's spec is incomplete or has unknown fields: {error}"
            ) from None
        try:
            _check_values(spec)
        except (TypeError, ValueError) as error:
            raise ModelError(f"the model's spec has an unusable value: {error}") from None
        if spec.task == "landmarks" and spec.crop is None:
            raise ModelError("the model's spec is for landmarks but has no crop rule")
        return spec


def _check_values(spec: ModelSpec) -> None:
    """Raise ValueError or TypeError where a value is of no use, whatever the decoder."""
    for name, value, known in (
        ("task", spec.task, get_args(Task)),
        ("precision", spec.precision, get_args(Precision)),
        ("input.channels", spec.input.channels, get_args(Channels)),
    ):
        if value not in known:
            raise ValueError(f"{name} is {value!r}, known: {', '.join(known)}")
    for name in ("name", "family", "architecture", "decoder", "layout"):
        if not isinstance(getattr(spec, name), str):
            raise TypeError(f"{name} must be a text")
    if not isinstance(spec.decoder_params, dict) or not isinstance(spec.accuracy, dict):
        raise TypeError("decoder_params and accuracy must be objects")
    for side in (spec.input.width, spec.input.height):
        if type(side) is not int or side < 0:
            raise ValueError(f"input width and height must be whole pixels, got {side!r}")
    if not all(math.isfinite(number) for number in (*spec.input.mean, *spec.input.std)):
        raise ValueError("mean and std must be finite numbers")
    if spec.crop is not None:
        _check_crop(spec.crop)


def _check_crop(crop: CropRule) -> None:
    """Raise ValueError or TypeError for a rule that cuts nothing or that its source has not."""
    growth = (crop.left, crop.top, crop.right, crop.bottom)
    if any(isinstance(side, bool) or not isinstance(side, (int, float)) for side in growth):
        raise TypeError("crop.left, top, right and bottom must be numbers")
    if not all(abs(side) <= _MOST_GROWTH for side in growth):  # NaN fails too
        raise ValueError(f"crop.left, top, right and bottom must be within {_MOST_GROWTH}")
    if min(crop.left + crop.right, crop.top + crop.bottom) <= -1:
        raise ValueError("crop cuts away the whole box")
    for name in ("square", "stretch", "integer"):
        if not isinstance(getattr(crop, name), bool):
            raise TypeError(f"crop.{name} must be true or false")
    if crop.source not in get_args(CropSource):
        raise ValueError(
            f"crop.source is {crop.source!r}, known: {', '.join(get_args(CropSource))}"
        )
    if crop.source != "hrnet" and (crop.stretch or crop.integer):
        raise ValueError("crop.stretch and crop.integer are for crop.source 'hrnet'")
    if crop.source == "hrnet" and (len(set(growth)) > 1 or not crop.square):
        raise ValueError("crop.source 'hrnet' is square and grows alike on all sides")
    if crop.source == "pipnet-demo" and crop.square:
        raise ValueError("crop.source 'pipnet-demo' is not square")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _input_spec(record: Mapping[str, Any]) -> InputSpec:
    mean, std = (tuple(float(v) for v in record[key]) for key in ("mean", "std"))
    if len(mean) != 3 or len(std) != 3:
        raise ValueError("mean and std need three numbers each")
    return InputSpec(**{**record, "mean": mean, "std": std})
