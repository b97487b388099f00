"""Neighbouring pixels of a row as the channels of one: for first layers of few channels in int8.

ONNX Runtime's integer convolutions gather their patches pixel by pixel and multiply sixteen
channels at once. With 3 or 8 channels most of their time is neither copying nor multiplying. As a
row's pixels lie one behind the other, channels last, two of 8 channels are one of 16 without being
moved; a kernel over pairs has the old weights in the places that it shall see, and 0 elsewhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnxruntime.quantization.quant_utils import save_and_reload_model_with_shape_infer

from facemark_export.quantise_pixels import FLOATS, PLANES

PAIR = 2
"""Pixels of a layer's output that become one."""
WIDE = 16
"""A layer that takes so many channels needs none of this."""
_ACTIVATIONS = ("Clip", "LeakyRelu", "Relu")
_CUT, _ROWS, _APART, _WHOLE = (f"pairs/{name}" for name in ("cut", "rows", "apart", "whole"))

Weights = NDArray[np.float32]


@dataclass(frozen=True)
class Paired:
    """A network whose first layers work on pairs.

    Attributes:
        model: It computes the same, and its nodes and tensors have the same names.
        layers: Names of the layers' nodes that only integers should do so.
        joining: Names of the nodes behind them that take the pairs apart.
    """

    model: onnx.ModelProto
    layers: frozenset[str]
    joining: tuple[str, ...]


def pair_pixels(model: onnx.ModelProto, step: int) -> Paired | None:
    """Let a network's first layers work on pairs of pixels, as far as they take few channels.

    Args:
        model: What `take_pixels` changed, to one grey value for all channels.
        step: What the image's width is a multiple of.

    Returns:
        A changed copy; None where the first layer has another stride than 2, or where such a width
        leaves pixels over.
    """
    paired = onnx.ModelProto()
    paired.CopyFrom(model)
    graph = paired.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    uses = Counter(name for node in graph.node for name in node.input)
    shown = {entry.name for entry in graph.output}
    last, channels, pixels, layers = FLOATS, 3, 2 * PAIR, list[str]()
    if step % pixels:
        return None
    while True:
        users = [node for node in graph.node if last in node.input]
        node = users[0] if len(users) == 1 else None
        if last in shown:
            return None
        if node is not None and layers and node.op_type in _ACTIVATIONS:
            last = node.output[0]
            continue
        stride = 1 if layers else 2
        if node is None or channels >= WIDE or not _fits(node, constants, stride):
            break
        if any(uses[name] > 1 for name in node.input[1:] if name):
            break  # something else reads its weights or bias
        weights = numpy_helper.to_array(constants[node.input[1]])
        _pair_up(node, constants, pixels, stride)
        last, channels, pixels = node.output[0], len(weights), PAIR
        layers.append(node.name)
    if not layers:
        return None
    constants |= {
        name: numpy_helper.from_array(value, name)
        for name, value in {
            f"{_CUT}/shape": np.array([0, 0, -1, 3 * 2 * PAIR]),
            f"{_APART}/shape": np.array([0, 0, -1, channels]),
        }.items()
    }
    _take_rows(graph, constants)
    for user in graph.node:
        user.input[:] = [_WHOLE if name == last else name for name in user.input]
    apart = [
        helper.make_node("Transpose", [last], [_ROWS], _ROWS, perm=[0, 2, 3, 1]),
        helper.make_node("Reshape", [_ROWS, f"{_APART}/shape"], [_APART], _APART),
        helper.make_node("Transpose", [_APART], [_WHOLE], _WHOLE, perm=[0, 3, 1, 2]),
    ]
    behind = 1 + next(i for i, node in enumerate(graph.node) if last in node.output)
    nodes = [*graph.node[:behind], *apart, *graph.node[behind:]]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.initializer.extend(constants.values())
    paired = save_and_reload_model_with_shape_infer(paired)
    return Paired(paired, frozenset(layers), tuple(node.name for node in apart))


def _take_rows(graph: onnx.GraphProto, constants: dict[str, onnx.TensorProto]) -> None:
    """Let the planes be those of a row's groups of pixels."""
    for place, node in enumerate(list(graph.node)):
        if node.output[0] == PLANES:
            node.input[0] = _CUT
            graph.node.insert(
                place, helper.make_node("Reshape", ["image", f"{_CUT}/shape"], [_CUT], _CUT)
            )
        if node.output[0] == FLOATS:
            grey = numpy_helper.to_array(constants[node.input[1]])
            wide = np.tile(grey, (2 * PAIR, 1, 1))
            constants[node.input[1]] = numpy_helper.from_array(wide, node.input[1])


def _fits(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto], stride: int) -> bool:
    """Whether a node is a convolution with such a step along rows, which keeps or halves them."""
    if node.op_type != "Conv" or any(n not in constants for n in node.input[1:] if n):
        return False
    settings = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    pads, kernel = settings.get("pads", (0, 0, 0, 0)), constants[node.input[1]].dims
    return (
        len(kernel) == 4
        and settings.get("strides", (1, 1))[1] == stride
        and list(settings.get("dilations", (1, 1))) == [1, 1]
        and settings.get("auto_pad", b"NOTSET") == b"NOTSET"
        and (pads[1] + pads[3] - kernel[3]) // stride == -1
    )


def _pair_up(
    node: onnx.NodeProto, constants: dict[str, onnx.TensorProto], taken: int, stride: int
) -> None:
    """A convolution over groups of pixels that gives pairs.

    Output p of a pair reads with its tap t, of L pixels of padding, pixel s p + t - L counted from
    the pair's own first: pixel q of the group that lies d further.
    """
    settings = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    top, left, bottom, _ = settings.get("pads", (0, 0, 0, 0))
    weights = _without_groups(
        numpy_helper.to_array(constants[node.input[1]]), settings.get("group", 1)
    )
    count, channels, rows, columns = weights.shape
    first = -left // taken
    last = (stride * (PAIR - 1) + columns - 1 - left) // taken
    wide = np.zeros((PAIR, count, taken, channels, rows, last - first + 1), np.float32)
    for p in range(PAIR):
        for t in range(columns):
            d, q = divmod(stride * p + t - left, taken)
            wide[p, :, q, :, :, d - first] = weights[..., t]
    made = {node.input[1]: wide.reshape(PAIR * count, taken * channels, rows, -1)}
    if len(node.input) > 2 and node.input[2]:
        made[node.input[2]] = np.tile(numpy_helper.to_array(constants[node.input[2]]), PAIR)
    constants |= {name: numpy_helper.from_array(value, name) for name, value in made.items()}
    del node.attribute[:]
    changed = {
        "kernel_shape": [rows, last - first + 1],
        "strides": [settings.get("strides", (1, 1))[0], 1],
        "pads": [top, -first, bottom, last],
    }
    node.attribute.extend(helper.make_attribute(name, value) for name, value in changed.items())


def _without_groups(weights: Weights, groups: int) -> Weights:
    """(K, C / groups, h, w) as (K, C, h, w), 0 between groups."""
    count, channels, *kernel = weights.shape
    dense = np.zeros((count, groups, channels, *kernel), np.float32)
    dense[np.arange(count), np.arange(count) * groups // count] = weights
    return dense.reshape(count, groups * channels, *kernel)
