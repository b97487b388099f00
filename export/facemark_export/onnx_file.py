"""Writing one self-describing ONNX file."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from pathlib import Path
from typing import Any

import onnx
import onnxslim
import torch

from facemark_export.graph import ExportGraph, example_image
from facemark_sdk.spec import METADATA_KEY, ModelSpec

OPSET = 18


def write_onnx(graph: ExportGraph, spec: ModelSpec, path: Path) -> None:
    """Export a graph and embed its spec.

    The batch is dynamic, and so are height and width where the spec's input size is 0.

    Args:
        graph: In evaluation mode.
        spec: Goes into the metadata under ``facemark``.
        path: Where to write; the caller renames.
    """
    dynamic: dict[int, Any] = {0: torch.export.Dim("batch")}
    if not spec.input.width:
        # Sides are whole multiples of the largest stride, which the exporter has to be told.
        stride = int(spec.decoder_params["stride"])
        dynamic[1] = stride * torch.export.Dim("rows", max=512)
        dynamic[2] = stride * torch.export.Dim("columns", max=512)
    program = _quietly(
        torch.onnx.export,
        graph,
        (example_image(spec, batch=2),),
        dynamo=True,
        opset_version=OPSET,
        input_names=["image"],
        output_names=list(graph.outputs),
        dynamic_shapes=(dynamic,),
        optimize=True,
        verbose=False,
    )
    model = onnxslim.slim(program.model_proto)
    del model.metadata_props[:]
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, spec.to_json()
    model.producer_name, model.producer_version = spec.producer.partition(" ")[::2]
    model.doc_string = ""
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def _quietly(function: Any, *args: Any, **kwargs: Any) -> Any:
    """Call the exporter without its running commentary on stdout and in warnings."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            return function(*args, **kwargs)
    finally:
        logger.setLevel(level)
