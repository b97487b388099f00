"""What figures were measured on: processor, graphics cards, versions."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime

from facemark_sdk._version import __version__
from facemark_sdk.backends.cpus import limited_cpus
from facemark_sdk.bench.versions import driver_version, package_versions, toolkit_version

_CPUINFO = Path("/proc/cpuinfo")
_SECONDS = 20.0


def describe_machine() -> dict[str, Any]:
    """JSON-safe: ``cpu``, ``cpus`` (that this process may use), ``gpus``, ``system``, ``versions``.

    ``gpus`` are those that nvidia-smi names; without it there are none. ``versions`` tells of
    TensorRT, CUDA and NVIDIA's driver only where they are found.
    """
    return {
        "cpu": _cpu(),
        "cpus": limited_cpus() or os.cpu_count() or 1,
        "gpus": _said_by("nvidia-smi", "--query-gpu=name", "--format=csv,noheader"),
        "system": platform.platform(terse=True),
        "versions": {
            "facemark-sdk": __version__,
            "onnxruntime": onnxruntime.__version__,
            "opencv": cv2.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
            **package_versions(),
            **toolkit_version(),
            **(driver_version() or _driver_by_program()),
        },
    }


def _driver_by_program() -> dict[str, str]:
    """As `driver_version`, where the kernel does not tell: on Windows, also with Linux inside."""
    said = _said_by("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return {"nvidia-driver": said[0]} if said else {}


def _cpu() -> str:
    if _CPUINFO.exists():  # Linux; on ARM it names no model
        for line in _CPUINFO.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    named = _said_by("sysctl", "-n", "machdep.cpu.brand_string")  # macOS
    return named[0] if named else platform.processor() or platform.machine() or "unknown"


def _said_by(*command: str) -> list[str]:
    """Lines that a program prints; none when it is missing or fails."""
    if shutil.which(command[0]) is None:
        return []
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_SECONDS)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]
