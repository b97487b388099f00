"""What a foreign file turned out to be: how it is fed, what its outputs are, the spec it gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from facemark_export.foreign.foreign_file import Floats, ForeignFile, Preprocessing
from facemark_sdk import __version__
from facemark_sdk.spec import InputSpec, ModelSpec

UNKNOWN = "unknown; the file does not say, ask whoever published it"


@dataclass(frozen=True)
class Output:
    """One of the file's outputs.

    Attributes:
        name: What the SDK's decoder calls it.
        width: Its last axis where it becomes (N, rows, width); None leaves its shape alone.
    """

    name: str
    width: int | None = None


@dataclass(frozen=True)
class Reading:
    """A foreign file, understood.

    Attributes:
        kind: In words.
        preprocessing: What its network wants done to the pixels.
        outputs: In the order of the file's.
        spec: What the written file says of itself; width and height 0 where any are taken.
        one_by_one: Whether its outputs have no axis for the batch.
    """

    kind: str
    preprocessing: Preprocessing
    outputs: tuple[Output, ...]
    spec: ModelSpec
    one_by_one: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the written file's outputs."""
        return tuple(output.name for output in self.outputs)

    def named(self, arrays: Sequence[Floats], images: int) -> dict[str, Floats]:
        """The file's own outputs for so many images as the written file's must be."""
        return {
            output.name: array
            if output.width is None
            else np.reshape(array, (images, -1, output.width))
            for output, array in zip(self.outputs, arrays, strict=True)
        }


def common_fields(
    file: ForeignFile,
    preprocessing: Preprocessing,
    sides: tuple[int, int],
    name: str | None,
    licence: str | None = None,
) -> dict[str, Any]:
    """The fields of `ModelSpec` that every foreign file's spec has alike.

    Args:
        file: The file.
        preprocessing: As in the network's training.
        sides: Height and width of the input, 0 for any.
        name: The file's own name when None.
        licence: Unknown when None.
    """
    mean, std = (
        tuple(value * preprocessing.divisor for value in values)
        for values in (preprocessing.mean, preprocessing.std)
    )
    return {
        "name": name or file.path.stem,
        "input": InputSpec(sides[1], sides[0], "RGB", mean, std),  # type: ignore[arg-type]
        "precision": file.precision,
        "producer": f"facemark-export {__version__}",
        "source_sha256": file.sha256,
        "training_data": UNKNOWN,
        "licence": licence or UNKNOWN,
    }
