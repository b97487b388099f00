"""Writing one self-describing ONNX file."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from google.protobuf.message import DecodeError
from onnx import compose

from facemark_export.constant_shapes import constant_shapes
from facemark_export.graph import ExportGraph, example_image
from facemark_export.quantise_decode import dequantise_late
from facemark_export.slim import rename, slim
from facemark_sdk.errors import CheckpointError, ModelError
from facemark_sdk.models import resolve_model
from facemark_sdk.spec import METADATA_KEY, ModelSpec

OPSET = 18
IR_VERSION = 10


def network_model(graph: ExportGraph, spec: ModelSpec) -> onnx.ModelProto:
    """A network as a slimmed ONNX model, float32, opset 18.

    The batch is dynamic, and so are height and width where the spec's input size is 0.

    Args:
        graph: In evaluation mode.
        spec: Says the input's size.
    """
    dynamic: dict[int, Any] = {0: torch.export.Dim("batch")}
    if not spec.input.width:
        # Sides are whole multiples of the largest stride, which the exporter has to be told.
        stride = int(spec.decoder_params["stride"])
        dynamic[1] = stride * torch.export.Dim("rows", max=512)
        dynamic[2] = stride * torch.export.Dim("columns", max=512)
    image = example_image(spec, batch=2)
    model = export_module(graph, (image,), ["image"], graph.outputs, (dynamic,))
    return constant_shapes(model, spec)


def export_module(
    module: torch.nn.Module,
    arguments: tuple[torch.Tensor, ...],
    inputs: Sequence[str],
    outputs: Sequence[str],
    dynamic_shapes: Any,
) -> onnx.ModelProto:
    """A torch module as a slimmed ONNX model with named inputs and outputs."""
    program = _quietly(
        torch.onnx.export,
        module,
        arguments,
        dynamo=True,
        opset_version=OPSET,
        input_names=list(inputs),
        output_names=list(outputs),
        dynamic_shapes=dynamic_shapes,
        optimize=True,
        verbose=False,
    )
    model = slim(program.model_proto)
    model.ir_version = IR_VERSION
    del model.metadata_props[:]
    model.doc_string = ""
    return model


def to_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with half-precision weights and arithmetic; inputs and outputs keep their types."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    converted: onnx.ModelProto = _quietly(convert_float_to_float16, model, keep_io_types=True)
    return converted


def append_decoder(network: onnx.ModelProto, decoder: onnx.ModelProto) -> onnx.ModelProto:
    """One model of a network and the decoder that reads its outputs by name."""
    wanted = [entry.name for entry in decoder.graph.output]
    decoder = compose.add_prefix(decoder, "decode/")
    merged = compose.merge_models(
        network,
        decoder,
        io_map=[(e.name, f"decode/{e.name}") for e in network.graph.output],
    )
    del merged.opset_import[:]  # one entry, which merging leaves twice
    merged.opset_import.add().version = OPSET
    dequantise_late(merged, [entry.name for entry in network.graph.output])
    # the network may have a tensor of its own of such a name
    own = {name: f"network/{name}" for name in wanted}
    rename(merged.graph, own | {f"decode/{name}": name for name in wanted})
    return merged


def save(model: onnx.ModelProto, spec: ModelSpec, path: Path) -> None:
    """Write a model with its spec under ``facemark`` in the metadata; the caller renames."""
    del model.metadata_props[:]
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, spec.to_json()
    program = spec.producer.partition(",")[0]
    model.producer_name, model.producer_version = program.partition(" ")[::2]
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def source_file(name_or_path: str | Path) -> Path:
    """The file of a bundled model that is meant, else the path as it is."""
    try:
        return resolve_model(str(name_or_path))
    except ModelError:
        return Path(name_or_path)


def load(path: Path) -> tuple[onnx.ModelProto, ModelSpec]:
    """Read what `save` wrote.

    Raises:
        CheckpointError: It cannot be read or has no spec.
        ModelError: Its spec is unusable.
    """
    try:
        model = onnx.load(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None
    except (DecodeError, ValueError, onnx.checker.ValidationError) as error:
        raise CheckpointError(f"{path} is damaged or no ONNX file: {error}") from None
    record = next((e.value for e in model.metadata_props if e.key == METADATA_KEY), None)
    if record is None:
        raise CheckpointError(
            f"{path} has no facemark spec yet: write an fp32 file of it first, "
            f"facemark-export --onnx {path} -o FP32.onnx, and take that one"
        )
    return model, ModelSpec.from_json(record)


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
