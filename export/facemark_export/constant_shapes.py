"""Sizes that a graph computes from its image's, as constants: found by running it at some sizes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from facemark_export.slim import slim
from facemark_sdk.spec import ModelSpec

Shapes = NDArray[np.int64]

_SIZES = ((1, 2, 3), (2, 5, 4), (3, 7, 9))
"""Images, rows and columns of strides: no two in the same ratio, no batch a side."""


def constant_shapes(model: onnx.ModelProto, spec: ModelSpec) -> onnx.ModelProto:
    """A network of images of any size, with constants for what it works out from the size.

    A `Reshape` to what all sizes share, takes over from its input or can leave to one -1, and a
    nearest `Resize` by whole factors that all sizes share, need no shapes at run time. Those cost
    time themselves, and keep a runtime from fusing the layers that are asked: ONNX Runtime leaves
    the activation out of such a convolution, and dequantises whole maps for their shape.

    Args:
        model: Input ``image``, uint8 (N, H, W, 3).
        spec: Says what H and W are multiples of, where they are free.

    Returns:
        A slimmed copy, which computes the same; the model itself where there is nothing to do, or
        where the spec has no ``stride``, of which sides are multiples.
    """
    asking = [node for node in model.graph.node if _asks(node, model)]
    stride = spec.decoder_params.get("stride")  # what other projects' files do not state
    if spec.input.width or stride is None or not asking:
        return model
    names = list(dict.fromkeys(name for n in asking for name in (n.input[0], n.output[0])))
    found = _shapes(model, names, int(stride))
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for node in changed.graph.node:
        if not _asks(node, model):
            continue
        taken, given = found[node.input[0]], found[node.output[0]]
        if node.op_type == "Reshape":
            _reshape(changed.graph, node, taken, given)
        else:
            _resize(changed.graph, node, taken, given)
    return slim(changed)


def _asks(node: onnx.NodeProto, model: onnx.ModelProto) -> bool:
    """Whether a node takes a shape that is no constant."""
    place = {"Reshape": 1, "Resize": 3}.get(node.op_type)
    constants = {tensor.name for tensor in model.graph.initializer}
    return place is not None and len(node.input) > place and node.input[place] not in constants


def _shapes(model: onnx.ModelProto, names: Sequence[str], stride: int) -> dict[str, Shapes]:
    """For each tensor its shape (sizes, dimensions) at each of `_SIZES`."""
    asked = onnx.ModelProto()
    asked.CopyFrom(model)
    held = {entry.name for entry in asked.graph.output}
    asked.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n not in held)
    session = ort.InferenceSession(asked.SerializeToString(), providers=["CPUExecutionProvider"])
    runs = [
        session.run(
            names, {"image": np.zeros((batch, stride * rows, stride * columns, 3), np.uint8)}
        )
        for batch, rows, columns in _SIZES
    ]
    return {
        name: np.array([array.shape for array in arrays])
        for name, arrays in zip(names, zip(*runs, strict=True), strict=True)
    }


def _reshape(graph: onnx.GraphProto, node: onnx.NodeProto, taken: Shapes, given: Shapes) -> None:
    wanted = []
    for place, sizes in enumerate(given.T):
        if (sizes == sizes[0]).all():
            wanted.append(int(sizes[0]))
        elif place < taken.shape[1] and (sizes == taken[:, place]).all():
            wanted.append(0)  # as it was
        else:
            wanted.append(-1)
    if wanted.count(-1) > 1:
        return
    del node.attribute[:]  # allowzero, by which 0 would be a size
    node.input[1] = _constant(graph, f"{node.output[0]}/shape", np.array(wanted))


def _resize(graph: onnx.GraphProto, node: onnx.NodeProto, taken: Shapes, given: Shapes) -> None:
    settings = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    factors, rest = np.divmod(given, taken)
    if (
        rest.any()
        or (factors != factors[0]).any()
        or settings.get("mode", b"nearest") != b"nearest"
        or settings.get("coordinate_transformation_mode") != b"asymmetric"
        or settings.get("nearest_mode") != b"floor"
        or settings.get("axes")
    ):
        return
    scales = _constant(graph, f"{node.output[0]}/scales", factors[0].astype(np.float32))
    kept = node.input[0]
    del node.input[:], node.attribute[:]
    node.input.extend([kept, "", scales])
    node.attribute.extend(
        helper.make_attribute(name, settings[name])
        for name in ("coordinate_transformation_mode", "mode", "nearest_mode")
        if name in settings
    )


def _constant(graph: onnx.GraphProto, name: str, value: NDArray[np.generic]) -> str:
    graph.initializer.append(numpy_helper.from_array(value, name))
    return name
