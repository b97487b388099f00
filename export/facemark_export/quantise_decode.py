"""A decoder behind an int8 network: only what it reads of the maps becomes floats.

A PIPNet's five maps hold 97,920 values a face, of which its decoder takes 1,564. To find and take
them as bytes gives the same numbers: one scale for all keeps the order of a map's values.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import onnx
from onnx import helper, numpy_helper

from facemark_export.nodes import readers_of

_MOVING = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "GatherElements")
"""Operators that give values of their first input as they are."""
_ASKING = ("ArgMax", "Shape")
"""Operators that answer the same of bytes as of what these stand for."""


def dequantise_late(model: onnx.ModelProto, maps: Collection[str]) -> None:
    """Let dequantisations of maps wait for the operators that only move or compare values.

    The outputs stay the same to the last bit. A dequantisation stays where it is if anything else
    reads it, if it has a scale for each channel, or if it is not of uint8: int8 activations are
    TensorRT's, which wants its pairs together.

    Args:
        model: A network with its decoder; changed in place. One without quantise-dequantise pairs
            stays as it is.
        maps: Names of what the decoder reads.
    """
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    readers = readers_of(graph)
    shown = {entry.name for entry in graph.output}
    waiting: dict[str, onnx.NodeProto] = {}
    late = set(maps)

    def can_wait(node: onnx.NodeProto) -> bool:
        if len(node.input) < 3:
            return False
        scale, zero = (constants.get(name) for name in node.input[1:])
        return (
            node.output[0] in late
            and scale is not None
            and not scale.dims
            and float(numpy_helper.to_array(scale)) > 0
            and zero is not None
            and zero.data_type == onnx.TensorProto.UINT8
            and node.output[0] not in shown
            and all(
                reader.op_type in (*_MOVING, *_ASKING)
                and list(reader.input).count(node.output[0]) == 1
                and reader.input[0] == node.output[0]
                for reader in readers[node.output[0]]
            )
        )

    def emitted(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
        if node.op_type == "DequantizeLinear" and can_wait(node):
            waiting[node.output[0]] = node
            return
        before = waiting.get(node.input[0]) if node.input else None
        if before is None:
            yield node
            return
        node.input[0] = before.input[0]
        if node.op_type in _ASKING:
            yield node
            return
        floats, node.output[0] = node.output[0], f"{node.output[0]}/bytes"
        yield node
        late.add(floats)
        inputs, name = [node.output[0], *before.input[1:]], f"{floats}/late"
        yield from emitted(helper.make_node("DequantizeLinear", inputs, [floats], name=name))

    nodes = [new for node in graph.node for new in emitted(node)]
    if waiting:
        del graph.node[:], graph.value_info[:]  # what was float there is bytes now
        graph.node.extend(nodes)
