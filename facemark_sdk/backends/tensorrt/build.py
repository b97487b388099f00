"""From an ONNX file to an engine for this machine's GPU."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from facemark_sdk.backends import describe_file
from facemark_sdk.backends.cuda import open_cuda
from facemark_sdk.backends.tensorrt.api import here, import_tensorrt, logger
from facemark_sdk.backends.tensorrt.engine_file import EngineRecord
from facemark_sdk.backends.tensorrt.profile import Profile, default_profile
from facemark_sdk.errors import BackendError, ModelError
from facemark_sdk.models import read_spec
from facemark_sdk.spec import METADATA_KEY, ModelSpec

_INT8_HINT = (
    "; TensorRT takes int8 only with zero points of 0 (symmetric) and biases left in float, other "
    "int8 files are for ONNX Runtime"
)


def build_engine(model: Path, profile: Profile | None = None) -> tuple[EngineRecord, bytes]:
    """Build an engine; this takes from seconds to minutes.

    Types are the file's own (a strongly typed network): an fp16 engine comes from an fp16 file,
    an int8 one from a file with QuantizeLinear and DequantizeLinear.

    Args:
        model: An ONNX file with a spec.
        profile: The shapes to build for; None for `default_profile`. The file's batch counts where
            it is fixed.

    Returns:
        The record and the plan.

    Raises:
        ModelError: The file is damaged, without a spec, or not of one image input.
        BackendError: TensorRT, CUDA's Python library, the driver or the GPU is missing, or
            TensorRT cannot build it.
    """
    trt, cuda = import_tensorrt(), open_cuda()
    described = describe_file(model)
    spec = read_spec(described, model)
    if len(described.inputs) != 1:
        raise ModelError(f"model {str(model)!r} must have one input, an image, to become an engine")
    (image,) = described.inputs
    profile = (profile or default_profile(spec)).for_input(image)
    content = model.read_bytes()
    with cuda.active():
        plan = _plan(trt, content, model, spec, profile.shapes(image))
    record = EngineRecord(
        spec=described.metadata[METADATA_KEY],
        inputs=described.inputs,
        outputs=described.outputs,
        profile=profile,
        built=here(trt, cuda.gpu),
        onnx_sha256=hashlib.sha256(content).hexdigest(),
    )
    return record, plan


def _plan(
    trt: Any, content: bytes, model: Path, spec: ModelSpec, shapes: list[tuple[int, ...]]
) -> bytes:
    log = logger(trt)

    def failure(stage: str) -> BackendError:
        hint = _INT8_HINT if spec.precision == "int8" else ""
        return BackendError(
            f"TensorRT {trt.__version__} cannot {stage} {str(model)!r}: {log.take_errors()}{hint}"
        )

    try:
        builder = trt.Builder(log)
        # TensorRT 11 knows no other networks.
        strongly_typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        network = builder.create_network(strongly_typed)
        parser = trt.OnnxParser(network, log)
        if not parser.parse(content, str(model)):
            raise failure("read")
        config = builder.create_builder_config()
        if spec.precision == "fp32":
            config.clear_flag(trt.BuilderFlag.TF32)  # its ten bits are fp16's, not fp32's
        shape_range = builder.create_optimization_profile()
        shape_range.set_shape(network.get_input(0).name, *shapes)
        if config.add_optimization_profile(shape_range) < 0:
            raise failure(f"take the shapes {shapes} for")
        plan = builder.build_serialized_network(network, config)
    except (RuntimeError, TypeError, ValueError) as error:  # pybind11 gives these for a null result
        raise failure("build an engine from") from error
    if plan is None:
        raise failure("build an engine from")
    return bytes(plan)
