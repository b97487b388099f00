"""How long files of the same network take, side by side."""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from facemark_sdk.backends import Backend, create_backend
from facemark_sdk.backends.options import options_from_environment
from facemark_sdk.backends.ort import PROVIDERS, session_options
from facemark_sdk.bench import Protocol, measure

ROUNDS = 40
"""Runs of each network that count."""
_PROTOCOL = Protocol(repeat=ROUNDS, warm_up=5, turn=5)
_PROFILED = Protocol(repeat=100, warm_up=5, turn=5)
"""More, as operators are short and ONNX Runtime's profiler counts whole microseconds."""
_EVENT = re.compile(r"(.+?)(_token_\d+)?_kernel_time")
"""An operator's event: the node's name, and what ONNX Runtime adds where it reorders channels."""


def milliseconds(files: Sequence[Path], images: NDArray[Any]) -> list[float]:
    """The p50 of each file's network on the CPU, in turns, so that all meet the same noise.

    Args:
        files: Of networks with the same input.
        images: (N, H, W, 3) uint8.
    """
    return milliseconds_of([(path, images) for path in files])


def milliseconds_of(runs: Sequence[tuple[Path, NDArray[Any]]]) -> list[float]:
    """The same of networks whose inputs differ: each with its own images."""
    backends = [_timed(create_backend("cpu", path), images) for path, images in runs]
    times = measure(backends, _PROTOCOL)
    return [float(np.median([run["network"] for run in each])) for each in times]


def operator_times(files: Sequence[Path], images: NDArray[Any]) -> list[dict[str, float]]:
    """The median microseconds of each file's operators on the CPU, in turns, by the node's name.

    Args:
        files: Of networks with the same input.
        images: (N, H, W, 3) uint8.
    """
    with tempfile.TemporaryDirectory() as folder:
        sessions = [_profiled(path, Path(folder) / str(i)) for i, path in enumerate(files)]
        measure([_run(session, images) for session in sessions], _PROFILED)
        return [_medians(Path(session.end_profiling())) for session in sessions]


def _profiled(path: Path, events: Path) -> ort.InferenceSession:
    options = session_options(None, options_from_environment())
    options.enable_profiling, options.profile_file_prefix = True, str(events)
    return ort.InferenceSession(str(path), options, providers=[PROVIDERS["cpu"]])


def _medians(events: Path) -> dict[str, float]:
    durations = defaultdict(list)
    for event in json.loads(events.read_text()):
        if event["cat"] == "Node" and (found := _EVENT.fullmatch(event["name"])):
            durations[found[1]].append(event["dur"])
    return {name: float(np.median(each)) for name, each in durations.items()}


def _run(session: ort.InferenceSession, images: NDArray[Any]) -> Callable[[], dict[str, float]]:
    def run() -> dict[str, float]:
        session.run(None, {"image": images})
        return {}

    return run


def _timed(backend: Backend, images: NDArray[Any]) -> Callable[[], dict[str, float]]:
    def run() -> dict[str, float]:
        start = time.perf_counter()
        backend.run({"image": images})
        return {"network": (time.perf_counter() - start) * 1e3}

    return run
