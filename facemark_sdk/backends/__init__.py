"""Runtimes by name: ``cpu``, ``cuda``, ``tensorrt``, or ``auto``.

``auto`` is ``tensorrt`` for an engine file only; an ONNX file runs on ``cuda`` where that starts,
else on ``cpu``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType

from facemark_sdk.backends.base import Backend, Described, TensorInfo
from facemark_sdk.backends.cpus import sums_int8_exactly
from facemark_sdk.backends.options import RuntimeOptions, options_from_environment
from facemark_sdk.backends.tensorrt.engine_file import is_engine, read_record
from facemark_sdk.errors import BackendError, ModelError

_log = logging.getLogger("facemark")

Create = Callable[[Path, "int | None", RuntimeOptions], Backend]


def _import_ort(name: str) -> ModuleType:
    # Imported here, as ONNX Runtime is a third of the time that importing the SDK would take.
    try:
        return import_module("facemark_sdk.backends.ort")
    except ImportError as error:
        raise BackendError(
            f"backend {name!r} cannot load ONNX Runtime ({error}); install it again: "
            'pip install "facemark-sdk[cpu]" or pip install "facemark-sdk[gpu]"'
        ) from error


def _ort(name: str) -> Create:
    def create(model: Path, threads: int | None, options: RuntimeOptions) -> Backend:
        if is_engine(model):
            raise ModelError(
                f"model {str(model)!r} is a TensorRT engine, which backend {name!r} cannot run; "
                "use backend='tensorrt' or 'auto', or the ONNX file that it was built from"
            )
        runtime = _import_ort(name)
        backend: Backend = runtime.OrtBackend(model, name=name, threads=threads, options=options)
        return backend

    return create


def _tensorrt(model: Path, threads: int | None, options: RuntimeOptions) -> Backend:
    module = import_module("facemark_sdk.backends.tensorrt.engine")
    backend: Backend = module.open_engine(model, options)
    return backend


def _auto(model: Path, threads: int | None, options: RuntimeOptions) -> Backend:
    if is_engine(model):
        _log.info("backend 'auto' picks 'tensorrt' for %s: it is an engine", model.name)
        return _tensorrt(model, threads, options)
    if not may_use_cuda():
        _log.info("backend 'auto' picks 'cpu' for %s: ONNX Runtime is for the CPU", model.name)
        return _ort("cpu")(model, threads, options)
    try:
        backend = _ort("cuda")(model, threads, options)
    except BackendError as error:
        _log.warning("backend 'auto' picks 'cpu' for %s: %s", model.name, error)
        return _ort("cpu")(model, threads, options)
    _log.info("backend 'auto' picks 'cuda' for %s", model.name)
    return backend


MAX_THREADS = 1024

BACKENDS: dict[str, Create] = {
    "auto": _auto,
    "cpu": _ort("cpu"),
    "cuda": _ort("cuda"),
    "tensorrt": _tensorrt,
}


def create_backend(
    name: str, model: Path, threads: int | None = None, options: RuntimeOptions | None = None
) -> Backend:
    """Load a model file into a runtime.

    Args:
        name: A key of `BACKENDS`. Any other than ``auto`` is what runs, or an error: there is no
            silent fall-back. ``auto`` is ``tensorrt`` for an engine file, else ``cuda`` where that
            starts, else ``cpu``.
        model: The model file: ONNX, or an engine that facemark-export --engine wrote.
        threads: CPU threads inside one operator; None leaves it to the runtime.
        options: Spinning, arena, engine cache; None takes the environment's
            (`options_from_environment`).

    Raises:
        BackendError: Unknown name, bad settings, or the runtime is not installed or does not
            start.
        ModelError: The file is missing, damaged or foreign.
    """
    if threads is not None and (type(threads) is not int or not 1 <= threads <= MAX_THREADS):
        raise BackendError(
            f"threads must be a whole number from 1 to {MAX_THREADS} or None, got {threads!r}"
        )
    try:
        create = BACKENDS[name]
    except (KeyError, TypeError):
        raise BackendError(f"unknown backend {name!r}; backends: {', '.join(BACKENDS)}") from None
    if options is None:
        options = options_from_environment()
    _check_file(model)
    return create(model, threads, options)


def may_use_cuda() -> bool:
    """Whether ``auto`` tries ``cuda`` first: the installed ONNX Runtime is built for it.

    Raises:
        BackendError: ONNX Runtime is not installed.
    """
    return bool(_import_ort("auto").has_cuda())


def describe_file(model: Path) -> Described:
    """What a model file says of itself; an engine is only read, without TensorRT or a GPU.

    Raises:
        ModelError: The file is missing, damaged or foreign.
        BackendError: ONNX Runtime is not installed.
    """
    _check_file(model)
    return read_record(model) if is_engine(model) else create_backend("cpu", model, 1)


def _check_file(model: Path) -> None:
    if not model.is_file():
        raise ModelError(f"model {str(model)!r} does not exist or is not a file")


__all__ = [
    "BACKENDS",
    "Backend",
    "Described",
    "RuntimeOptions",
    "TensorInfo",
    "create_backend",
    "describe_file",
    "may_use_cuda",
    "sums_int8_exactly",
]
