"""What every runtime offers to the rest of the SDK: named arrays in, named arrays out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One input or output of a model: sides that may vary are names, not numbers."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]


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
