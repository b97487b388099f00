"""What a decoder gives: points, how sure it is of each, and where it knows that, their spread."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from numpy import float32
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[float32]


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """Landmarks of N crops, as fractions of the crop's sides.

    Attributes:
        points: (N, L, 2) float32, x and y; may lie outside 0..1.
        scores: (N, L) float32 in 0..1.
        covariances: (N, L, 2, 2) float32 of each point, in squared fractions; None where the
            decoder has none.
    """

    points: Floats
    scores: Floats
    covariances: Floats | None = None


def output_of(outputs: Mapping[str, Floats], name: str, shape: tuple[int, ...]) -> Floats:
    """A network's output, of the one shape that fits its others: numpy would stretch it.

    Raises:
        ValueError: It has another shape.
    """
    output = outputs[name]
    if output.shape != shape:
        raise ValueError(f"{name} should be {shape}")
    return output


# the network's outputs by name, each (N, ...) float32
Decoder: TypeAlias = Callable[[Mapping[str, Floats]], Decoded]
