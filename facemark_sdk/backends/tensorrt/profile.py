"""The shapes that an engine is built for: TensorRT tunes it for some and takes no others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from facemark_sdk.backends.base import TensorInfo
from facemark_sdk.errors import BackendError, ModelError
from facemark_sdk.spec import ModelSpec

SIDE_STEP = 32
"""Pixels: detectors' canvases are whole multiples of it, their largest stride."""

MAX_BATCH = 1024
MAX_SIDE = 8192

Range = tuple[int, int, int]
"""The least, the one to tune for, the most."""


@dataclass(frozen=True, slots=True)
class Profile:
    """What an engine's image input may be.

    Attributes:
        batch: Images at once. More than the most are run in parts, fewer than the least filled up.
        sides: Height and width in pixels, for a detector whose graph takes any; None for others.
    """

    batch: Range
    sides: Range | None = None

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            BackendError: One falls, or is out of bounds.
        """
        _check("batch", self.batch, MAX_BATCH)
        if self.sides is not None:
            _check("sides", self.sides, MAX_SIDE)

    def for_input(self, image: TensorInfo) -> Profile:
        """The same, with the file's own batch where that is fixed: no engine takes another.

        Args:
            image: (N, H, W, 3), as for `shapes`.
        """
        batch = image.shape[0] if image.shape else None
        return replace(self, batch=(batch, batch, batch)) if isinstance(batch, int) else self

    def shapes(self, image: TensorInfo) -> list[tuple[int, ...]]:
        """The least, tuned and largest shape of the image input; fixed sides stay as they are.

        Args:
            image: (N, H, W, 3) with names for the sides that may vary.

        Raises:
            ModelError: A side may vary that the profile does not speak of, or none may and it does.
        """
        if self.sides is not None and all(isinstance(side, int) for side in image.shape[1:3]):
            raise ModelError(
                f"input {image.name!r} is always {image.shape[1]} x {image.shape[2]} pixels; leave "
                "out --engine-sides"
            )
        ranges = (self.batch, self.sides, self.sides, None)
        if len(image.shape) != len(ranges):
            raise ModelError(f"input {image.name!r} must be (N, H, W, 3), got {image.shape}")
        columns = []
        for side, choices in zip(image.shape, ranges, strict=True):
            if isinstance(side, int):
                columns.append((side, side, side))
            elif choices is None:
                raise ModelError(
                    f"input {image.name!r} of shape {image.shape} takes any height and width; "
                    "an engine needs their range (--engine-sides)"
                )
            else:
                columns.append(choices)
        return list(zip(*columns, strict=True))

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        return {
            "batch": list(self.batch),
            "sides": None if self.sides is None else list(self.sides),
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Profile:
        """Read `to_dict`'s output back.

        Raises:
            BackendError, KeyError, TypeError, ValueError: It is none.
        """
        sides = record["sides"]
        return cls(_range(record["batch"]), None if sides is None else _range(sides))


def default_profile(spec: ModelSpec) -> Profile:
    """For faces, crops of one face up to the SDK's own batches; for detectors, few images.

    A detector is tuned for its own det_size and takes canvases up to twice that.
    """
    if spec.task == "landmarks":
        return Profile(batch=(1, 8, 64))  # 64: LandmarkModel's own largest batch
    if spec.input.width:
        return Profile(batch=(1, 1, 8))
    side = -(-int(spec.decoder_params["det_size"]) // SIDE_STEP) * SIDE_STEP
    return Profile(batch=(1, 1, 8), sides=(SIDE_STEP, side, 2 * side))


def _range(values: Sequence[int]) -> Range:
    least, best, most = values
    return (least, best, most)


def _check(name: str, values: Range, limit: int) -> None:
    whole = all(type(value) is int for value in values)
    if not whole or not 1 <= values[0] <= values[1] <= values[2] <= limit:
        raise BackendError(
            f"an engine's {name} must be three rising whole numbers from 1 to {limit}: the least, "
            f"the one to tune for, the most; got {' '.join(map(str, values))}"
        )
