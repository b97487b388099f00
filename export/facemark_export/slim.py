"""onnxslim, with the network's own names for its weights."""

from __future__ import annotations

import onnx
import onnxslim


def slim(model: onnx.ModelProto) -> onnx.ModelProto:
    """A smaller model that computes the same.

    Where onnxslim folds a normalisation into a convolution, it calls that what the convolution gave
    and its weights anew; here they keep the network's name, by which ``--init`` reads them.
    """
    weights = {node.output[0]: node.input[1] for node in _convolutions(model)}
    slimmed: onnx.ModelProto = onnxslim.slim(model)
    taken = {tensor.name for tensor in slimmed.graph.initializer}
    names = {}
    for node in _convolutions(slimmed):
        own = weights.get(node.name)
        if own is not None and own not in taken:  # two convolutions may share their weights
            names[node.input[1]] = own
            taken.add(own)
    rename(slimmed.graph, names)
    return slimmed


def rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    """Give values of a graph other names."""
    for node in graph.node:
        for entries in (node.input, node.output):
            for i, name in enumerate(entries):
                entries[i] = names.get(name, name)
    for entry in (*graph.output, *graph.initializer, *graph.value_info):
        entry.name = names.get(entry.name, entry.name)


def _convolutions(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == "Conv"]
