"""The decoder behind the network, in one file, and the proof that it decodes as numpy does."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

import onnx

from facemark_export.decode_graph import decode_model
from facemark_export.onnx_file import append_decoder, save
from facemark_export.parity import ParityReport, Pixels, check_graph_decoder
from facemark_sdk.backends import create_backend
from facemark_sdk.decode.graph import SPREAD_NAME
from facemark_sdk.spec import ModelSpec


def put_decoder_inside(
    network: onnx.ModelProto, spec: ModelSpec, batches: Sequence[Pixels], path: Path
) -> ParityReport:
    """Write a network's file again with its decoder in the graph.

    Args:
        network: Without its decoder, in any precision.
        spec: Its spec.
        batches: (N, H, W, 3) uint8 images to compare on.
        path: The network's file, which is replaced whatever the comparison says.

    Returns:
        The new file against numpy's decoder on the same network's outputs.

    Raises:
        ModelError: The decoder has no twin, or the input's size is not fixed.
    """
    alone = create_backend("cpu", path)
    shapes = {name: maps.shape[1:] for name, maps in alone.run({"image": batches[0]}).items()}
    decoder = decode_model(spec, shapes)
    spreads = any(entry.name == SPREAD_NAME for entry in decoder.graph.output)
    params = {**spec.decoder_params, "decoder": spec.decoder, SPREAD_NAME: spreads}
    merged = append_decoder(network, decoder)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        whole = Path(folder) / path.name
        save(merged, dataclasses.replace(spec, decoder="graph", decoder_params=params), whole)
        report = check_graph_decoder(spec, batches, alone, create_backend("cpu", whole))
        whole.replace(path)
    return report
