"""Which network a checkpoint is of, read from its tensors' names and shapes alone."""

from __future__ import annotations

import re
from dataclasses import replace

import torch

from facemark_export.networks.architecture import (
    COORDINATE_FAMILIES,
    HRNET,
    KNOWN,
    Architecture,
    build,
)
from facemark_export.networks.coordconv import COORDINATES, SUFFIX
from facemark_export.networks.hourglass import HEATMAP_SIZE
from facemark_export.networks.pipnet import TRUNK_STRIDE
from facemark_export.networks.retinaface import POINTS
from facemark_export.networks.weights import Shapes, differences, shapes_of, some
from facemark_sdk.errors import CheckpointError, ModelError

MAX_LANDMARKS = 100_000
"""More rows than any head has; keeps nonsense away from arithmetic on sizes."""

# A tensor that only this trunk has, most telling first (COMPAT 1.1)
_TRUNKS = (
    ("_conv_stem.weight", "efficientnet_lite0"),
    ("conv.0.weight", "mobilenet_v3_large"),
    ("features.0.0.weight", "mobilenet_v2"),
    ("layer3.6.conv3.weight", "resnet101"),
    ("layer1.0.conv3.weight", "resnet50"),
    ("layer1.0.conv1.weight", "resnet18"),
)
_RESAMPLINGS = (
    ("layer6.weight", 4 * TRUNK_STRIDE),
    ("layer5.weight", 2 * TRUNK_STRIDE),
    ("deconv1.weight", TRUNK_STRIDE // 2),
)
# The convolutions that see the image, of the families that may see coordinates beside it
_STEMS = (
    "conv1.weight",
    "pre_conv.0.conv.weight",
    "trunk._conv_stem.weight",
    "trunk.features.0.0.weight",
    "trunk.conv1.weight",
)
_IMAGE_CHANNELS = 3


def identify(shapes: Shapes) -> Architecture:
    """Find the one known network that has exactly these tensors.

    Nothing is allocated, however large the shapes. Counters of batch norm
    (``num_batches_tracked``) may all be absent, as in files of very old torch.

    Args:
        shapes: Shapes of the checkpoint's tensors by name, without a ``module.`` prefix.

    Raises:
        CheckpointError: No known network has these tensors; says which they are and what the
            nearest network would have.
    """
    candidate = _candidate(shapes)
    if candidate.family in COORDINATE_FAMILIES and _sees_coordinates(shapes):
        candidate = replace(candidate, name=candidate.name + SUFFIX)
    try:
        with torch.device("meta"):
            expected = shapes_of(build(candidate).state_dict())
    except ModelError as error:
        raise CheckpointError(f"no network fits {_described(shapes)}: {error}") from None
    problem = differences(shapes, expected)
    if problem:
        raise CheckpointError(f"looks like {candidate}, but {problem}")
    return candidate


def _candidate(shapes: Shapes) -> Architecture:
    """The only network that these tensors can be of, judged by a few of them."""
    if "cls_layer.weight" in shapes:
        return _pipnet(shapes)
    if "stage4.0.fuse_layers.0.1.0.weight" in shapes:
        return Architecture("hrnet", HRNET, _rows(shapes, "head.3.weight"))
    if "hg0_conv_pred.weight" in shapes:
        return _hih(shapes) if "offset_head.conv1.conv.weight" in shapes else _hourglass(shapes)
    if "refine_head.1.weight" in shapes:
        name = _trunk(shapes, "trunk.")
        return Architecture("cpn", name, _rows(shapes, "refine_head.1.weight"))
    if "heatmap_layer.weight" in shapes:
        return _hih(shapes) if "offset_head.conv1.conv.weight" in shapes else _mapnet(shapes)
    if "regressor.weight" in shapes:
        return _regression(shapes)
    if "ClassHead.0.conv1x1.weight" in shapes:
        name = "resnet50" if "body.layer1.0.conv1.weight" in shapes else "mobilenet0.25"
        return Architecture("retinaface", name, POINTS)
    raise CheckpointError(f"no known network has {_described(shapes)}; known: {KNOWN}")


def _pipnet(shapes: Shapes) -> Architecture:
    landmarks = _rows(shapes, "cls_layer.weight")
    rows = _rows(shapes, "nb_x_layer.weight")
    if rows % landmarks:
        raise CheckpointError(
            f"nb_x_layer.weight has {rows} rows, which is no multiple of the {landmarks} landmarks "
            "that cls_layer.weight has; a PIPNet has one row for each neighbour of each landmark"
        )
    name = _trunk(shapes)
    stride = next((stride for key, stride in _RESAMPLINGS if key in shapes), TRUNK_STRIDE)
    return Architecture("pipnet", name, landmarks, neighbours=rows // landmarks, stride=stride)


def _mapnet(shapes: Shapes) -> Architecture:
    stride = TRUNK_STRIDE >> _numbered(shapes, r"upsampling\.(\d+)\.0\.weight")
    landmarks = _rows(shapes, "heatmap_layer.weight")
    return Architecture("mapnet", _trunk(shapes, "trunk."), landmarks, stride=stride)


def _regression(shapes: Shapes) -> Architecture:
    family = "coordnet" if "hidden.0.weight" in shapes else "regression"
    coordinates = shapes["regressor.weight"][0] if shapes["regressor.weight"] else 0
    if coordinates % 2 or not 2 <= coordinates <= 2 * MAX_LANDMARKS:
        raise CheckpointError(
            f"regressor.weight has {coordinates} rows; wanted are two for each landmark"
        )
    return Architecture(family, _trunk(shapes, "trunk."), coordinates // 2)


def _trunk(shapes: Shapes, prefix: str = "") -> str:
    """The trunk whose tensors are among these, under a prefix."""
    name = next((name for key, name in _TRUNKS if prefix + key in shapes), None)
    if name is None:
        raise CheckpointError(
            f"a landmark network's heads on an unknown trunk: {_described(shapes)}; known: {KNOWN}"
        )
    return name


def _hih(shapes: Shapes) -> Architecture:
    stacks = _numbered(shapes, r"hg(\d+)_conv_pred\.weight")
    halvings = 1 + _numbered(shapes, r"offset_head\.down_ops\.(\d+)\..*")  # the pool halves too
    # the offset values' layer, and the offset maps' head without halvings
    family = "wov" if "offset_head.head.3.weight" in shapes else "hih" if halvings > 1 else "wom"
    return Architecture(
        family,
        f"hourglass{stacks}" if stacks else _trunk(shapes, "trunk."),
        _rows(shapes, "hg0_conv_pred.weight" if stacks else "heatmap_layer.weight"),
        stacks=stacks,
        offset_size=0 if family == "wom" else HEATMAP_SIZE >> halvings,
    )


def _hourglass(shapes: Shapes) -> Architecture:
    stacks = _numbered(shapes, r"hg(\d+)_conv_pred\.weight")
    block = "_hierarchical" if "pre_conv.1.first.conv.weight" in shapes else ""
    return Architecture(
        "hourglass", f"hourglass{stacks}{block}", _rows(shapes, "hg0_conv_pred.weight")
    )


def _sees_coordinates(shapes: Shapes) -> bool:
    """Whether a stem has weights for coordinates beside those for the image."""
    stems = (shapes[name] for name in _STEMS if name in shapes)
    return any(len(stem) == 4 and stem[1] == _IMAGE_CHANNELS + COORDINATES for stem in stems)


def _numbered(shapes: Shapes, pattern: str) -> int:
    """How many different numbers names of this pattern have."""
    matches = (re.fullmatch(pattern, name) for name in shapes)
    return len({found[1] for found in matches if found})


def _rows(shapes: Shapes, name: str) -> int:
    """Output channels of a convolution."""
    shape = shapes.get(name)
    if shape is None or len(shape) != 4 or not 1 <= shape[0] <= MAX_LANDMARKS:
        given = "is missing" if shape is None else f"has shape {tuple(shape)}"
        raise CheckpointError(
            f"{name} {given}; wanted are the (rows, channels, 1, 1) weights of a convolution"
        )
    return shape[0]


def _described(shapes: Shapes) -> str:
    tensors = some(f"{name} {tuple(shape)}" for name, shape in shapes.items())
    return f"these {len(shapes)} tensors ({tensors})" if shapes else "no tensors at all"
