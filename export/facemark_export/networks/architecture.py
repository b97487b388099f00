"""`Architecture`: which network, in as few numbers as build it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from facemark_export.networks.coordconv import SUFFIX, add_coordinates, plain_name
from facemark_export.networks.corrected import CorrectedNetwork
from facemark_export.networks.cpn import CPN_TRUNKS, build_cpn
from facemark_export.networks.hih_trunk import (
    OFFSET_HEADS,
    build_with_offsets,
    published_size,
    stacks_of,
)
from facemark_export.networks.hrnet import HighResolutionNet
from facemark_export.networks.mapnet import build_mapnet
from facemark_export.networks.pipnet import ARCHITECTURES, build_pipnet
from facemark_export.networks.regression import HIDDEN, build_regression
from facemark_export.networks.retinaface import POINTS, TRUNKS, RetinaFace
from facemark_export.networks.stacked_hourglass import build_hourglass
from facemark_sdk.errors import ModelError
from facemark_sdk.layouts import get_layout
from facemark_sdk.spec import ModelSpec

HRNET = "hrnetv2_w18"
COORDINATE_FAMILIES = ("hrnet", "mapnet", "hourglass", "cpn")
"""Families that give maps alone. Their convolutions may see coordinates; the name then ends in
`SUFFIX`."""
KNOWN = (
    f"pipnet ({', '.join(ARCHITECTURES)}), hrnet ({HRNET}), "
    f"{', '.join(OFFSET_HEADS)} (hourglass1, hourglass2, ..., or as pipnet), "
    f"retinaface ({', '.join(TRUNKS)}), {' and '.join(HIDDEN)} and mapnet (as pipnet), "
    "hourglass (hourglass1, ..., hourglass1_hierarchical, ...), "
    f"cpn ({', '.join(CPN_TRUNKS)}); {', '.join(COORDINATE_FAMILIES)} also with {SUFFIX}"
)
"""Families and their architectures, for messages."""
# What specs of our first detectors call a trunk.
_OLD_NAMES = {"mobilenet025": "mobilenet0.25"}


@dataclass(frozen=True, slots=True)
class Architecture:
    """A network without its weights; numbers that the family does not have are 0.

    Attributes:
        family: ``pipnet``, ``hrnet``, ``hih``, ``retinaface``, ``regression``,
            ``coordnet``, ``mapnet``, ``hourglass``, ``cpn``, ``wov`` or ``wom``.
        name: The architecture within the family: ``resnet18``, ``hrnetv2_w18``, ``hourglass4``,
            ``hourglass2_hierarchical``, ``resnet50_coordconv``.
        landmarks: L; 5 for detectors.
        neighbours: PIPNet's C.
        stride: PIPNet's and MapNet's pixels a cell.
        stacks: HIH's hourglasses; 0 where its heads stand on a trunk.
        offset_size: Side of HIH's offset maps at an input of 256 pixels.
    """

    family: str
    name: str
    landmarks: int
    neighbours: int = 0
    stride: int = 0
    stacks: int = 0
    offset_size: int = 0

    def __str__(self) -> str:
        """For messages, such as ``pipnet resnet18 (landmarks 98, neighbours 10, stride 32)``."""
        numbers = ("landmarks", "neighbours", "stride", "stacks", "offset_size")
        stated = [f"{name} {getattr(self, name)}" for name in numbers if getattr(self, name)]
        return f"{self.family} {self.name} ({', '.join(stated)})"


def build(architecture: Architecture) -> nn.Module:
    """The network with fresh weights.

    Raises:
        ModelError: The family or architecture is unknown, or a number is out of range.
    """
    plain = replace(architecture, name=plain_name(architecture.name))
    if plain == architecture or architecture.family not in COORDINATE_FAMILIES:
        return _without_coordinates(architecture)
    return add_coordinates(_without_coordinates(plain))


def _without_coordinates(a: Architecture) -> nn.Module:
    if a.family == "pipnet":
        return build_pipnet(a.name, a.landmarks, a.neighbours, a.stride)
    if a.family == "hrnet" and a.name == HRNET:
        return HighResolutionNet(a.landmarks)
    if a.family in OFFSET_HEADS and a.stacks == stacks_of(a.name):
        return build_with_offsets(a.family, a.name, a.landmarks, a.offset_size)
    if a.family == "mapnet":
        return build_mapnet(a.name, a.landmarks, a.stride)
    if a.family == "hourglass":
        return build_hourglass(a.name, a.landmarks)
    if a.family == "cpn":
        return build_cpn(a.name, a.landmarks)
    if a.family in HIDDEN:
        return build_regression(a.family, a.name, a.landmarks)
    if a.family == "retinaface":
        if a.landmarks != POINTS:
            raise ModelError(f"RetinaFace has {POINTS} landmarks a face, got {a.landmarks}")
        return RetinaFace(a.name)
    raise ModelError(f"no network {a.name!r} of family {a.family!r}; known: {KNOWN}")


def name_of(spec: ModelSpec) -> str:
    """The architecture that a spec names, by the name that it has today."""
    return _OLD_NAMES.get(spec.architecture, spec.architecture)


def architecture_of(spec: ModelSpec) -> Architecture:
    """Which network a spec describes; `build` judges whether there is such a one.

    Raises:
        ModelError: The spec lacks one of its family's numbers.
        LayoutError: The layout is unknown.
    """
    family, name = spec.family, name_of(spec)
    landmarks = get_layout(spec.layout).num_points
    if family == "pipnet":
        neighbours = _parameter(spec, "neighbours")
        if not isinstance(neighbours, list | tuple) or not isinstance(neighbours[0], list | tuple):
            raise ModelError(f"spec of {spec.name!r}: neighbours must be an (L, C) table")
        return Architecture(
            family,
            name,
            landmarks,
            neighbours=len(neighbours[0]),
            stride=_whole_parameter(spec, "stride"),
        )
    if family == "mapnet":
        return Architecture(family, name, landmarks, stride=_whole_parameter(spec, "stride"))
    if family in OFFSET_HEADS:
        stacks = stacks_of(name)
        size = 0 if family == "wom" else _whole_parameter(spec, "offset_size")
        return Architecture(
            family,
            name,
            landmarks,
            stacks=stacks,
            offset_size=published_size(size, spec.input.width),
        )
    return Architecture(family, name, landmarks)


def build_network(spec: ModelSpec) -> nn.Module:
    """The network that a spec describes, with fresh weights.

    Raises:
        ModelError: As `build` and `architecture_of`.
        LayoutError: The layout is unknown.
    """
    architecture = architecture_of(spec)
    network = build(architecture)
    if not spec.decoder_params.get("correction"):
        return network
    if architecture.family not in COORDINATE_FAMILIES or spec.decoder != "regression":
        raise ModelError(
            f"spec of {spec.name!r}: correction is of {', '.join(COORDINATE_FAMILIES)} with "
            f"decoder regression, not of {architecture.family} with {spec.decoder}"
        )
    return CorrectedNetwork(network, architecture.landmarks)


def _parameter(spec: ModelSpec, name: str) -> Any:
    value = spec.decoder_params.get(name)
    if not value:
        raise ModelError(
            f"spec of {spec.name!r}: decoder_params must state {name} of a {spec.family} network"
        )
    return value


def _whole_parameter(spec: ModelSpec, name: str) -> int:
    value = _parameter(spec, name)
    if type(value) is not int:
        raise ModelError(f"spec of {spec.name!r}: {name} must be a whole number, got {value!r}")
    return value
