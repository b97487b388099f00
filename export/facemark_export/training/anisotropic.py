"""Weight matrices of the anisotropic loss: errors across a face's curves count more than along.

Rayhan, Galata, Cootes: Not all points are created equal, section 3.1. No code was released, and the
paper lists no curves; here they are the layout's drawing edges, its "piece-wise lines through the
points around boundaries of structures", and the corners are those it names: of eyes and mouth.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from facemark_sdk.errors import LayoutError
from facemark_sdk.layouts import Layout, get_layout

# Section 5: the best values on 300W; their unit drops out but for the corners' identity matrices.
ALONG = 5.0
ACROSS = 3.0

CORNERS: dict[str, tuple[int, ...]] = {
    "aflw19": (6, 8, 9, 11, 15, 17),
    "cofw29": (8, 9, 10, 11, 22, 23),
    "ibug68": (36, 39, 42, 45, 48, 54, 60, 64),
    "wflw98": (60, 64, 68, 72, 76, 82, 88, 92),
    "lapa106": (66, 70, 75, 79, 84, 90, 96, 100),
}
"""Corners of eyes, outer lips and inner lips: W is the identity there (end of section 3.1)."""


@dataclass(frozen=True, slots=True)
class Curve:
    """A line through landmarks.

    Attributes:
        points: Landmark indices in order, each once.
        closed: Whether the last is joined to the first.
    """

    points: tuple[int, ...]
    closed: bool


def curves_of(layout: Layout) -> tuple[Curve, ...]:
    """The curves that a layout's edges draw: each edge goes on where the one before it ended."""
    curves: list[Curve] = []
    line: list[int] = []
    for start, end in layout.edges:
        if line and start == line[-1] and end == line[0]:
            curves.append(Curve(tuple(line), closed=True))
            line = []
        elif line and start == line[-1]:
            line.append(end)
        else:
            if line:
                curves.append(Curve(tuple(line), closed=False))
            line = [start, end]
    if line:
        curves.append(Curve(tuple(line), closed=False))
    return tuple(curves)


def weight_matrices(
    points: NDArray[np.float32], layout: str, along: float = ALONG, across: float = ACROSS
) -> NDArray[np.float32]:
    """W of every landmark, from the true points: equations 3 to 6.

    Corners, and landmarks on no curve, have the identity. A landmark on two curves takes the first.
    Where the two neighbours coincide, as on closed lips, the direction is unknown: W is then the
    mean over all directions. As W turns with the points, making it from augmented points is making
    it once and turning it with the photo.

    Args:
        points: (N, L, 2).
        layout: Its name; it must have edges and known corners.
        along: a, standard deviation along the curve.
        across: b, standard deviation across it.

    Returns:
        (N, L, 2, 2), symmetric and positive definite.

    Raises:
        LayoutError: Nobody has said which points of the layout are corners.
    """
    before, after, on_curve = _neighbours(layout)
    chords = points[:, after].astype(np.float64) - points[:, before]
    lengths = np.linalg.norm(chords, axis=-1)[..., None, None]
    known = lengths > 0
    outer = chords[..., :, None] * chords[..., None, :] / np.where(known, lengths, 1.0) ** 2
    tangential = np.where(known, outer, np.eye(2) / 2)
    weights = tangential / along**2 + (np.eye(2) - tangential) / across**2
    return np.where(on_curve[:, None, None], weights, np.eye(2)).astype(np.float32)


@cache
def _neighbours(
    layout: str,
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.bool_]]:
    """Landmarks (L,) before and after each on its curve, itself at an end, and which have a W."""
    if layout not in CORNERS:
        raise LayoutError(
            f"no curves and corners are known for layout {layout!r}; the anisotropic loss knows "
            f"{', '.join(CORNERS)}"
        )
    described = get_layout(layout)
    before, after = (np.arange(described.num_points) for _ in range(2))
    on_curve = np.zeros(described.num_points, bool)
    for curve in curves_of(described):
        last = len(curve.points) - 1
        for i, point in enumerate(curve.points):
            if on_curve[point]:
                continue
            on_curve[point] = True
            # i - 1 of the first is the last
            before[point] = curve.points[i - 1] if i or curve.closed else point
            after[point] = curve.points[0 if i == last and curve.closed else min(i + 1, last)]
    on_curve[list(CORNERS[layout])] = False
    return before, after, on_curve
