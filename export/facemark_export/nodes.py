"""Who makes and who reads the tensors of an ONNX graph, and what its nodes are set to."""

from __future__ import annotations

from collections import defaultdict

import onnx


def makers_of(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """The node that makes a tensor, by the tensor's name."""
    return {name: node for node in graph.node for name in node.output}


def readers_of(graph: onnx.GraphProto) -> defaultdict[str, list[onnx.NodeProto]]:
    """The nodes that take a tensor, by its name: once for each of their inputs that it is."""
    readers: defaultdict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            readers[name].append(node)
    return readers


def groups_of(node: onnx.NodeProto) -> int:
    """Groups of a convolution."""
    return next((int(a.i) for a in node.attribute if a.name == "group"), 1)


def opset_of(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators."""
    return max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
