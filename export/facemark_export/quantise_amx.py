"""int8 convolutions whose weights are stored so that ONNX Runtime multiplies them with Intel AMX.

Weights with a zero point of 0 have a kernel of their own on x86, which is made for VNNI and leaves
AMX unused; with any other zero point the convolution is a matrix product, for which AMX is used.
So weights in -127..127 are stored one lower, from a zero point of -1: the same sums of integers. To
lay out the pixels for the product costs more than it saves where these are many and channels few,
so time decides; and without AMX a convolution takes about a quarter longer that way.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, numpy_helper

from facemark_export.nodes import groups_of, makers_of, readers_of
from facemark_export.precision_speed import milliseconds, operator_times
from facemark_export.quantise import Pixels, drop_unused
from facemark_export.quantise_search import FASTER, Progress
from facemark_sdk.backends.cpus import has_amx_int8
from facemark_sdk.errors import BackendError

LEAST_SAVING = 0.1
"""A convolution must save so much of its own time: two timings of the same differ by up to half of
it, and less is not worth what it costs without AMX."""
_ZERO_POINT = -1


@dataclass(frozen=True)
class AmxChoice:
    """Which convolutions are stored for AMX, and what that saves on the machine that wrote them.

    Attributes:
        convolutions: Each that could be, with its median microseconds as it was and for AMX.
        taken: Those that are; none where the whole network is not faster.
        p50_ms: Of the network as it was and with all convolutions that are faster alone; empty
            where none is.
    """

    convolutions: tuple[tuple[str, float, float], ...]
    taken: tuple[str, ...]
    p50_ms: tuple[float, ...]

    def in_words(self) -> str:
        """For the terminal."""
        count = f"{len(self.taken)} of {len(self.convolutions)} int8 convolutions are for AMX"
        if not self.p50_ms:
            return f"{count}: alone, none is faster so"
        before, after = self.p50_ms
        if not self.taken:
            return f"{count}: the network took {after:.2f} ms so, {before:.2f} ms without"
        return f"{count}: the network takes {after:.2f} ms, {before:.2f} ms without"


def require_amx() -> None:
    """Refuse to choose for AMX on a CPU without it, before anything is measured.

    Raises:
        BackendError: The CPU has none.
    """
    if not has_amx_int8():
        raise BackendError(
            "--amx: this CPU has no AMX (no amx_int8 in /proc/cpuinfo); which convolutions are "
            "faster with it is measured: export on a CPU that has it, or leave --amx out"
        )


def choose_for_amx(
    model: onnx.ModelProto, images: Pixels, progress: Progress
) -> tuple[onnx.ModelProto, AmxChoice]:
    """An int8 network whose convolutions are stored for AMX where that is faster here.

    Args:
        model: As `Quantiser` makes it; unchanged.
        images: (N, H, W, 3) uint8, what it is timed on; a detector's full look.
        progress: Told what is being done.

    Returns:
        A network with the same outputs to the bit, and how it was chosen: each convolution that
        saves `LEAST_SAVING` of its time, if together they make the network faster.
    """
    names = storable(model)
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / "before.onnx", Path(folder) / "after.onnx"]
        progress("timing the int8 convolutions without and with AMX")
        onnx.save(model, files[0])
        onnx.save(stored_for_amx(model, names), files[1])
        plain, amx = operator_times(files, images)
        times = tuple(
            (name, plain[name], amx[name]) for name in names if name in plain and name in amx
        )
        taken = tuple(name for name, was, now in times if now <= (1 - LEAST_SAVING) * was)
        if not taken:
            return model, AmxChoice(times, (), ())
        chosen = stored_for_amx(model, taken)
        onnx.save(chosen, files[1])
        progress("timing the network without and with AMX")
        # Where a session lies in memory is worth a few percent: two of each, in either order.
        p50 = milliseconds([*files, *reversed(files)], images)
        before, after = (p50[0] + p50[3]) / 2, (p50[1] + p50[2]) / 2
    if after > FASTER * before:
        return model, AmxChoice(times, (), (before, after))
    return chosen, AmxChoice(times, taken, (before, after))


def storable(model: onnx.ModelProto) -> tuple[str, ...]:
    """Names of the convolutions that can be stored for AMX, in the order of the graph.

    These are not grouped; their weights are constant int8 from a zero point of 0, none of them
    -128, which could not be one lower, and no other's.
    """
    constants, makers = _constants(model.graph), makers_of(model.graph)
    readers = readers_of(model.graph)
    return tuple(
        node.name
        for node in model.graph.node
        if node.op_type == "Conv"
        and groups_of(node) == 1
        and len(readers[node.input[1]]) == 1
        and _can_be_lower(makers.get(node.input[1]), constants)
    )


def stored_for_amx(model: onnx.ModelProto, names: Collection[str]) -> onnx.ModelProto:
    """The same network with the weights of these convolutions one lower, from a zero point of -1.

    Args:
        model: int8 as QuantizeLinear and DequantizeLinear; unchanged.
        names: Of convolutions, each one of `storable`.

    Raises:
        ValueError: One of them is not.
    """
    wrong = set(names).difference(storable(model))
    if wrong:
        raise ValueError(f"cannot be stored for AMX: {', '.join(sorted(wrong))}")
    stored = onnx.ModelProto()
    stored.CopyFrom(model)
    graph = stored.graph
    constants, makers = _constants(graph), makers_of(graph)
    for node in list(graph.node):
        if node.name not in names:
            continue
        back = makers[node.input[1]]
        lower = _lower(back, f"{back.output[0]}/amx", graph, constants)
        graph.node.insert(list(graph.node).index(back), lower)
        node.input[1] = lower.output[0]
    drop_unused(graph)
    return stored


def _lower(
    back: NodeProto, name: str, graph: onnx.GraphProto, constants: dict[str, TensorProto]
) -> NodeProto:
    """Another DequantizeLinear of the same weights; its constants are added to the graph."""
    weights, scale = (numpy_helper.to_array(constants[each]) for each in back.input[:2])
    added = {
        f"{name}/weight": weights + np.int8(_ZERO_POINT),
        f"{name}/zero": np.full(scale.shape, _ZERO_POINT, np.int8),
    }
    graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in added.items())
    lower = NodeProto()
    lower.CopyFrom(back)
    lower.name = lower.output[0] = name
    del lower.input[:]
    lower.input.extend([f"{name}/weight", back.input[1], f"{name}/zero"])
    return lower


def _can_be_lower(back: NodeProto | None, constants: dict[str, TensorProto]) -> bool:
    if back is None or back.op_type != "DequantizeLinear":
        return False
    if any(name not in constants for name in back.input):
        return False
    weights, _, *zero = (numpy_helper.to_array(constants[name]) for name in back.input)
    return bool(
        weights.dtype == np.int8
        and weights.min() > np.iinfo(np.int8).min
        and all((points == 0).all() for points in zero)
    )


def _constants(graph: onnx.GraphProto) -> dict[str, TensorProto]:
    return {tensor.name: tensor for tensor in graph.initializer}
