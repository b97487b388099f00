"""How long files of the same network take, side by side."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facemark_sdk.backends import create_backend

WARM_UP, ROUNDS = 5, 40


def milliseconds(files: Sequence[Path], images: NDArray[Any]) -> list[float]:
    """The p50 of each file's network on the CPU, in turns, so that all meet the same noise.

    Args:
        files: Of networks with the same input.
        images: (N, H, W, 3) uint8.
    """
    backends = [create_backend("cpu", path) for path in files]
    times = np.empty((WARM_UP + ROUNDS, len(backends)))
    for row in times:
        for i, backend in enumerate(backends):
            start = time.perf_counter()
            backend.run({"image": images})
            row[i] = time.perf_counter() - start
    return [float(ms) for ms in np.median(times[WARM_UP:], axis=0) * 1e3]
