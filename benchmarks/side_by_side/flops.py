"""Floating-point operations of an ONNX graph, counted exactly from its shapes.

Convolutions and matrix products, each multiplication and each addition of a product to a sum as
one; biases, activations, pooling and resizing, under a percent of these networks, are left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import onnx
from onnx import GraphProto, ModelProto, NodeProto

Shapes = Mapping[str, tuple[int, ...]]


def count_flops(model: ModelProto | Path, sizes: Mapping[str, int] | None = None) -> int:
    """Operations of one run.

    Args:
        model: The graph or its file.
        sizes: Values of the input sides that have names; those that are not given are 1.

    Raises:
        ValueError: A shape cannot be inferred.
    """
    loaded = onnx.load(model) if isinstance(model, Path) else model
    fixed = ModelProto()
    fixed.CopyFrom(loaded)
    for entry in fixed.graph.input:
        for side in entry.type.tensor_type.shape.dim:
            if not side.HasField("dim_value"):
                side.dim_value = (sizes or {}).get(side.dim_param, 1)
    del fixed.graph.value_info[:]
    for entry in fixed.graph.output:  # inferred again, without the names that are numbers now
        entry.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(fixed, strict_mode=True, data_prop=True).graph
    shapes = _shapes(inferred)
    return sum(2 * _products(node, shapes) for node in inferred.node)


def _shapes(graph: GraphProto) -> Shapes:
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for entry in (*graph.input, *graph.value_info, *graph.output):
        sides = entry.type.tensor_type.shape.dim
        if all(side.HasField("dim_value") for side in sides):
            shapes[entry.name] = tuple(side.dim_value for side in sides)
    return shapes


def _products(node: NodeProto, shapes: Shapes) -> int:
    """Multiplications of one node."""
    try:
        if node.op_type in ("Conv", "ConvInteger"):
            # Weights (out, in / groups, ...): every output takes all of one filter's.
            return math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[1]][1:])
        if node.op_type == "QLinearConv":
            return math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[3]][1:])
        if node.op_type == "ConvTranspose":
            # Weights (in, out / groups, ...): every input goes into all of one filter's.
            return math.prod(shapes[node.input[0]]) * math.prod(shapes[node.input[1]][1:])
        if node.op_type == "Gemm":
            flipped = any(each.name == "transA" and each.i for each in node.attribute)
            return math.prod(shapes[node.output[0]]) * shapes[node.input[0]][0 if flipped else 1]
        if node.op_type in ("MatMul", "MatMulInteger", "QLinearMatMul"):
            return math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]
    except KeyError as error:
        raise ValueError(f"{node.op_type} {node.name!r}: the shape of {error} is unknown") from None
    return 0
