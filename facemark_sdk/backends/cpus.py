"""What ONNX Runtime should know of the CPU: how many may be used, and whether it is made for int8.

ONNX Runtime counts the machine's cores; in a container with a share of them its threads would
wait for each other most of the time.
"""

from __future__ import annotations

import math
import os
import platform
from functools import cache
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_X86 = ("x86_64", "amd64", "i386", "i686", "x86")
_AMX_INT8 = "amx_int8"
_INT8_FLAGS = {"avx512_vnni", "avx_vnni", _AMX_INT8}
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


@cache
def sums_int8_exactly() -> bool:
    """Whether int8 products are summed in 32 bits: x86 with VNNI or AMX, and all that is not x86.

    Other x86 sums pairs of them in 16 bits. An x86 system that does not say which it has counts as
    such: only Linux says it, and a sandbox may keep that from being read.
    """
    return platform.machine().lower() not in _X86 or not _INT8_FLAGS.isdisjoint(_flags())


def has_amx_int8() -> bool:
    """Whether the CPU says that it multiplies int8 matrices (Intel AMX); only Linux tells."""
    return _AMX_INT8 in _flags()


def _flags() -> frozenset[str]:
    """What an x86 CPU says that it can do; nothing where that cannot be read."""
    try:
        text = _CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    lines = (line for line in text.splitlines() if line.startswith("flags"))
    return frozenset(next(lines, "").split())


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
