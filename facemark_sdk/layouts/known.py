"""Which layouts there are: six with names of their own, and any number of unnamed points."""

from __future__ import annotations

import re
from functools import cache

from facemark_sdk.errors import LayoutError
from facemark_sdk.layouts.aflw19 import AFLW19
from facemark_sdk.layouts.cofw29 import COFW29
from facemark_sdk.layouts.ibug68 import IBUG68
from facemark_sdk.layouts.kps5 import KPS5
from facemark_sdk.layouts.lapa106 import LAPA106
from facemark_sdk.layouts.layout import Layout, numbered
from facemark_sdk.layouts.wflw98 import WFLW98

LAYOUTS: dict[str, Layout] = {
    layout.name: layout for layout in (KPS5, AFLW19, COFW29, IBUG68, WFLW98, LAPA106)
}

MOST_POINTS = 10_000
"""The largest anonymous layout: far above any face model, small enough to build at once."""
_ANONYMOUS = re.compile(r"points([1-9][0-9]{0,4})")


def get_layout(name: str) -> Layout:
    """The layout of this name.

    ``points20`` and the like name an anonymous layout of so many points, for models whose points
    nobody has described: no flip pairs (so a mirrored face cannot be trained on), no edges, no
    groups, no eye corners.

    Raises:
        LayoutError: No layout has this name.
    """
    if isinstance(name, str):
        if name in LAYOUTS:
            return LAYOUTS[name]
        match = _ANONYMOUS.fullmatch(name)
        if match and int(match[1]) <= MOST_POINTS:
            return _anonymous(int(match[1]))
    raise LayoutError(
        f"unknown layout {name!r}; known layouts: {', '.join(sorted(LAYOUTS))}, "
        f"and points1 to points{MOST_POINTS} for landmarks without a description"
    )


def layouts_with(count: int) -> list[str]:
    """Names of the described layouts that have `count` landmarks; empty when none has."""
    return [layout.name for layout in LAYOUTS.values() if layout.num_points == count]


@cache
def _anonymous(count: int) -> Layout:
    return Layout(
        name=f"points{count}",
        names=numbered(point=count),
        flip_pairs=(),
        edges=(),
        groups={},
        eye_corners=None,
    )
