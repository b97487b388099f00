"""What a landmark layout is: its points' names, mirror pairs, drawing edges and groups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Layout:
    """An ordered set of named landmarks. Left and right are the subject's, as in the 300W papers.

    Attributes:
        name: The layout's name, as models state it (``ibug68``).
        names: One name a landmark, in order; their number is L.
        flip_pairs: Pairs of landmarks that change places when the image is mirrored.
        edges: Pairs of landmarks that a drawing connects.
        groups: Named parts of the face, each a tuple of landmark indices.
        eye_corners: The two landmarks whose distance normalises errors (inter-ocular NME); None
            where nobody knows which points are eyes.
    """

    name: str
    names: tuple[str, ...]
    flip_pairs: tuple[tuple[int, int], ...]
    edges: tuple[tuple[int, int], ...]
    eye_corners: tuple[int, int] | None
    groups: Mapping[str, tuple[int, ...]] = field(hash=False)

    @property
    def num_points(self) -> int:
        """L, the number of landmarks."""
        return len(self.names)

    @cached_property
    def flip_index(self) -> NDArray[np.intp]:
        """(L,) permutation: mirrored points are ``points[flip_index]`` with x mirrored."""
        index = np.arange(self.num_points)
        for a, b in self.flip_pairs:
            index[a], index[b] = b, a
        index.setflags(write=False)
        return index

    def __repr__(self) -> str:
        return f"Layout({self.name!r}, {self.num_points} points)"


def numbered(**parts: int) -> tuple[str, ...]:
    """Names for parts of so many points each: ``jaw=2, chin=1`` gives jaw_0, jaw_1, chin_0."""
    return tuple(f"{part}_{i}" for part, count in parts.items() for i in range(count))


def chain(first: int, last: int, *, closed: bool = False) -> tuple[tuple[int, int], ...]:
    """Edges first-(first+1)-...-last, with last-first as well when the curve is closed."""
    edges = tuple((i, i + 1) for i in range(first, last))
    return (*edges, (last, first)) if closed else edges
