"""What the file of a network cannot say and is asked for once: the mean face, the layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from facemark_export.meanface import pip_tables, read_meanface
from facemark_sdk.errors import CheckpointError
from facemark_sdk.layouts import get_layout, layouts_with


def pip_params(
    meanface: Path | None, landmarks: int, neighbours: int, stride: int
) -> dict[str, Any]:
    """The ``pip`` decoder's parameters, with the tables that the mean face gives (COMPAT 1.3).

    Args:
        meanface: Its file, ``--meanface``.
        landmarks: L.
        neighbours: C.
        stride: Pixels a cell.

    Raises:
        CheckpointError: There is no mean face, or it is unusable or of another set.
    """
    if meanface is None:
        raise CheckpointError(
            f"a PIPNet of {landmarks} landmarks with {neighbours} neighbours each, but its file "
            "does not say which they are: pass the mean face of its training set, the published "
            "meanface.txt, with --meanface FILE"
        )
    return {"stride": stride, **pip_tables(read_meanface(meanface, landmarks), neighbours)}


def layout_of(landmarks: int, asked: str | None) -> str:
    """The layout asked for with ``--layout``, or the only known one of so many landmarks.

    A number that no known layout has gets one of numbered points.

    Raises:
        CheckpointError: Several layouts have so many points, or the one asked for has not.
        LayoutError: The one asked for is unknown.
    """
    known = layouts_with(landmarks) if asked is None else [asked]
    if len(known) > 1:
        raise CheckpointError(f"{landmarks} landmarks may be {' or '.join(known)}: pass --layout")
    chosen = known[0] if known else f"points{landmarks}"
    if get_layout(chosen).num_points != landmarks:
        raise CheckpointError(
            f"the network places {landmarks} landmarks, layout {chosen!r} has "
            f"{get_layout(chosen).num_points}"
        )
    return chosen
