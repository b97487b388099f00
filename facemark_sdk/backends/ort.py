"""ONNX Runtime on the CPU or on an NVIDIA GPU."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from facemark_sdk.backends.base import Backend, TensorInfo
from facemark_sdk.backends.cpus import limited_cpus, sums_int8_exactly
from facemark_sdk.backends.cuda import open_cuda
from facemark_sdk.backends.once import Once
from facemark_sdk.backends.options import RuntimeOptions
from facemark_sdk.backends.ort_binding import BoundSession, Staging
from facemark_sdk.errors import BackendError, ModelError

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}

_PROVIDER_OPTIONS = {
    # fp32 shall be fp32: by default MatMul and Conv round to TF32's ten bits (documentation of the
    # CUDA execution provider, use_tf32; since 1.18). TensorRT engines are built likewise.
    "CUDAExecutionProvider": {"use_tf32": "0"},
}

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

_SPINNING = {
    "never": {"session.intra_op.allow_spinning": "0"},
    # By default threads go on spinning after the run, and take the cores from the next stage and
    # from the other model's threads.
    "run": {"session.force_spinning_stop": "1"},
    "always": {},
}
"""ONNX Runtime's session settings for `RuntimeOptions.spinning`."""

_log = logging.getLogger("facemark")


def has_cuda() -> bool:
    """Whether the installed ONNX Runtime was built for CUDA; a GPU may still be missing."""
    return PROVIDERS["cuda"] in ort.get_available_providers()


class OrtBackend(Backend):
    """An ONNX Runtime session, which threads may share.

    On the GPU inputs and outputs have buffers there that stay from run to run, and inputs go
    through page-locked memory where cuda-python or pycuda is installed: ONNX Runtime's Python
    interface has none for its CUDA provider.
    """

    def __init__(
        self,
        model: Path,
        *,
        name: str,
        threads: int | None = None,
        options: RuntimeOptions | None = None,
    ) -> None:
        """Load a model.

        Args:
            model: The ONNX file.
            name: ``cpu`` or ``cuda``.
            threads: Threads inside one operator; None leaves it to the runtime, within the CPUs
                that this process may use.
            options: Spinning and arena; None for the defaults.

        Raises:
            ModelError: The file is damaged or no ONNX model.
            BackendError: The runtime is not installed for this device, or does not start on it.
        """
        self.name = name
        if name == "cuda":
            if not has_cuda():
                raise BackendError(
                    "backend 'cuda' needs onnxruntime-gpu, but the installed ONNX Runtime is for "
                    'the CPU only; uninstall onnxruntime, then: pip install "facemark-sdk[gpu]"'
                )
            _load_cuda()
        wanted = options or RuntimeOptions()
        self._session = _session(model, PROVIDERS[name], session_options(threads, wanted))
        active = self._session.get_providers()
        if PROVIDERS[name] not in active:
            raise BackendError(
                f"backend {name!r} did not start, ONNX Runtime fell back to {', '.join(active)} "
                "and wrote to stderr why; check the NVIDIA driver, CUDA and cuDNN (pip install "
                "\"onnxruntime-gpu[cuda,cudnn]\" brings both), or use backend='cpu'"
            )
        self._metadata = dict(self._session.get_modelmeta().custom_metadata_map)
        self._inputs = tuple(_info(tensor) for tensor in self._session.get_inputs())
        self._outputs = tuple(_info(tensor) for tensor in self._session.get_outputs())
        self._bound = None
        if name == "cuda":
            self._bound = BoundSession(
                self._session, self._inputs, name=name, device="cuda", staging=_page_locked()
            )

    @property
    def metadata(self) -> Mapping[str, str]:
        """The key-value pairs that travel in the model file."""
        return self._metadata

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """The model's inputs."""
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """The model's outputs."""
        return self._outputs

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run the model once.

        Raises:
            BackendError: The runtime failed, or an input has the wrong name, type or shape.
        """
        try:
            if self._bound is not None:
                return self._bound.run(inputs)
            arrays = self._session.run(None, dict(inputs))
        except _FAILURES as error:
            raise BackendError(f"backend {self.name!r} failed: {_one_line(error)}") from error
        return {tensor.name: array for tensor, array in zip(self._outputs, arrays, strict=True)}


@Once
def _load_cuda() -> None:
    """Load CUDA and cuDNN from NVIDIA's packages where pip installed them.

    ONNX Runtime itself looks for them only where the system does. What is not there may be on the
    system: whether it starts is seen when it does.
    """
    preload = getattr(ort, "preload_dlls", None)  # since 1.21
    if preload is None:
        return
    said = io.StringIO()  # it prints what it does not find
    with contextlib.redirect_stdout(said):
        try:
            preload()
        except (OSError, RuntimeError) as error:
            print(error)
    if said.getvalue():
        _log.debug("%s", said.getvalue().strip())


def _page_locked() -> Staging | None:
    try:
        cuda = open_cuda()
    except BackendError as error:
        _warn_of_ordinary_memory(str(error))
        return None

    def staging(nbytes: int) -> NDArray[Any]:
        with cuda.active():
            return cuda.pinned(nbytes)

    return staging


@Once  # not for each model of a process
def _warn_of_ordinary_memory(reason: str) -> None:
    _log.warning(
        "backend 'cuda' copies inputs to the GPU from ordinary memory, which is slower: %s", reason
    )


def _session(model: Path, provider: str, options: ort.SessionOptions) -> ort.InferenceSession:
    chosen = (provider, _PROVIDER_OPTIONS.get(provider, {}))
    try:
        return ort.InferenceSession(str(model), options, providers=[chosen])
    except _BAD_FILE as error:
        raise ModelError(
            f"model {str(model)!r} is truncated, damaged or no ONNX file: {_one_line(error)}"
        ) from error
    except _FAILURES as error:
        raise ModelError(
            f"model {str(model)!r} cannot be loaded by ONNX Runtime {ort.__version__}: "
            f"{_one_line(error)}"
        ) from error


def session_options(threads: int | None, wanted: RuntimeOptions) -> ort.SessionOptions:
    """ONNX Runtime's own options for what is wanted, see `OrtBackend`."""
    options = ort.SessionOptions()
    options.log_severity_level = _LOG_ERRORS
    options.intra_op_num_threads = threads or limited_cpus() or 0  # 0: one a physical core
    # Our graphs are chains: operators side by side would only fight for the same cores.
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = wanted.arena
    if not sums_int8_exactly():  # sums of two products would saturate at 16 bits; exact is slower
        options.add_session_config_entry("session.x64quantprecision", "1")
    for setting, value in _SPINNING[wanted.spinning].items():
        options.add_session_config_entry(setting, value)
    return options


def _info(tensor: Any) -> TensorInfo:
    dtype = tensor.type.removeprefix("tensor(").removesuffix(")")
    return TensorInfo(tensor.name, dtype, tuple(tensor.shape))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
