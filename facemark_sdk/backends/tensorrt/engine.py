"""Running TensorRT engines."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facemark_sdk.backends.base import Backend, TensorInfo, check_inputs, shown
from facemark_sdk.backends.cuda import Bytes, Cuda, open_cuda
from facemark_sdk.backends.options import RuntimeOptions
from facemark_sdk.backends.pool import Pool
from facemark_sdk.backends.tensorrt.api import here, import_tensorrt, logger
from facemark_sdk.backends.tensorrt.cache import cached_engine
from facemark_sdk.backends.tensorrt.engine_file import (
    Built,
    EngineRecord,
    is_engine,
    read_engine,
)
from facemark_sdk.errors import BackendError

_log = logging.getLogger("facemark")


def open_engine(model: Path, options: RuntimeOptions) -> TensorRTBackend:
    """Load an engine file, or the engine of an ONNX file, which is built where none is cached.

    A cached one that does not load is built again, once: the driver may be another now.

    Raises:
        ModelError: The file is damaged or without a spec.
        BackendError: TensorRT, CUDA's Python library, the driver or the GPU is missing; or the
            engine is for others than are here.
    """
    if is_engine(model):
        return TensorRTBackend(*read_engine(model), source=str(model))
    cached = cached_engine(model, options.engine_cache)
    if cached.file is not None:
        try:
            return TensorRTBackend(cached.record, cached.plan, source=str(cached.file))
        except BackendError as error:
            _log.warning("building it again: %s", error)
        cached = cached_engine(model, options.engine_cache, refused=cached.plan)
    return TensorRTBackend(cached.record, cached.plan, source=str(cached.file or model))


class TensorRTBackend(Backend):
    """An engine on the GPU, which threads may share: each runs in a context of its own."""

    name = "tensorrt"

    def __init__(self, record: EngineRecord, plan: bytes, *, source: str) -> None:
        """Load an engine.

        Args:
            record: What it is.
            plan: The engine itself.
            source: Where it is from, for messages.

        Raises:
            BackendError: Something that it takes is missing here, or it is for something else.
        """
        trt = import_tensorrt()
        self._record, self._cuda = record, open_cuda()
        check_fits(record.built, here(trt, self._cuda.gpu), source)
        log = logger(trt)
        with self._cuda.active():
            try:
                # The engine lives no longer than the runtime, which is therefore kept.
                self._runtime = trt.Runtime(log)
                engine = self._runtime.deserialize_cuda_engine(plan)
            except (RuntimeError, TypeError) as error:  # pybind11's for a null result
                raise _failure(f"load {source!r}", log) from error
        if engine is None:
            raise _failure(f"load {source!r}", log)
        _check_tensors(trt, engine, record, source)
        self._engine = engine
        self._making = threading.Lock()
        self._lanes = Pool(self._lane)
        self._log = log

    @property
    def metadata(self) -> Mapping[str, str]:
        """The key-value pairs that travel in the model file."""
        return self._record.metadata

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """The model's inputs; of the batch size where it can be only one."""
        (image,) = self._record.inputs
        least, _, most = self._record.profile.batch
        shape = (most, *image.shape[1:]) if least == most else image.shape
        return (TensorInfo(image.name, image.dtype, shape),)

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """The model's outputs."""
        return self._record.outputs

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run the model once, in parts where the batch is larger than the engine takes.

        Raises:
            BackendError: The runtime failed, or an input has the wrong name, type or shape.
        """
        arrays = check_inputs(self.name, inputs, self._record.inputs)
        (array,) = arrays.values()
        lower, _, upper = self._record.profile.shapes(self._record.inputs[0])
        self._check_sides(array, lower, upper)
        count, least, most = len(array), lower[0], upper[0]
        parts = []
        with self._cuda.active(), self._lanes.borrow() as lane:
            for start in range(0, max(count, 1), most):
                part = array[start : start + most]
                if len(part) < least:
                    part = np.resize(part, (least, *part.shape[1:]))
                parts.append(lane.run(part))
        if len(parts) == 1 and len(part) == count:
            return parts[0]
        return {name: np.concatenate([part[name] for part in parts])[:count] for name in parts[0]}

    def _check_sides(
        self, array: NDArray[Any], lower: tuple[int, ...], upper: tuple[int, ...]
    ) -> None:
        sides = zip(lower[1:], array.shape[1:], upper[1:], strict=True)
        if not all(least <= side <= most for least, side, most in sides):
            raise BackendError(
                f"backend {self.name!r} failed: the engine takes images from {shown(lower[1:])} to "
                f"{shown(upper[1:])}, got {shown(array.shape[1:])}; build one with other "
                "--engine-sides"
            )

    def _lane(self) -> _Lane:
        with self._making:
            context = self._engine.create_execution_context()
            if context is None:
                raise _failure("make a context, for want of memory on the GPU,", self._log)
            return _Lane(context, self._record, self._cuda, self._log)


class _Lane:
    """A context with a stream and buffers, for one thread at a time."""

    def __init__(self, context: Any, record: EngineRecord, cuda: Cuda, log: Any) -> None:
        self._context, self._record, self._cuda, self._log = context, record, cuda, log
        self._stream = cuda.stream()
        self._buffers: dict[str, _Buffer] = {}

    def run(self, image: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """One batch within the profile."""
        context, cuda, stream = self._context, self._cuda, self._stream
        (tensor,) = self._record.inputs
        try:
            if not context.set_input_shape(tensor.name, image.shape):
                raise _failure(f"take a batch of {shown(image.shape)}", self._log)
            buffer = self._buffer(tensor.name, image.nbytes)
            staged = _view(buffer.host, image.shape, image.dtype)
            np.copyto(staged, image)
            cuda.to_device(buffer.memory, staged, stream)
            waiting = {}
            for output in self._record.outputs:
                shape = tuple(context.get_tensor_shape(output.name))
                if min(shape) < 0:
                    raise _failure(f"say the shape of {output.name!r}", self._log)
                nbytes = int(np.prod(shape)) * output.numpy_dtype.itemsize
                waiting[output.name] = _view(
                    self._buffer(output.name, nbytes).host, shape, output.numpy_dtype
                )
            if not context.execute_async_v3(cuda.handle(stream)):
                raise _failure("run", self._log)
            for name, array in waiting.items():
                cuda.to_host(array, self._buffers[name].memory, stream)
            cuda.wait(stream)
        except (RuntimeError, TypeError, ValueError) as error:
            raise _failure("run", self._log) from error
        return {name: array.copy() for name, array in waiting.items()}

    def _buffer(self, name: str, nbytes: int) -> _Buffer:
        """The tensor's buffer, a larger one where the last is too small."""
        buffer = self._buffers.get(name)
        if buffer is None or buffer.host.nbytes < nbytes:
            buffer = self._buffers[name] = _Buffer(self._cuda, nbytes)
            if not self._context.set_tensor_address(name, int(buffer.memory)):
                raise _failure(f"use a buffer for {name!r}", self._log)
        return buffer


class _Buffer:
    """Memory on the GPU and as much page-locked memory on the host."""

    def __init__(self, cuda: Cuda, nbytes: int) -> None:
        self.memory = cuda.device(nbytes)
        self.host = cuda.pinned(nbytes)


def check_fits(built: Built, now: Built, source: str) -> None:
    """See that an engine was built on what is here; another GPU of the same kind is logged.

    Args:
        built: On what it was built.
        now: What is here.
        source: Where the engine is from.

    Raises:
        BackendError: TensorRT's version, the GPU's compute capability or the platform differs.
    """
    pairs = {
        "TensorRT": (built.tensorrt, now.tensorrt),
        "GPUs of compute capability": (built.capability, now.capability),
        "platform": (built.platform, now.platform),
    }
    differences = [
        f"{what} {theirs}, here is {ours}"
        for what, (theirs, ours) in pairs.items()
        if theirs != ours
    ]
    if differences:
        raise BackendError(
            f"engine {source!r} was built on {built.gpu} for {'; for '.join(differences)} "
            f"({now.gpu}). An engine runs only on what it was built for: build it again here with "
            "facemark-export --engine, or give the ONNX file and backend='tensorrt'"
        )
    if built.gpu != now.gpu:
        _log.warning(
            "engine %s was tuned on %s and runs on %s: build it again for full speed",
            source,
            built.gpu,
            now.gpu,
        )


def _check_tensors(trt: Any, engine: Any, record: EngineRecord, source: str) -> None:
    """See that the engine's inputs and outputs are those of the record, with its types."""
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    there = {name: np.dtype(trt.nptype(engine.get_tensor_dtype(name))) for name in names}
    wanted = {tensor.name: tensor.numpy_dtype for tensor in (*record.inputs, *record.outputs)}
    if there != wanted:
        raise BackendError(
            f"engine {source!r} has the tensors {_listed(there)}, its record says "
            f"{_listed(wanted)}; build it again"
        )


def _listed(tensors: Mapping[str, np.dtype[Any]]) -> str:
    return ", ".join(f"{name} {dtype}" for name, dtype in sorted(tensors.items()))


def _view(host: Bytes, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    nbytes = int(np.prod(shape)) * dtype.itemsize
    return host[:nbytes].view(dtype).reshape(shape)


def _failure(task: str, log: Any) -> BackendError:
    return BackendError(f"TensorRT cannot {task}: {log.take_errors()}")
