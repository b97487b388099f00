"""PIPNet's heads on fewer channels: one narrow 1x1 convolution that all five share.

On a mobile trunk the heads are a fifth of the network: 1,564 rows of 1,280 channels for 68
landmarks. What they say of faces varies in far fewer directions. The narrow convolution takes those
that matter most on calibration faces, by reduced-rank regression (Izenman, 1975): of all products
of two matrices it has the least squared error of the heads' outputs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from facemark_sdk.errors import ModelError

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]

SCORES = "cls"
"""The output whose best cell is where a landmark is read (COMPAT 1.1)."""
SCORES_COUNT = 3.0
"""Errors of scores count so many times: a wrong cell moves a landmark farther than a wrong offset.
Of 1, 3, 6 and 10 the best NME on calibration faces."""
EVERYWHERE = 0.05
"""Cells in which no landmark is read count so little; where n are, min(n, 3) / 3 more."""
_NECK = "neck"


@dataclass(frozen=True)
class _Heads:
    """The convolutions that make a graph's outputs.

    Attributes:
        nodes: In the order of the outputs.
        weights: (rows, C) of all, one after the other.
        biases: (rows,).
        rows: By output.
    """

    nodes: list[NodeProto]
    weights: Floats
    biases: Floats
    rows: dict[str, slice]


def narrow_heads(
    model: onnx.ModelProto, batches: Iterable[Pixels], channels: int
) -> onnx.ModelProto:
    """A PIPNet whose heads take so many channels.

    Args:
        model: Float, without a decoder in the graph; unchanged.
        batches: uint8 BGR (N, S, S, 3) faces on which the channels are chosen.
        channels: As many as the features have or more: nothing is lost, nor gained.

    Raises:
        ModelError: The outputs are not those of a PIPNet's heads, or `channels` is not positive.
    """
    heads = _heads(model)
    if channels < 1:
        raise ModelError(f"the heads need at least one channel, got {channels}")
    features = heads.nodes[0].input[0]
    down, up, bias = _reduced(heads, *_seen(model, features, batches), channels)
    narrow = onnx.ModelProto()
    narrow.CopyFrom(model)
    graph = narrow.graph
    dropped = {name for node in heads.nodes for name in node.input[1:]}
    kept = [entry for entry in graph.initializer if entry.name not in dropped]
    nodes = [node for node in graph.node if node.output[0] not in heads.rows]
    nodes.append(_convolution(kept, _NECK, features, down, None))
    for name, rows in heads.rows.items():
        nodes.append(_convolution(kept, name, _NECK, up[rows], bias[rows]))
    for entries, fresh in ((graph.initializer, kept), (graph.node, nodes)):
        del entries[:]
        entries.extend(fresh)
    return narrow


def _heads(model: onnx.ModelProto) -> _Heads:
    constants = {entry.name: entry for entry in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
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
            "narrower heads are for PIPNets, whose outputs are 1x1 convolutions of the same "
            f"features; these outputs are {', '.join(names)}"
        )
    weights = [numpy_helper.to_array(constants[node.input[1]])[:, :, 0, 0] for node in nodes]
    biases = [numpy_helper.to_array(constants[node.input[2]]) for node in nodes]
    ends = np.cumsum([len(rows) for rows in weights]).tolist()
    rows = {
        name: slice(end - len(own), end)
        for name, own, end in zip(names, weights, ends, strict=True)
    }
    return _Heads(nodes, np.concatenate(weights), np.concatenate(biases), rows)


def _seen(
    model: onnx.ModelProto, features: str, batches: Iterable[Pixels]
) -> tuple[Floats, NDArray[np.float64]]:
    """Features (M, C) of all cells of all faces, and how much each cell counts (M,)."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    watched.graph.output.append(helper.make_empty_tensor_value_info(features))
    session = onnxruntime.InferenceSession(
        watched.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    cells, counts = [], []
    for batch in batches:
        scores, seen = session.run([SCORES, features], {"image": batch})
        cells.append(seen.transpose(0, 2, 3, 1).reshape(-1, seen.shape[1]))
        best = scores.reshape(*scores.shape[:2], -1).argmax(axis=-1)
        size = scores.shape[2] * scores.shape[3]
        read = np.stack([np.bincount(own, minlength=size) for own in best])
        counts.append(EVERYWHERE + np.minimum(read, 3).ravel() / 3)
    return np.concatenate(cells), np.concatenate(counts)


def _reduced(
    heads: _Heads, cells: Floats, counts: NDArray[np.float64], channels: int
) -> tuple[Floats, Floats, Floats]:
    """Weights to the narrow channels, from there to the heads' outputs, and their biases."""
    mean = np.average(cells, axis=0, weights=counts)
    centred = (cells - mean) * np.sqrt(counts / counts.sum())[:, None]
    importance = np.ones(len(heads.weights))
    importance[heads.rows[SCORES]] = SCORES_COUNT
    weights = heads.weights.astype(np.float64)
    outputs = importance[:, None] * weights
    spread = outputs @ (centred.T @ centred) @ outputs.T
    directions = np.linalg.eigh(spread).eigenvectors[:, ::-1][:, :channels]
    down = directions.T @ outputs
    up = directions / importance[:, None]
    bias = heads.biases + weights @ mean - up @ (down @ mean)
    return down.astype(np.float32), up.astype(np.float32), bias.astype(np.float32)


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
