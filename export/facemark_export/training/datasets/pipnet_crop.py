"""PIPNet's training crops: the box of each data set and the points normalised to it (COMPAT 1.6).

All in float64, as published: some growths miss a whole number by one rounding, which truncation
then turns into a pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from facemark_sdk.errors import DataError

Float = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class AroundPoints:
    """The tight box of the points, grown in truncated steps; points are truncated as well."""

    growth: float


@dataclass(frozen=True, slots=True)
class AroundBox:
    """The set's own box, grown by shares of its width and height; a negative share cuts."""

    sides: float = 0.0
    top: float = 0.0
    bottom: float = 0.0
    clamp_points: bool = False
    """Points outside the image are moved to its border first."""
    count_last: bool = False
    """Width and height that shares are taken of include the last pixel."""


PIPNET_RULES: dict[str, AroundPoints | AroundBox] = {
    "300w": AroundPoints(growth=1.1),
    "wflw": AroundBox(sides=0.1, top=0.1, bottom=0.1, clamp_points=True),
    "cofw": AroundBox(),
    "aflw": AroundBox(clamp_points=True),
    # For self-training across data sets (GSSL).
    "300w-gssl": AroundPoints(growth=1.3),
    "wflw68-gssl": AroundBox(sides=0.1, top=-0.1, bottom=0.1, clamp_points=True),
    "cofw68-gssl": AroundBox(sides=0.15, top=0.15, bottom=0.15, count_last=True),
    "celeba-gssl": AroundBox(sides=0.1, top=-0.15, bottom=0.1, count_last=True),
}
"""COMPAT 1.6, table and 'GSSL variants'. COFW-68's width is the w of the stored x y w h."""


@dataclass(frozen=True, slots=True)
class PipnetCrop:
    """Where a crop is.

    Attributes:
        box: (4,) float64 x0 y0 x1 y1, by which points are normalised.
        points: (L, 2) float64, (p - x0y0) / (x1y1 - x0y0); None for a face without points.
    """

    box: Float
    points: Float | None

    @property
    def pixels(self) -> tuple[int, int, int, int]:
        """First column and row, and those after the last: the box's edges, truncated."""
        left, top, right, bottom = (int(edge) for edge in self.box)
        return left, top, right, bottom


def pipnet_box(
    rule: AroundPoints | AroundBox,
    points: Float | None,
    box: Float | None,
    width: int,
    height: int,
) -> PipnetCrop:
    """The crop of one face, from the numbers as its data set stores them.

    Args:
        rule: One of `PIPNET_RULES`.
        points: (L, 2) in pixels; `AroundPoints` needs them.
        box: (4,) x y of the first and the last pixel; `AroundBox` needs it.
        width: Of the image, in pixels.
        height: Of the image, in pixels.

    Raises:
        DataError: What the rule needs is missing, or no pixel is left.
    """
    if isinstance(rule, AroundPoints):
        if points is None:
            raise DataError("this crop is taken around points, the face has none")
        points = np.trunc(points)
        edges = _around_points(points, rule.growth, (width, height))
    else:
        if box is None:
            raise DataError("this crop is taken around the data set's box, the face has none")
        if points is not None and rule.clamp_points:
            points = np.clip(points, 0, (width, height))
        edges = _around_box(box, rule, (width, height))
    low, high = edges[:2], edges[2:]
    if (np.trunc(high) <= np.trunc(low)).any():
        raise DataError(f"the crop {edges.tolist()} has no pixels in an image of {width}x{height}")
    return PipnetCrop(edges, None if points is None else (points - low) / (high - low))


def _around_points(points: Float, growth: float, size: tuple[int, int]) -> Float:
    edges = np.empty((2, 2))
    for axis, length in enumerate(size):
        low = float(points[:, axis].min())
        extent = float(points[:, axis].max()) - low
        low = max(low - int((growth - 1) / 2 * extent), 0.0)
        extent = min(float(int(growth * extent)), length - low - 1)
        edges[:, axis] = low, low + extent
    return edges.ravel()


def _around_box(box: Float, rule: AroundBox, size: tuple[int, int]) -> Float:
    left, top, right, bottom = np.asarray(box, np.float64).tolist()
    width = right - left + rule.count_last
    height = bottom - top + rule.count_last
    edges = np.array(
        [
            left - rule.sides * width,
            top - rule.top * height,
            right + rule.sides * width,
            bottom + rule.bottom * height,
        ]
    )
    last = (size[0] - 1, size[1] - 1)
    return np.clip(edges, 0, last + last)
