"""MATLAB files: version 7.3 is HDF5 and read by h5py, older ones by SciPy."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facemark_sdk.errors import DataError

DAMAGE = (OSError, ValueError, TypeError, LookupError, RuntimeError, zlib.error, struct.error)
"""What the readers raise on damaged files, by the place of the damage."""
_EXTRA = 'pip install "facemark-sdk[train]"'


def load_v5(path: Path, *names: str) -> list[NDArray[Any]]:
    """Variables of a file before version 7.3, in MATLAB's shapes.

    Raises:
        DataError: The file is none, lacks one of them, or SciPy is not installed.
    """
    try:
        from scipy.io import loadmat
        from scipy.io.matlab import MatReadError
    except ImportError:
        raise DataError(f"{path} needs SciPy, which comes with an extra: {_EXTRA}") from None
    try:
        content = loadmat(path)
    except (MatReadError, NotImplementedError, *DAMAGE) as error:
        raise DataError(f"{path} is not a readable MATLAB 5 to 7 file: {error}") from None
    lacking = [name for name in names if name not in content]
    if lacking:
        raise DataError(f"{path} has no variable {', '.join(lacking)}")
    return [content[name] for name in names]


def hdf5() -> ModuleType:
    """The h5py module.

    Raises:
        DataError: It is not installed.
    """
    try:
        import h5py
    except ImportError:
        raise DataError(
            f"MATLAB 7.3 files need h5py, which comes with an extra: {_EXTRA}"
        ) from None
    module: ModuleType = h5py
    return module


def matrix(values: Any, shape: tuple[int | None, int], what: str) -> NDArray[np.float64]:
    """A matrix of finite numbers as float64; None in `shape` stands for any size.

    Raises:
        DataError: It has another shape or is not numeric; `what` names it.
    """
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        raise DataError(f"{what} is not a matrix of numbers") from None
    rows, columns = shape
    if array.ndim != 2 or array.shape[1] != columns or rows not in (None, len(array)):
        raise DataError(f"{what} has shape {array.shape}, want {rows or 'faces'} x {columns}")
    if not np.isfinite(array).all():
        raise DataError(f"{what} holds numbers that are not finite")
    return array
