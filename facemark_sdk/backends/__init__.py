"""Runtimes by name: ``cpu``, ``cuda``, ``tensorrt``, or ``auto`` for the best that is installed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType

from facemark_sdk.backends.base import Backend, TensorInfo
from facemark_sdk.errors import BackendError

_log = logging.getLogger("facemark")


def _import_ort(name: str) -> ModuleType:
    # Imported here, as ONNX Runtime is a third of the time that importing the SDK would take.
    try:
        return import_module("facemark_sdk.backends.ort")
    except ImportError as error:
        raise BackendError(
            f"backend {name!r} cannot load ONNX Runtime ({error}); install it again: "
            'pip install "facemark-sdk[cpu]" or pip install "facemark-sdk[gpu]"'
        ) from error


def _ort(name: str) -> Callable[[Path, int | None], Backend]:
    def create(model: Path, threads: int | None) -> Backend:
        backend: Backend = _import_ort(name).OrtBackend(model, name=name, threads=threads)
        return backend

    return create


def _tensorrt(model: Path, threads: int | None) -> Backend:
    raise BackendError(
        "this version of facemark-sdk has no TensorRT backend; use backend='cuda' or 'cpu'"
    )


def _auto(model: Path, threads: int | None) -> Backend:
    if not _import_ort("auto").has_cuda():
        _log.info("backend 'auto' picks 'cpu' for %s: ONNX Runtime is for the CPU", model.name)
        return _ort("cpu")(model, threads)
    try:
        backend = _ort("cuda")(model, threads)
    except BackendError as error:
        _log.warning("backend 'auto' picks 'cpu' for %s: %s", model.name, error)
        return _ort("cpu")(model, threads)
    _log.info("backend 'auto' picks 'cuda' for %s", model.name)
    return backend


MAX_THREADS = 1024

BACKENDS: dict[str, Callable[[Path, int | None], Backend]] = {
    "auto": _auto,
    "cpu": _ort("cpu"),
    "cuda": _ort("cuda"),
    "tensorrt": _tensorrt,
}


def create_backend(name: str, model: Path, threads: int | None = None) -> Backend:
    """Load a model file into a runtime.

    Args:
        name: A key of `BACKENDS`. Any other than ``auto`` is what runs, or an error: there is no
            silent fall-back.
        model: The model file.
        threads: CPU threads inside one operator; None leaves it to the runtime.

    Raises:
        BackendError: Unknown name, or the runtime is not installed or does not start.
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
    return create(model, threads)


__all__ = ["BACKENDS", "Backend", "TensorInfo", "create_backend"]
