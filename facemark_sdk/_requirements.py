"""Fail early, and say which extra to install, when OpenCV or ONNX Runtime is missing."""

from __future__ import annotations

from importlib.util import find_spec

REQUIRED = {"cv2": "OpenCV", "onnxruntime": "ONNX Runtime"}


def _is_installed(module: str) -> bool:
    # Looked for, not imported: loading ONNX Runtime costs a third of the package's import time.
    # Removing one of two clashing wheels leaves a folder without code, which has no origin.
    try:
        spec = find_spec(module)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None


_missing = [name for module, name in REQUIRED.items() if not _is_installed(module)]
if _missing:
    raise ImportError(
        f"facemark_sdk needs {' and '.join(_missing)}, which is not installed. Install one extra: "
        'pip install "facemark-sdk[cpu]", or pip install "facemark-sdk[gpu]" for NVIDIA GPUs'
    )
