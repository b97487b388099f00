"""The image as the first layer's integers: normalisation and stride go into its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from facemark_sdk.spec import InputSpec

PLANES, FLOATS = "pixels/planes", "pixels/float"
"""The image as uint8 planes, and the same in float, less the grey that the network takes for 0."""

_CAST, _CUT, _BLOCKS, _JOINED = (f"pixels/{name}" for name in ("cast", "cut", "blocks", "joined"))
_LEAST_KERNEL = 5
"""Side of a first kernel from which blocks are worth their own cost: 7 x 7 of ResNet-18 takes half
the time, 3 x 3 of EfficientNet-Lite0 as long as without."""
_NORMALISING = (
    "Cast",
    "Sub",
    "Add",
    "Mul",
    "Div",
    "BatchNormalization",
    "Slice",
    "Gather",
    "Transpose",
)
_SAME = 1e-4
"""By so much a graph's normalisation may differ from the spec's: rounding."""

Weights = NDArray[np.float64]


def take_pixels(
    model: onnx.ModelProto, pixels: InputSpec, *, one_grey: bool
) -> NDArray[np.uint8] | None:
    """Put a graph's normalisation, and a stride of 2, into its first layer.

    With the stride, two by two pixels become the channels of one place (`_in_blocks`): ONNX Runtime
    gathers a convolution's patches tap by tap, which takes most of the time of a first layer in
    int8, and there are fewer of them.

    Args:
        model: Changed in place, unless the result is None.
        pixels: How it normalises the image.
        one_grey: Round the mean to one grey value for all channels, so that the pixels are integers
            of one zero point.

    Returns:
        (3,), what is 0 to the first layer then, in B, G, R; None where the graph does something
        else to the image.
    """
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
    grey = np.clip(np.round(np.full(3, mean.mean()) if one_grey else mean), 0, 255)
    bias = (weights.sum(axis=(2, 3)) * (grey - mean)).sum(axis=1)
    if len(first.input) > 2 and first.input[2]:
        bias = bias + numpy_helper.to_array(constants[first.input[2]])
    weights, planes = _in_blocks(first, weights, pixels)
    made = {
        first.input[1]: weights.astype(np.float32),
        f"{FLOATS}/bias": bias.astype(np.float32),
        f"{FLOATS}/grey": np.resize(grey, weights.shape[1]).astype(np.float32)[:, None, None],
        **_shapes(pixels),
    }
    constants |= {name: numpy_helper.from_array(value, name) for name, value in made.items()}
    del first.input[2:]
    first.input[0] = FLOATS
    first.input.append(f"{FLOATS}/bias")
    for step in steps:
        model.graph.node.remove(step)
    nodes = [
        *planes,
        helper.make_node("Cast", [PLANES], [_CAST], _CAST, to=TensorProto.FLOAT),
        helper.make_node("Sub", [_CAST, f"{FLOATS}/grey"], [FLOATS], FLOATS),
        *model.graph.node,
    ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    used = {name for node in model.graph.node for name in node.input}
    del model.graph.initializer[:]
    model.graph.initializer.extend(t for name, t in constants.items() if name in used)
    return grey.astype(np.uint8)


def _in_blocks(
    first: onnx.NodeProto, weights: Weights, pixels: InputSpec
) -> tuple[Weights, list[onnx.NodeProto]]:
    """A large first kernel of stride 2 as one of stride 1 over blocks of two by two pixels.

    With p pixels of padding the tap t of output i reads pixel 2 i + t - p. That is pixel d of block
    i + u - b, with b = ceil(p / 2) blocks of padding and t = 2 u + d - (2 b - p); taps that the
    kernel does not have weigh 0. Channel 6 dy + 3 dx + c of a block is c of its pixel (dx, dy).

    Args:
        first: The layer; changed where blocks are possible and worth it.
        weights: (K, 3, kh, kw).
        pixels: Of the image.

    Returns:
        The weights, and the nodes from the image to `PLANES`.
    """
    settings = {a.name: helper.get_attribute_value(a) for a in first.attribute}
    pads = settings.get("pads", (0, 0, 0, 0))
    rows, columns = (
        _blocks(pads[axis], pads[axis + 2], weights.shape[2 + axis]) for axis in (0, 1)
    )
    sides = pixels.height, pixels.width
    if (
        not all(sides)
        or any(side % 2 for side in sides)
        or min(weights.shape[2:]) < _LEAST_KERNEL
        or list(settings.get("strides", (1, 1))) != [2, 2]
        or list(settings.get("dilations", (1, 1))) != [1, 1]
        or settings.get("auto_pad", b"NOTSET") != b"NOTSET"
        or min(rows.after, columns.after) < 0  # pixels at the end that no tap reads
    ):
        return weights, [
            helper.make_node("Transpose", ["image"], [PLANES], PLANES, perm=[0, 3, 1, 2])
        ]
    wide = np.pad(weights, ((0, 0), (0, 0), rows.spare, columns.spare))
    cut = wide.reshape(len(weights), 3, rows.taps, 2, columns.taps, 2).transpose(0, 3, 5, 1, 2, 4)
    del first.attribute[:]
    changed = {
        "kernel_shape": [rows.taps, columns.taps],
        "strides": [1, 1],
        "pads": [rows.before, columns.before, rows.after, columns.after],
    }
    first.attribute.extend(helper.make_attribute(name, value) for name, value in changed.items())
    return cut.reshape(len(weights), 12, rows.taps, columns.taps), [
        helper.make_node("Reshape", ["image", f"{_CUT}/shape"], [_CUT], _CUT),
        helper.make_node("Transpose", [_CUT], [_BLOCKS], _BLOCKS, perm=[0, 1, 3, 2, 4, 5]),
        helper.make_node("Reshape", [_BLOCKS, f"{_JOINED}/shape"], [_JOINED], _JOINED),
        helper.make_node("Transpose", [_JOINED], [PLANES], PLANES, perm=[0, 3, 1, 2]),
    ]


class _Blocks(NamedTuple):
    """Along one axis: blocks of padding before and after, blocks a kernel, and the taps of weight 0
    before and after its own.
    """

    before: int
    after: int
    taps: int
    spare: tuple[int, int]


def _blocks(before: int, after: int, kernel: int) -> _Blocks:
    """Of a kernel of stride 2 with so many pixels of padding, along an even side."""
    blocks = (before + 1) // 2
    odd = 2 * blocks - before
    taps = (kernel - 1 + odd) // 2 + 1
    # an even side S has (S + before + after - kernel) // 2 + 1 outputs
    behind = (before + after - kernel) // 2 + taps - blocks
    return _Blocks(blocks, behind, taps, (odd, 2 * taps - kernel - odd))


def _shapes(pixels: InputSpec) -> dict[str, NDArray[np.int64]]:
    """Of the image cut into blocks, and of the blocks; 0 keeps the batch."""
    height, width = pixels.height // 2, pixels.width // 2
    return {
        f"{_CUT}/shape": np.array([0, height, 2, width, 2, 3]),
        f"{_JOINED}/shape": np.array([0, height, width, 12]),
    }


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
