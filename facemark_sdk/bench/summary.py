"""Times in three numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

PERCENTILES = (50, 95, 99)


@dataclass(frozen=True, slots=True)
class Summary:
    """Median and the tails of some runs, in milliseconds."""

    p50_ms: float
    p95_ms: float
    p99_ms: float


def summarise(milliseconds: Sequence[float]) -> Summary:
    """Percentiles, linear between the two nearest runs; at least one run."""
    return Summary(*np.percentile(np.asarray(milliseconds, np.float64), PERCENTILES).tolist())
