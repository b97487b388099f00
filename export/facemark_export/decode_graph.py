"""Decoders as graphs: a spec's decoder as a torch module, and as a small ONNX model."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx
import torch
from torch import nn

from facemark_export import decode_twins as twins
from facemark_export.onnx_file import export_module
from facemark_sdk.decode import find_decoder
from facemark_sdk.decode.barycentre import TEMPERATURE, covariance_scale_param
from facemark_sdk.decode.dark import blur_matrix, blur_sigma_param
from facemark_sdk.decode.graph import OUTPUT_NAMES, SPREAD_NAME
from facemark_sdk.decode.heatmap import local_soft_argmax_params
from facemark_sdk.decode.params import origin_param, temperature_param
from facemark_sdk.decode.pip import pip_merging
from facemark_sdk.decode.regression import mean_shape_param
from facemark_sdk.errors import ModelError
from facemark_sdk.spec import ModelSpec

EXAMPLE_BATCH = 2
"""Faces in the exporter's example; the batch of what it writes is dynamic."""


def _peak_twin(spec: ModelSpec, locate: nn.Module) -> nn.Module:
    return twins.PeakTwin(locate, origin_param(spec), spec.input.width)


def _barycentre_twin(spec: ModelSpec, weigh: nn.Module) -> nn.Module:
    scale = covariance_scale_param(spec)
    return twins.BarycentreTwin(weigh, origin_param(spec), spec.input.width, scale)


TWINS: dict[str, Callable[[ModelSpec], nn.Module]] = {
    "pip": lambda spec: twins.PipTwin(pip_merging(spec), spec.input.width),
    "argmax": lambda spec: _peak_twin(spec, twins.PeakCells()),
    "quarter_shift": lambda spec: _peak_twin(spec, twins.QuarterShift()),
    "dark": lambda spec: _peak_twin(spec, twins.Dark(blur_matrix(blur_sigma_param(spec)))),
    "local_soft_argmax": lambda spec: _peak_twin(
        spec, twins.LocalSoftArgmax(*local_soft_argmax_params(spec))
    ),
    "barycentre": lambda spec: _barycentre_twin(
        spec, twins.Softmax(temperature_param(spec, TEMPERATURE))
    ),
    "barycentre_sum": lambda spec: _barycentre_twin(spec, twins.PositivePart()),
    "hih": lambda spec: twins.HihTwin(spec.input.width),
    "offset_map": lambda spec: twins.OffsetTwin(spec.input.width),
    "offset_value": lambda spec: twins.OffsetTwin(spec.input.width),
    "regression": lambda spec: twins.RegressionTwin(mean_shape_param(spec), spec.input.width),
}
"""The twin of each decoder, by the decoder's name."""


def make_decode_graph(spec: ModelSpec) -> nn.Module:
    """The twin of the decoder that a spec names.

    Args:
        spec: Of a landmark model with a fixed input size.

    Returns:
        Takes the raw outputs in the order of the decoder's ``outputs``, (N, ...) float32. Gives
        points (N, L, 2) in crop units, which are fractions x the input's width, scores (N, L)
        and, from the barycentres, covariances (N, L, 2, 2) in squared crop units.

    Raises:
        ModelError: The decoder is unknown, has no twin or unusable parameters, or the input's size
            is not fixed.
    """
    find_decoder(spec)
    if spec.decoder not in TWINS:
        raise ModelError(
            f"model {spec.name!r}: decoder {spec.decoder!r} cannot go into the graph; "
            f"these can: {', '.join(sorted(TWINS))}"
        )
    if not spec.input.width:
        raise ModelError(
            f"model {spec.name!r} takes any input size; a decoder in the graph needs a fixed one"
        )
    return TWINS[spec.decoder](spec).eval()


def decode_model(spec: ModelSpec, shapes: Mapping[str, tuple[int, ...]]) -> onnx.ModelProto:
    """The decoder as an ONNX model of its own, to be put behind a network.

    Its batch is dynamic but not empty: ONNX Runtime cannot reduce a batch of no faces.

    Args:
        spec: As for `make_decode_graph`.
        shapes: Each raw output's sizes after the batch (maps: maps, rows, columns), by name.

    Returns:
        Inputs named as the raw outputs, outputs ``points``, ``scores`` and, from the barycentres,
        ``covariances``; opset 18, IR version 10, float32.

    Raises:
        ModelError: As `make_decode_graph`, or `shapes` are of other outputs than the decoder's.
    """
    module = make_decode_graph(spec)
    wanted = find_decoder(spec).outputs
    if set(shapes) != set(wanted):
        raise ModelError(
            f"decoder {spec.decoder!r} reads {', '.join(wanted)}, got shapes of "
            f"{', '.join(shapes) or 'nothing'}"
        )
    examples = tuple(torch.zeros(EXAMPLE_BATCH, *shapes[name]) for name in wanted)
    with torch.no_grad():
        given = len(module(*examples))
    batch = torch.export.Dim("batch")
    return export_module(
        module,
        examples,
        wanted,
        (*OUTPUT_NAMES, SPREAD_NAME)[:given],
        tuple({0: batch} for _ in wanted),
    )
