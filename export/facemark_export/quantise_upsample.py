"""Nearest upsampling of integers as copies of whole pixels."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from facemark_export.nodes import makers_of


def copy_pixels(graph: onnx.GraphProto) -> None:
    """Upsample a quantised map by expanding it, channels last, where that is the same.

    ONNX Runtime keeps integers channels last, where its `Resize` goes number by number; `Expand`
    copies all channels of a pixel at once. Maps of other scales before and after are left alone,
    and so are factors that are not whole.

    Args:
        graph: Quantised, changed in place.
    """
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    makers = makers_of(graph)
    shown = {entry.name for entry in graph.output}
    for node in list(graph.node):
        if node.op_type != "Resize" or node.output[0] in shown:
            continue
        before = makers.get(node.input[0])
        after = [other for other in graph.node if node.output[0] in other.input]
        scales = constants.get(node.input[2]) if len(node.input) == 3 else None
        if (
            scales is None
            or not _repeats(node, scales)
            or before is None
            or before.op_type != "DequantizeLinear"
            or [other.op_type for other in after] != ["QuantizeLinear"]
            or any(
                not np.array_equal(constants[a], constants[b])
                for a, b in zip(before.input[1:], after[0].input[1:], strict=True)
            )
        ):
            continue
        nodes = _copies(graph, before.input[0], after[0].output[0], scales)
        place = list(graph.node).index(after[0])
        graph.node.remove(node)
        graph.node.remove(after[0])
        for each in reversed(nodes):
            graph.node.insert(place - 1, each)


def _repeats(node: onnx.NodeProto, scales: NDArray[np.float32]) -> bool:
    """Whether a `Resize` gives every pixel whole times down and across."""
    settings = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    return (
        scales.shape == (4,)
        and (scales[:2] == 1).all()
        and (scales == scales.round()).all()
        and settings.get("mode", b"nearest") == b"nearest"
        and settings.get("coordinate_transformation_mode") == b"asymmetric"
        and settings.get("nearest_mode") == b"floor"
        and not settings.get("axes")
    )


def _copies(
    graph: onnx.GraphProto, taken: str, given: str, scales: NDArray[np.float32]
) -> list[onnx.NodeProto]:
    """Nodes from a map to the larger one."""
    down, across = (int(scale) for scale in scales[2:])
    held = {
        "apart": np.array([2, 4]),
        "times": np.array([1, 1, down, 1, across, 1]),
        "factors": np.array([1, down, across, 1]),
    }
    names = {key: f"{given}/{key}" for key in held}
    graph.initializer.extend(numpy_helper.from_array(v, names[k]) for k, v in held.items())
    last, pixels, wide, size, larger, joined = (
        f"{given}/{key}" for key in ("last", "pixels", "wide", "size", "larger", "joined")
    )
    return [
        helper.make_node("Transpose", [taken], [last], last, perm=[0, 2, 3, 1]),
        helper.make_node("Shape", [last], [size], size),
        helper.make_node("Mul", [size, names["factors"]], [larger], larger),
        helper.make_node("Unsqueeze", [last, names["apart"]], [pixels], pixels),
        helper.make_node("Expand", [pixels, names["times"]], [wide], wide),
        helper.make_node("Reshape", [wide, larger], [joined], joined),
        helper.make_node("Transpose", [joined], [given], given, perm=[0, 3, 1, 2]),
    ]
