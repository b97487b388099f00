"""What every runtime offers to the rest of the SDK: named arrays in, named arrays out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from facemark_sdk.errors import BackendError

_NUMPY_NAMES = {"float": "float32", "double": "float64"}
"""ONNX Runtime's names of element types where they are not numpy's."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One input or output of a model: sides that may vary are names, not numbers."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The element type, as numpy has it."""
        return np.dtype(_NUMPY_NAMES.get(self.dtype, self.dtype))


class Described(Protocol):
    """What a model file says of itself, loaded into a runtime or only read."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """The key-value pairs that travel in the model file."""

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """The model's inputs."""

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """The model's outputs."""


class Backend(ABC):
    """A model file loaded into one runtime. `run` may be called from several threads at once."""

    name: str
    """What the caller asks for it by: ``cpu``, ``cuda``, ..."""

    @property
    @abstractmethod
    def metadata(self) -> Mapping[str, str]:
        """The key-value pairs that travel in the model file."""

    @property
    @abstractmethod
    def inputs(self) -> tuple[TensorInfo, ...]:
        """The model's inputs."""

    @property
    @abstractmethod
    def outputs(self) -> tuple[TensorInfo, ...]:
        """The model's outputs."""

    @abstractmethod
    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run the model once.

        Raises:
            BackendError: The runtime failed, or an input has the wrong name, type or shape.
        """


def check_inputs(
    backend: str, inputs: Mapping[str, NDArray[Any]], wanted: Sequence[TensorInfo]
) -> dict[str, NDArray[Any]]:
    """The inputs as contiguous arrays, where a runtime would copy bytes without looking at them.

    Args:
        backend: Its name.
        inputs: By name.
        wanted: What the model takes.

    Raises:
        BackendError: An input is missing, unknown, or of another type or shape.
    """
    names = [tensor.name for tensor in wanted]
    if set(inputs) != set(names):
        raise BackendError(
            f"backend {backend!r} failed: the model takes {', '.join(names)}, "
            f"got {', '.join(inputs) or 'nothing'}"
        )
    for tensor in wanted:
        array = inputs[tensor.name]
        fits = array.ndim == len(tensor.shape) and all(
            not isinstance(side, int) or side == given
            for side, given in zip(tensor.shape, array.shape, strict=True)
        )
        if array.dtype != tensor.numpy_dtype or not fits:
            raise BackendError(
                f"backend {backend!r} failed: input {tensor.name!r} must be {tensor.numpy_dtype} "
                f"{shown(tensor.shape)}, got {array.dtype} {shown(array.shape)}"
            )
    return {name: np.ascontiguousarray(array) for name, array in inputs.items()}


def shown(shape: Sequence[int | str | None]) -> str:
    """A shape in words; sides that may vary and have no name are ``?``."""
    return " x ".join("?" if side is None else str(side) for side in shape)
