"""PIPNet's heads on fewer channels: one narrow 1x1 convolution that all five share.

On a mobile trunk the heads are a fifth of the network: 1,564 rows of 1,280 channels for 68
landmarks. What they say of faces varies in far fewer directions (`narrow_fit`).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from facemark_export.narrow_fit import SCORES, Heads, even, start, teach
from facemark_export.nodes import makers_of
from facemark_sdk.errors import ModelError

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]

_NECK = "neck"


def narrow_heads(
    model: onnx.ModelProto, batches: Iterable[Pixels], channels: int
) -> onnx.ModelProto:
    """A PIPNet whose heads take so many channels.

    Args:
        model: Float, without a decoder in the graph; unchanged.
        batches: uint8 BGR (N, S, S, 3) faces on which the channels are chosen, and their mirrored
            images.
        channels: Fewer than the features have.

    Raises:
        ModelError: The outputs are not those of a PIPNet's heads, or `channels` is out of range.
    """
    nodes = _head_nodes(model)
    heads, source = _heads(model, nodes), nodes[0].input[0]
    rows, width = heads.weights.shape
    if not 1 <= channels < min(rows, width):
        raise ModelError(
            f"--neck must be from 1 to {min(rows, width) - 1}, as these heads make {rows} rows of "
            f"{width} channels; got {channels}"
        )
    features = _features(model, source, batches)
    down, up, bias = even(teach(heads, features, start(heads, features, channels)))
    narrow = onnx.ModelProto()
    narrow.CopyFrom(model)
    graph = narrow.graph
    dropped = {name for node in nodes for name in node.input[1:]}
    constants = [entry for entry in graph.initializer if entry.name not in dropped]
    kept = [node for node in graph.node if node.output[0] not in heads.rows]
    kept.append(_convolution(constants, _NECK, source, down, None))
    for name, rows in heads.rows.items():
        kept.append(_convolution(constants, name, _NECK, up[rows], bias[rows]))
    for entries, fresh in ((graph.initializer, constants), (graph.node, kept)):
        del entries[:]
        entries.extend(fresh)
    return narrow


def _head_nodes(model: onnx.ModelProto) -> list[NodeProto]:
    """The convolutions that make the outputs, in their order."""
    constants = {entry.name: entry for entry in model.graph.initializer}
    makers = makers_of(model.graph)
    nodes = [makers[entry.name] for entry in model.graph.output]
    pointwise = all(
        node.op_type == "Conv"
        and len(node.input) == 3
        and all(name in constants for name in node.input[1:])
        and list(constants[node.input[1]].dims[2:]) == [1, 1]
        for node in nodes
    )
    names = [entry.name for entry in model.graph.output]
    if not pointwise or len({node.input[0] for node in nodes}) != 1 or SCORES not in names:
        raise ModelError(
            "--neck is for PIPNets, whose outputs are 1x1 convolutions of the same "
            f"features; these outputs are {', '.join(names)}"
        )
    return nodes


def _heads(model: onnx.ModelProto, nodes: list[NodeProto]) -> Heads:
    constants = {entry.name: entry for entry in model.graph.initializer}
    weights = [numpy_helper.to_array(constants[node.input[1]])[:, :, 0, 0] for node in nodes]
    biases = [numpy_helper.to_array(constants[node.input[2]]) for node in nodes]
    ends = np.cumsum([len(rows) for rows in weights]).tolist()
    rows = {
        node.output[0]: slice(end - len(own), end)
        for node, own, end in zip(nodes, weights, ends, strict=True)
    }
    return Heads(np.concatenate(weights), np.concatenate(biases), rows)


def _features(model: onnx.ModelProto, name: str, batches: Iterable[Pixels]) -> Floats:
    """What the heads take of all faces and their mirrored images, (N, cells, C)."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    watched.graph.output.append(helper.make_empty_tensor_value_info(name))
    session = onnxruntime.InferenceSession(
        watched.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    seen = []
    for batch in batches:
        for faces in (batch, np.ascontiguousarray(batch[:, :, ::-1])):
            (maps,) = session.run([name], {"image": faces})
            seen.append(maps.reshape(*maps.shape[:2], -1).transpose(0, 2, 1))
    return np.concatenate(seen)


def _convolution(
    constants: list[TensorProto],
    output: str,
    source: str,
    weights: Floats,
    bias: Floats | None,
) -> NodeProto:
    """A 1x1 convolution; its constants are added."""
    names = [f"narrow/{output}.weight"]
    constants.append(numpy_helper.from_array(weights[:, :, None, None].copy(), names[0]))
    if bias is not None:
        names.append(f"narrow/{output}.bias")
        constants.append(numpy_helper.from_array(bias, names[1]))
    return helper.make_node("Conv", [source, *names], [output], output, kernel_shape=[1, 1])
