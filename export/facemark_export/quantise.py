"""Integers in the place of floats: a network's layers as int8, fit for ONNX Runtime's CPU kernels.

Activations are uint8 with a zero point, weights int8 with a scale a channel, biases int32: what
ONNX Runtime's kernels for VNNI take (`quantise_amx` makes of them what AMX takes). Clip and ReLU go
into the range that follows them.
TensorRT takes symmetric int8 only, and biases in float.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.calibrate import (
    CalibrationMethod,
    TensorsData,
    create_calibrator,
)
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.quant_utils import save_and_reload_model_with_shape_infer

from facemark_export.nodes import groups_of, makers_of, readers_of
from facemark_export.quantise_equalise import equalise
from facemark_export.quantise_pairs import pair_pixels
from facemark_export.quantise_pixels import FLOATS, PLANES
from facemark_export.quantise_prepare import JOINING, WEIGHTED, Layer, prepare
from facemark_export.quantise_upsample import copy_pixels
from facemark_sdk.spec import InputSpec

Pixels = NDArray[np.uint8]

_QUANTISE, _DEQUANTISE = "QuantizeLinear", "DequantizeLinear"
_REQUANTISED = ("Conv", "ConvTranspose", "Gemm")
"""Operators whose float weights ONNX Runtime makes int8 on its own."""
_WHITE = np.float32(255)
_MOST_BIAS = np.iinfo(np.int32).max / 4
"""Of which a bias may take so many steps: narrower ranges make them smaller."""
_LEAST, _GREATEST = "_ReduceMin", "_ReduceMax"
"""What ONNX Runtime's calibrator calls the extremes of a tensor, behind its name."""


class Quantiser:
    """A float network with the ranges of its activations, from which int8 ones are made.

    Attributes:
        layers: What can be int8 or float, in the order of the graph.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        pixels: InputSpec,
        calibration: Sequence[Pixels],
        *,
        symmetric: bool = False,
        step: int = 1,
    ) -> None:
        """Prepare a network and run it over images to see how far its activations reach.

        Args:
            model: Float, with input ``image``, uint8 (N, H, W, 3).
            pixels: How it normalises the image.
            calibration: Batches of such images.
            symmetric: Activations are int8 with zero points of 0, and biases stay float, which is
                what TensorRT takes.
            step: What the image's width is a multiple of, where the network takes any.

        Raises:
            ModelError: The graph's opset is too old.
        """
        self._symmetric = symmetric
        self._prepared = prepare(model, pixels, one_grey=not symmetric)
        self.layers = self._prepared.layers
        equalise(self._prepared.model, calibration)
        self._extremes = _extremes(self._prepared.model, calibration)
        if not symmetric:  # else biases stay float
            _hold_biases(self._prepared.model.graph, self._extremes)
        self._model = save_and_reload_model_with_shape_infer(self._prepared.model)
        grey = self._prepared.grey
        self._grey = None if grey is None or symmetric else int(grey[0])
        self._paired = None
        if self._grey is not None:
            self._paired = pair_pixels(self._prepared.model, pixels.width or step)
        self.take_ranges(1.0)

    def take_ranges(self, share: float) -> None:
        """Let activations range as far as they reach in this share of the calibration's batches.

        Args:
            share: Above 0.5, up to 1. With less, more is cut, and what is not has finer steps.
        """
        self._ranges = {
            name: (np.quantile(lows, 1 - share), np.quantile(highs, share))
            for name, (lows, highs) in self._extremes.items()
        }
        if self._grey is not None:  # one step a grey value, so that these are the pixels
            zero = np.float32(self._grey)
            self._ranges[FLOATS] = (-zero, _WHITE - zero)
        _share_ranges(self._prepared.model.graph, self._ranges)

    def model(self, layers: Collection[Layer]) -> onnx.ModelProto:
        """The network with these layers in int8 and all others in float; at least one."""
        wanted = [name for layer in layers for name in layer.nodes]
        paired = self._paired
        model = onnx.ModelProto()
        if paired is not None and paired.layers <= set(wanted):
            model.CopyFrom(paired.model)
            wanted += paired.joining
        else:
            model.CopyFrom(self._model)
        quantizer = QDQQuantizer(
            model,
            per_channel=True,
            # Halves the weights' precision for the sake of CPUs without VNNI (before 2019), for
            # which ONNX Runtime has session.x64quantprecision.
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QInt8 if self._symmetric else QuantType.QUInt8,
            # narrows ranges in place
            tensors_range=TensorsData(CalibrationMethod.MinMax, dict(self._ranges)),
            nodes_to_quantize=wanted,
            nodes_to_exclude=[],
            op_types_to_quantize=[*WEIGHTED, *JOINING],
            extra_options={
                "QDQOpTypePerChannelSupportToAxis": {"MatMul": 1},
                "ActivationSymmetric": self._symmetric,
                "QuantizeBias": not self._symmetric,
            },
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
        quantised = quantizer.model.model
        if self._grey is not None:
            _feed_pixels(quantised.graph, self._grey)
        if self._symmetric:
            _give_floats(quantised.graph)
        else:
            _keep_float(quantised.graph)
            copy_pixels(quantised.graph)
        drop_unused(quantised.graph)
        del quantised.metadata_props[:]
        return quantised


def _extremes(
    model: onnx.ModelProto, calibration: Sequence[Pixels]
) -> dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """The least and the greatest values of every float tensor around what can be quantised.

    Returns:
        By the tensor's name, (B,) each: one a batch.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "float.onnx"
        onnx.save(model, path)
        calibrator = create_calibrator(
            path,
            [*WEIGHTED, *JOINING],
            augmented_model_path=str(Path(folder) / "ranges.onnx"),
            calibrate_method=CalibrationMethod.MinMax,
        )
        session = calibrator.infer_session
        outputs = [output.name for output in session.get_outputs()]
        tensors = [n.removesuffix(_LEAST) for n in outputs if n.endswith(_LEAST)]
        names = [f"{tensor}{end}" for tensor in tensors for end in (_LEAST, _GREATEST)]
        found = [
            [float(value.item()) for value in session.run(names, {"image": batch})]
            for batch in calibration
        ]
    lows, highs = np.array(found, np.float32).reshape(len(found), -1, 2).transpose(2, 1, 0)
    return {tensor: (lows[i], highs[i]) for i, tensor in enumerate(tensors)}


def _hold_biases(
    graph: onnx.GraphProto, extremes: dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]
) -> None:
    """Give channels of next to no weight one that lets their bias fit 32 bits.

    A bias has the scale of the input times that of the channel's weights. ONNX Runtime cuts what
    does not fit, unless it knows the input's scale by then, which it does not behind pairs of
    pixels. Such a weight moves the output by less than a ten-thousandth of the bias.
    """
    held = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type != "Conv" or len(node.input) < 3 or node.input[0] not in extremes:
            continue
        if not {*node.input[1:]} <= set(held):
            continue
        weights, bias = (numpy_helper.to_array(held[name]).copy() for name in node.input[1:])
        lows, highs = extremes[node.input[0]]
        step = (max(highs.max(), 0) - min(lows.min(), 0)) / 255
        if not step >= np.finfo(np.float32).tiny:  # always 0: ONNX Runtime takes a step of 1
            continue
        rows = weights.reshape(len(weights), -1)
        least = 127 * np.abs(bias) / (step * _MOST_BIAS)
        weak = np.abs(rows).max(axis=1) < least
        if weak.any():
            rows[weak, 0] = least[weak]
            held[node.input[1]].CopyFrom(numpy_helper.from_array(weights, node.input[1]))


def _share_ranges(
    graph: onnx.GraphProto, ranges: dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]
) -> None:
    """Give what is joined and then cut at 0 the range that is left, so that joining copies.

    The smaller parts lose steps by that, but none are spent on what is cut.
    """
    readers = readers_of(graph)
    shown = {entry.name for entry in graph.output}
    for join in graph.node:
        after = readers[join.output[0]]
        if (
            join.op_type == "Concat"
            and [node.op_type for node in after] == ["Relu"]
            and join.output[0] not in shown
        ):
            left = ranges[after[0].output[0]]
            parts = [n for n in join.input if len(readers[n]) == 1 and n not in shown]
            ranges.update(dict.fromkeys((*parts, join.output[0]), left))


def _feed_pixels(graph: onnx.GraphProto, grey: int) -> None:
    """Give the first layer the image's own eight bits, which it would get back from floats.

    A first layer in float gets the pixels' floats in one step instead of two.
    """
    back = next((n for n in graph.node if n.op_type == _QUANTISE and n.input[0] == FLOATS), None)
    if back is None:
        step = {f"{FLOATS}/step": np.float32(1), f"{FLOATS}/zero": np.uint8(grey)}
        graph.initializer.extend(numpy_helper.from_array(np.array(v), k) for k, v in step.items())
        place, node = next((i, n) for i, n in enumerate(graph.node) if n.output[0] == FLOATS)
        graph.node.remove(node)
        graph.node.insert(
            place, helper.make_node(_DEQUANTISE, [PLANES, *step], [FLOATS], f"{FLOATS}/planes")
        )
        return
    for node in graph.node:
        if node.op_type == _DEQUANTISE and node.input[0] == back.output[0]:
            node.input[0] = PLANES


def _give_floats(graph: onnx.GraphProto) -> None:
    """Give the layers that shall be float what was there before it was rounded.

    What `_keep_float` does TensorRT does not take: activations with a scale a channel. The integer
    layer before gives floats then, beside the integers that others read.
    """
    makers = makers_of(graph)
    for node, maker in _between_integers(graph):
        rounded = makers.get(maker.input[0])
        if rounded is not None and rounded.op_type == _QUANTISE:
            node.input[0] = rounded.input[0]


def _between_integers(graph: onnx.GraphProto) -> list[tuple[onnx.NodeProto, onnx.NodeProto]]:
    """Layers with float weights whose input is dequantised, each with what dequantises it.

    ONNX Runtime's WeightBiasQuantization would make integers of these weights.
    """
    constants = {tensor.name for tensor in graph.initializer}
    makers = makers_of(graph)
    return [
        (node, makers[node.input[0]])
        for node in graph.node
        if node.op_type in _REQUANTISED
        and node.input[1] in constants  # else its weights are dequantised
        and node.input[0] in makers
        and makers[node.input[0]].op_type == _DEQUANTISE
    ]


def _keep_float(graph: onnx.GraphProto) -> None:
    """Keep ONNX Runtime from quantising the layers that shall be float.

    Between integers it makes float weights int8 by one scale for all channels (its
    WeightBiasQuantization), unless the layer's input is dequantised by a scale a channel.
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}
    added: dict[str, onnx.NodeProto] = {}
    for node, maker in _between_integers(graph):
        if constants[maker.input[1]].dims:
            continue
        name = f"{node.input[0]}/float"
        if name not in added:
            scale, zero = (numpy_helper.to_array(constants[n]) for n in maker.input[1:])
            channels = _channels(node, constants[node.input[1]])
            wide = {
                f"{name}/scale": np.full(channels, scale),
                f"{name}/zero": np.full(channels, zero),
            }
            graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in wide.items())
            inputs = [maker.input[0], *wide]
            added[name] = helper.make_node(_DEQUANTISE, inputs, [name], name, axis=1)
            graph.node.insert(list(graph.node).index(maker), added[name])
        node.input[0] = name


def drop_unused(graph: onnx.GraphProto) -> None:
    """Drop nodes and constants that nothing takes any more."""
    wanted = {entry.name for entry in graph.output}
    nodes = []
    for node in reversed(graph.node):
        if any(name in wanted for name in node.output):
            wanted.update(node.input)
            nodes.append(node)
    constants = [tensor for tensor in graph.initializer if tensor.name in wanted]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(nodes))
    graph.initializer.extend(constants)


def _channels(node: onnx.NodeProto, weights: onnx.TensorProto) -> int:
    """Channels of a layer's input."""
    if node.op_type == "Conv":
        groups = groups_of(node)
        return int(weights.dims[1]) * groups
    swapped = any(a.name == "transB" and a.i for a in node.attribute)
    return int(weights.dims[1 if swapped else 0])
