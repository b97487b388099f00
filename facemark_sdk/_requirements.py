"""Fail early, and say which extra to install, when a package that an extra brings is missing."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec


def _is_installed(module: str) -> bool:
    # Looked for, not imported: loading ONNX Runtime costs a third of the package's import time.
    # Removing one of two clashing wheels leaves a folder without code, which has no origin.
    try:
        spec = find_spec(module)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None


def require(package: str, modules: Mapping[str, str], remedy: str) -> None:
    """Check that modules are installed.

    Args:
        package: Who needs them.
        modules: Import name to the name that people know.
        remedy: What to install.

    Raises:
        ImportError: One is missing.
    """
    missing = [name for module, name in modules.items() if not _is_installed(module)]
    if missing:
        raise ImportError(
            f"{package} needs {' and '.join(missing)}, which is not installed. "
            f"Install one extra: {remedy}"
        )
