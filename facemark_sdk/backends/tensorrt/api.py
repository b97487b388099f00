"""The installed TensorRT, with its log in ours."""

from __future__ import annotations

import logging
import platform
import threading
from collections import deque
from importlib import import_module
from typing import Any

from facemark_sdk.backends.cuda import Gpu
from facemark_sdk.backends.once import Once
from facemark_sdk.backends.tensorrt.engine_file import Built
from facemark_sdk.errors import BackendError

MAJORS = ("10", "11")
"""The versions whose Python interface this backend was written against."""

_ERRORS_KEPT = 4

_log = logging.getLogger("facemark")


def import_tensorrt() -> Any:
    """The module ``tensorrt``.

    Raises:
        BackendError: Not installed, its libraries do not load, or of another version.
    """
    try:
        trt = import_module("tensorrt")
    except (ImportError, OSError) as error:
        raise BackendError(
            f"backend 'tensorrt' needs TensorRT {' or '.join(MAJORS)}, which cannot be imported "
            f'({error}); pip install "facemark-sdk[tensorrt]" on a machine with an NVIDIA GPU, or '
            "use backend='cuda' or 'cpu'"
        ) from error
    if trt.__version__.partition(".")[0] not in MAJORS:
        raise BackendError(
            f"backend 'tensorrt' needs TensorRT {' or '.join(MAJORS)}, {trt.__version__} is "
            'installed; pip install -U "facemark-sdk[tensorrt]"'
        )
    return trt


def here(trt: Any, gpu: Gpu) -> Built:
    """What an engine is that is built now."""
    return Built(
        trt.__version__, gpu.name, gpu.capability, f"{platform.system()} {platform.machine()}"
    )


class _LastErrors(threading.local):
    """Of the thread that asks: TensorRT logs in the thread that calls it."""

    def __init__(self) -> None:
        self.kept: deque[str] = deque(maxlen=_ERRORS_KEPT)


@Once  # TensorRT wants one for all that a process does
def logger(trt: Any) -> Any:
    """A ``tensorrt.ILogger`` that logs to ``facemark`` and keeps the last errors for messages."""
    severity = trt.ILogger.Severity
    levels = {
        severity.INTERNAL_ERROR: logging.ERROR,
        severity.ERROR: logging.ERROR,
        severity.WARNING: logging.INFO,  # TensorRT warns of much that works
        severity.INFO: logging.DEBUG,
    }

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._errors = _LastErrors()

        def log(self, severity: Any, msg: str) -> None:
            level = levels.get(severity)
            if level is None:  # VERBOSE: thousands of lines while building
                return
            if level == logging.ERROR:
                self._errors.kept.append(" ".join(msg.split()))
                level = logging.DEBUG  # the caller raises it
            _log.log(level, "TensorRT: %s", msg)

        def take_errors(self) -> str:
            """What went wrong in this thread since it last asked, on one line."""
            errors = list(self._errors.kept)
            self._errors.kept.clear()
            return "; ".join(errors) or "TensorRT gave no reason"

    return Logger()
