"""How many CPUs this process may use, where that is fewer than the machine has.

ONNX Runtime counts the machine's cores; in a container with a share of them its threads would
wait for each other most of the time.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

_CGROUP_V2 = Path("/sys/fs/cgroup/cpu.max")
_CGROUP_V1 = (
    Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"),
    Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us"),
)


def limited_cpus() -> int | None:
    """CPUs allowed by affinity and container quota; None when neither limits this process."""
    machine = os.cpu_count() or 1
    limit = min(_affinity(machine), _quota(machine))
    return limit if limit < machine else None


def _affinity(machine: int) -> int:
    if not hasattr(os, "sched_getaffinity"):  # not on Windows and macOS
        return machine
    return len(os.sched_getaffinity(0))


def _quota(machine: int) -> int:
    try:
        if _CGROUP_V2.exists():
            quota, period = _CGROUP_V2.read_text().split()
        else:
            quota, period = (path.read_text() for path in _CGROUP_V1)
        share = float(quota) / float(period)
    except (OSError, ValueError):  # no cgroup, or quota "max"
        return machine
    return max(1, math.ceil(share)) if share > 0 else machine
