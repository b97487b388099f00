"""A float network made ready for integers: normalisation folded, layers grouped."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, version_converter
from onnxruntime.quantization.shape_inference import quant_pre_process

from facemark_export.onnx_file import OPSET
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
PLANES, FLOATS = "pixels/planes", "pixels/float"
"""The image as uint8 planes, and the same in float, less the grey that the network takes for 0."""

_CAST = "pixels/cast"
_NORMALISING = ("Cast", "Sub", "Add", "Mul", "Div", "Slice", "Gather", "Transpose")
_SAME = 1e-4
"""By so much a graph's normalisation may differ from the spec's: rounding."""


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
        model: Opset 13 or later, batch normalisation folded, every node named.
        layers: In the order of the graph.
        grey: (3,) uint8, the pixel values of B, G, R that are 0 to the first layer, which then
            takes `FLOATS`; None where the graph's own normalisation was left as it is.
    """

    model: onnx.ModelProto
    layers: tuple[Layer, ...]
    grey: NDArray[np.uint8] | None


def prepare(model: onnx.ModelProto, pixels: InputSpec) -> Prepared:
    """A float network as a graph that quantises well.

    The first layer takes pixels as they are: channel order and scale go into its weights, the mean
    is rounded to whole grey values, and what that leaves goes into its bias. So the eight bits of
    the image are those of the first layer's input. Only at the border, which convolutions fill with
    the mean, this differs, by half a grey value at most.

    Args:
        model: Input ``image``, uint8 (N, H, W, 3).
        pixels: How the network normalises it.

    Raises:
        ModelError: The graph's opset is too old and cannot be converted.
    """
    model = _folded(_at_least_opset(model))
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{number}"
    grey = _take_pixels(model, pixels)
    return Prepared(model, tuple(_layers(model)), grey)


def _at_least_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    opset = max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
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


def _take_pixels(model: onnx.ModelProto, pixels: InputSpec) -> NDArray[np.uint8] | None:
    """Put a graph's normalisation into its first layer; what is 0 to it then, in B, G, R."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    steps, first = _before_first_layer(model.graph, constants)
    if first is None or not _normalises(model, steps, pixels):
        return None
    weights = numpy_helper.to_array(constants[first.input[1]]).astype(np.float64)
    if weights.shape[1] != 3:
        return None
    mean, std = np.array(pixels.mean), np.array(pixels.std)
    if pixels.channels == "RGB":
        weights, mean, std = weights[:, ::-1], mean[::-1], std[::-1]
    weights = weights / std[:, None, None]
    grey = np.clip(np.round(mean), 0, 255)
    bias = (weights.sum(axis=(2, 3)) * (grey - mean)).sum(axis=1)
    if len(first.input) > 2 and first.input[2]:
        bias = bias + numpy_helper.to_array(constants[first.input[2]])
    made = {
        first.input[1]: weights.astype(np.float32),
        f"{FLOATS}/bias": bias.astype(np.float32),
        f"{FLOATS}/grey": grey.astype(np.float32)[:, None, None],
    }
    constants |= {name: numpy_helper.from_array(value, name) for name, value in made.items()}
    del first.input[2:]
    first.input[0] = FLOATS
    first.input.append(f"{FLOATS}/bias")
    for step in steps:
        model.graph.node.remove(step)
    nodes = (
        helper.make_node("Transpose", ["image"], [PLANES], PLANES, perm=[0, 3, 1, 2]),
        helper.make_node("Cast", [PLANES], [_CAST], _CAST, to=TensorProto.FLOAT),
        helper.make_node("Sub", [_CAST, f"{FLOATS}/grey"], [FLOATS], FLOATS),
    )
    nodes += tuple(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    used = {name for node in model.graph.node for name in node.input}
    del model.graph.initializer[:]
    model.graph.initializer.extend(t for name, t in constants.items() if name in used)
    return grey.astype(np.uint8)


def _before_first_layer(
    graph: onnx.GraphProto, constants: Mapping[str, onnx.TensorProto]
) -> tuple[list[onnx.NodeProto], onnx.NodeProto | None]:
    """The chain of arithmetic from the image on, and the convolution at its end, if it is one."""
    steps: list[onnx.NodeProto] = []
    last = "image"
    while True:
        users = [node for node in graph.node if last in node.input]
        if last == "image":  # a detector asks for its size
            users = [node for node in users if node.op_type != "Shape"]
        if len(users) != 1:
            return steps, None
        (node,) = users
        if node.op_type == "Conv" and node.input[0] == last:
            return steps, node if all(
                name in constants for name in node.input[1:] if name
            ) else None
        if node.op_type not in _NORMALISING or any(
            name not in constants for name in node.input if name not in (last, "")
        ):
            return steps, None
        steps.append(node)
        last = node.output[0]


def _normalises(model: onnx.ModelProto, steps: Sequence[onnx.NodeProto], pixels: InputSpec) -> bool:
    """Whether nodes do to an image what the spec says, tried on noise."""
    if not steps:
        return False
    used = {name for node in steps for name in node.input}
    graph = helper.make_graph(
        steps,
        "normalise",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, None, None, 3])],
        [helper.make_tensor_value_info(steps[-1].output[0], TensorProto.FLOAT, None)],
        [tensor for tensor in model.graph.initializer if tensor.name in used],
    )
    part = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    session = ort.InferenceSession(part.SerializeToString(), providers=["CPUExecutionProvider"])
    image = np.random.default_rng(0).integers(0, 256, (1, 24, 40, 3), np.uint8)
    (found,) = session.run(None, {"image": image})
    ordered = image[..., ::-1] if pixels.channels == "RGB" else image
    wanted = ((ordered - np.array(pixels.mean)) / np.array(pixels.std)).transpose(0, 3, 1, 2)
    return found.shape == wanted.shape and bool(
        np.abs(found - wanted).max() <= _SAME * np.abs(wanted).max()
    )


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
