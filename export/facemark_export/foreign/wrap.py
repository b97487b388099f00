"""A foreign graph behind our input: uint8 BGR pixels in, outputs by the names the SDK reads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, compose, helper, numpy_helper

from facemark_export.foreign.foreign_file import ForeignFile
from facemark_export.foreign.reading import Output, Reading
from facemark_sdk.spec import METADATA_KEY

LATEST_IR = 10
"""Of the ONNX format, what the oldest ONNX Runtime that the SDK takes (1.18) can read."""
_PREFIX = "source/"
"""Before the foreign graph's names, so that ours are free."""


def wrap(file: ForeignFile, reading: Reading, batch: int | None) -> onnx.ModelProto:
    """The file's network with our input, our names and its spec; weights and opset are kept.

    Args:
        file: The file.
        reading: What it turned out to be.
        batch: Images at once; None for any number.
    """
    model = compose.add_prefix(file.model, _PREFIX)
    graph = model.graph
    foreign = f"{_PREFIX}{file.input}"
    before = _before(reading, foreign)
    after = [
        node
        for name, output in zip(file.outputs, reading.outputs, strict=True)
        for node in _after(f"{_PREFIX}{name}", output, reading.one_by_one)
    ]
    nodes = [*before, *graph.node, *after]
    del graph.node[:]
    graph.node.extend(nodes)
    # In old files weights are inputs, too.
    kept = [value for value in graph.input if value.name != foreign]
    free: int | str = "N" if batch is None else batch
    size = reading.spec.input
    image: Sequence[int | str] = (free, size.height or "H", size.width or "W", 3)
    del graph.input[:]
    graph.input.append(helper.make_tensor_value_info("image", TensorProto.UINT8, image))
    graph.input.extend(kept)
    outputs = [
        helper.make_tensor_value_info(output.name, TensorProto.FLOAT, _shape(output, free))
        for output in reading.outputs
    ]
    del graph.output[:]
    graph.output.extend(outputs)
    del graph.value_info[:]  # states the shapes of the foreign batch and size
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, reading.spec.to_json()
    model.ir_version = min(model.ir_version, LATEST_IR)
    return model


def _before(reading: Reading, result: str) -> list[onnx.NodeProto]:
    """From our input to the network's: NCHW, RGB, float, then the published arithmetic."""
    steps: list[onnx.NodeProto] = []
    last = "image"

    def then(kind: str, name: str, *constants: NDArray[np.generic], **attributes: object) -> None:
        nonlocal last
        for constant in constants:
            steps.append(_constant(f"{name}_by", constant))
        inputs = [last, *(f"{name}_by" for _ in constants)]
        steps.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        last = name

    def channels(values: Sequence[float]) -> NDArray[np.float32]:
        return np.asarray(values, np.float32).reshape(1, 3, 1, 1)

    first = reading.preprocessing
    then("Transpose", "facemark/planes", perm=[0, 3, 1, 2])
    then("Gather", "facemark/rgb", np.array([2, 1, 0]), axis=1)
    then("Cast", "facemark/float", to=TensorProto.FLOAT)
    if first.divisor != 1:
        then("Div", "facemark/unit", np.array(first.divisor, np.float32))
    then("Sub", "facemark/centred", channels(first.mean))
    then("Div", "facemark/normal", channels(first.std))
    steps[-1].output[0] = result
    return steps


def _after(source: str, output: Output, one_by_one: bool) -> list[onnx.NodeProto]:
    """From one of the network's outputs to ours."""
    if output.width is None:
        return [helper.make_node("Identity", [source], [output.name], name=output.name)]
    shape = np.array([1 if one_by_one else 0, -1, output.width])  # 0: as it is
    return [
        _constant(f"{output.name}_shape", shape),
        helper.make_node(
            "Reshape", [source, f"{output.name}_shape"], [output.name], name=output.name
        ),
    ]


def _constant(name: str, value: NDArray[np.generic]) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], name=name, value=numpy_helper.from_array(value))


def _shape(output: Output, batch: int | str) -> list[int | str | None]:
    """Axes that the size decides are left open."""
    return [batch, None, None, None] if output.width is None else [batch, None, output.width]
