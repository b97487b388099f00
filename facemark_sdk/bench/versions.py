"""Versions of what a GPU runs on, read from what is installed and without importing any of it."""

from __future__ import annotations

import json
import re
from importlib.metadata import distributions
from pathlib import Path

_PACKAGES = re.compile(
    r"onnxruntime-gpu|tensorrt(-cu\d+)?|cuda-(python|bindings)|pycuda"
    r"|nvidia-(cuda-runtime|cudnn)(-cu\d+)?"
)
_TOOLKIT = Path("/usr/local/cuda/version.json")
_DRIVER = Path("/proc/driver/nvidia/version")
_DRIVER_VERSION = re.compile(r"Kernel Module.*?\s(\d+(?:\.\d+)+)\s")


def package_versions() -> dict[str, str]:
    """Installed packages that bring TensorRT, CUDA or their Python interfaces, by name."""
    found: dict[str, str] = {}
    for package in distributions():
        try:
            name, version = package.metadata["Name"], package.metadata["Version"]
        except (KeyError, TypeError):
            continue
        if not (name and version):  # what a broken installation left behind
            continue
        name = re.sub(r"[-_.]+", "-", name).lower()
        if _PACKAGES.fullmatch(name):
            found.setdefault(name, version)  # as an import, which takes the first on the path
    return dict(sorted(found.items()))


def toolkit_version() -> dict[str, str]:
    """``cuda-runtime`` of the system's CUDA; empty where there is none in its usual place."""
    try:
        content = json.loads(_TOOLKIT.read_text(encoding="utf-8"))
        return {"cuda-runtime": str(content["cuda_cudart"]["version"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def driver_version() -> dict[str, str]:
    """``nvidia-driver`` as the kernel tells it; empty where it does not."""
    try:
        found = _DRIVER_VERSION.search(_DRIVER.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {"nvidia-driver": found[1]} if found else {}
