"""A float network made ready for integers: normalisation folded, layers grouped."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, version_converter
from onnxruntime.quantization.shape_inference import quant_pre_process

from facemark_export.nodes import opset_of
from facemark_export.onnx_file import OPSET
from facemark_export.quantise_pixels import take_pixels
from facemark_sdk.errors import ModelError
from facemark_sdk.spec import InputSpec

LEAST_OPSET = 13
"""The first whose QuantizeLinear has a scale for each channel."""
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators whose constant second input is worth eight bits."""
JOINING = (
    *("Add", "Mul", "Concat", "Clip", "Relu", "LeakyRelu", "Sigmoid", "Resize", "Pad", "Split"),
    *("MaxPool", "AveragePool", "GlobalAveragePool"),
    *("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Gather"),
)
"""Operators between layers that ONNX Runtime computes on integers, or through a table of 256."""


@dataclass(frozen=True)
class Layer:
    """A weighted operator and what follows it up to the next: the unit that the search keeps.

    Attributes:
        name: Of the weight.
        nodes: Names of the operators.
    """

    name: str
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class Prepared:
    """A float network ready to be quantised.

    Attributes:
        model: Opset 13 or later, batch normalisation folded, every node named, no two
            layers with the same weights or bias.
        layers: In the order of the graph.
        grey: (3,) uint8, the pixel values of B, G, R that are 0 to the first layer, which then
            takes `FLOATS`; None where the graph's own normalisation was left as it is.
    """

    model: onnx.ModelProto
    layers: tuple[Layer, ...]
    grey: NDArray[np.uint8] | None


def prepare(model: onnx.ModelProto, pixels: InputSpec, *, one_grey: bool = True) -> Prepared:
    """A float network as a graph that quantises well.

    The first layer takes pixels as they are: channel order and scale go into its weights, the mean
    is rounded to whole grey values, and what that leaves goes into its bias. So the eight bits of
    the image are those of the first layer's input. Only at the border, which convolutions fill with
    the mean, this differs: by half a grey value at most, with one grey for all channels by as much
    as their means lie apart from it (10 for ImageNet's).

    Args:
        model: Input ``image``, uint8 (N, H, W, 3).
        pixels: How the network normalises it.
        one_grey: Round to one grey value for all channels: zero points of activations are not by
            channel.

    Raises:
        ModelError: The graph's opset is too old and cannot be converted.
    """
    model = _folded(_at_least_opset(model))
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{number}"
    _unshare(model.graph)
    grey = take_pixels(model, pixels, one_grey=one_grey)
    return Prepared(model, tuple(_layers(model)), grey)


def _at_least_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    opset = opset_of(model)
    if opset >= LEAST_OPSET:
        return model
    try:
        return version_converter.convert_version(model, OPSET)
    except (RuntimeError, ValueError) as error:
        raise ModelError(
            f"the graph has opset {opset}, int8 needs {LEAST_OPSET}, and it cannot be converted: "
            f"{error}"
        ) from None


def _folded(model: onnx.ModelProto) -> onnx.ModelProto:
    """Constants folded, batch normalisation fused into the convolutions before it."""
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    _ask_shapes_later(copied.graph)
    with tempfile.TemporaryDirectory() as folder:
        source, path = Path(folder) / "float.onnx", Path(folder) / "folded.onnx"
        onnx.save(copied, source)
        quant_pre_process(source, path, skip_symbolic_shape=True)
        return onnx.load(path)


def _ask_shapes_later(graph: onnx.GraphProto) -> None:
    """Ask for a convolution's shape after its batch normalisation, which could not be fused."""
    after = {node.input[0]: node for node in graph.node if node.op_type == "BatchNormalization"}
    ordered = []
    for node in graph.node:
        if node.op_type == "Shape" and node.input[0] in after:
            node.input[0] = after[node.input[0]].output[0]
        if node.op_type != "BatchNormalization":
            ordered.append(node)
        ordered += [after[name] for name in node.output if name in after]
    del graph.node[:]
    graph.node.extend(ordered)


def _unshare(graph: onnx.GraphProto) -> None:
    """Give each layer weights and a bias of its own.

    What is done to one layer's must not change another's, and on CPUs without VNNI ONNX Runtime
    does not open a file in which two convolutions have the same int8 weights (it adds the unsigned
    ones that it makes of them twice).
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}
    seen: set[str] = set()
    for node in graph.node:
        if node.op_type not in WEIGHTED:
            continue
        for place, name in enumerate(node.input[1:], start=1):
            if name in seen:
                own = TensorProto()
                own.CopyFrom(constants[name])
                own.name = node.input[place] = f"{name}/{node.name}"
                graph.initializer.append(own)
            elif name in constants:
                seen.add(name)


def _layers(model: onnx.ModelProto) -> Iterator[Layer]:
    """The weighted operators, each with the joining ones between it and the next."""
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    floats = {
        entry.name
        for entry in graph.value_info
        if entry.type.tensor_type.elem_type == TensorProto.FLOAT
    }
    weighted = {
        node.name: node.input[1]
        for node in graph.node
        if node.op_type in WEIGHTED and node.input[1] in constants
    }
    inner = _before_another(graph, set(weighted))
    names: dict[str, list[str]] = {}  # by the layer's weighted node
    owner: dict[str, str] = {}  # of a tensor: the latest layer that it comes from
    order = list(weighted)
    for node in graph.node:
        above = [owner[name] for name in node.input if name in owner]
        if node.name in weighted:
            names[node.name] = [node.name]
            above = [node.name]
        elif above:
            above = [max(above, key=order.index)]
            activates = node.op_type in ("Clip", "Relu")  # folded into the layer's own range
            if node.op_type in JOINING and (
                activates or (node.name in inner and node.output[0] in floats)
            ):
                names[above[0]].append(node.name)
        if above:
            owner |= dict.fromkeys(node.output, above[0])
    for name, nodes in names.items():
        yield Layer(weighted[name], tuple(nodes))


def _before_another(graph: onnx.GraphProto, weighted: set[str]) -> set[str]:
    """Names of the nodes whose results reach a weighted operator."""
    wanted: set[str] = set()
    inner: set[str] = set()
    for node in reversed(graph.node):
        if node.name in weighted or any(name in wanted for name in node.output):
            if any(name in wanted for name in node.output):
                inner.add(node.name)
            wanted.update(node.input)
    return inner
