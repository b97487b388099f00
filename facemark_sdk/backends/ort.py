"""ONNX Runtime on the CPU or on an NVIDIA GPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from facemark_sdk.backends.base import Backend, TensorInfo
from facemark_sdk.backends.cpus import limited_cpus
from facemark_sdk.errors import BackendError, ModelError

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}

_BAD_FILE = (ort_errors.InvalidProtobuf, ort_errors.InvalidGraph, ort_errors.NoSuchFile)
_FAILURES = (
    ort_errors.EPFail,
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
    RuntimeError,
    ValueError,  # an input is missing or has another type of element
)
_LOG_ERRORS = 3  # ONNX Runtime's severity: neither notes nor warnings on stderr


def has_cuda() -> bool:
    """Whether the installed ONNX Runtime was built for CUDA; a GPU may still be missing."""
    return PROVIDERS["cuda"] in ort.get_available_providers()


class OrtBackend(Backend):
    """An ONNX Runtime session, which threads may share."""

    def __init__(self, model: Path, *, name: str, threads: int | None = None) -> None:
        """Load a model.

        Args:
            model: The ONNX file.
            name: ``cpu`` or ``cuda``.
            threads: Threads inside one operator; None leaves it to the runtime, within the CPUs
                that this process may use.

        Raises:
            ModelError: The file is missing, damaged or no ONNX model.
            BackendError: The runtime is not installed for this device, or does not start on it.
        """
        self.name = name
        if name == "cuda" and not has_cuda():
            raise BackendError(
                "backend 'cuda' needs onnxruntime-gpu, but the installed ONNX Runtime is for the "
                'CPU only; uninstall onnxruntime, then: pip install "facemark-sdk[gpu]"'
            )
        self._session = _session(model, PROVIDERS[name], threads)
        active = self._session.get_providers()
        if PROVIDERS[name] not in active:
            raise BackendError(
                f"backend {name!r} did not start, ONNX Runtime fell back to {', '.join(active)}; "
                "check the NVIDIA driver, CUDA and cuDNN, or use backend='cpu'"
            )
        self._metadata = dict(self._session.get_modelmeta().custom_metadata_map)

    @property
    def metadata(self) -> Mapping[str, str]:
        """The key-value pairs that travel in the model file."""
        return self._metadata

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """The model's inputs."""
        return tuple(_info(tensor) for tensor in self._session.get_inputs())

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """The model's outputs."""
        return tuple(_info(tensor) for tensor in self._session.get_outputs())

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run the model once.

        Raises:
            BackendError: The runtime failed, or an input has the wrong name, type or shape.
        """
        try:
            arrays = self._session.run(None, dict(inputs))
        except _FAILURES as error:
            raise BackendError(f"backend {self.name!r} failed: {_one_line(error)}") from error
        names = (tensor.name for tensor in self._session.get_outputs())
        return dict(zip(names, arrays, strict=True))


def _session(model: Path, provider: str, threads: int | None) -> ort.InferenceSession:
    if not model.is_file():
        raise ModelError(f"model {str(model)!r} does not exist or is not a file")
    try:
        return ort.InferenceSession(str(model), _options(threads), providers=[provider])
    except _BAD_FILE as error:
        raise ModelError(
            f"model {str(model)!r} is truncated, damaged or no ONNX file: {_one_line(error)}"
        ) from error
    except _FAILURES as error:
        raise ModelError(
            f"model {str(model)!r} cannot be loaded by ONNX Runtime {ort.__version__}: "
            f"{_one_line(error)}"
        ) from error


def _options(threads: int | None) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = _LOG_ERRORS
    options.intra_op_num_threads = threads or limited_cpus() or 0  # 0: one a physical core
    # Our graphs are chains: operators side by side would only fight for the same cores.
    options.inter_op_num_threads = 1
    # Threads wait actively for the next operator, which is fast, but by default go on doing so
    # after the run, and take the cores from the next stage and from the other model's threads.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def _info(tensor: Any) -> TensorInfo:
    dtype = tensor.type.removeprefix("tensor(").removesuffix(")")
    return TensorInfo(tensor.name, dtype, tuple(tensor.shape))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
