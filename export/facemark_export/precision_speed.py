"""How long files of the same network take, side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facemark_sdk.backends import Backend, create_backend
from facemark_sdk.bench import Protocol, measure

ROUNDS = 40
"""Runs of each network that count."""
_PROTOCOL = Protocol(repeat=ROUNDS, warm_up=5, turn=5)


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


def _timed(backend: Backend, images: NDArray[Any]) -> Callable[[], dict[str, float]]:
    def run() -> dict[str, float]:
        start = time.perf_counter()
        backend.run({"image": images})
        return {"network": (time.perf_counter() - start) * 1e3}

    return run
