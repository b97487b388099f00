"""The picture that quantisation.py draws: errors of all readings, by the crop, over the faces."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from facemark_sdk.evaluation.plots import DPI, require_matplotlib
from quantisation_page import DECODERS, MAPS, PAPER, SETS, Row, paper, read_by

COLOURS = {"wflw98": "tab:blue", "ibug68": "tab:orange"}
NORM = "% of the distance of the outer eye corners"


def picture(rows: Sequence[Row], curves: Mapping[str, Mapping[str, Sequence[float]]]) -> bytes:
    """A PNG file's bytes: errors of all readings, by the crop's size, over the faces."""
    require_matplotlib()
    from matplotlib.figure import Figure  # no pyplot: it keeps state and may want a screen

    figure = Figure(figsize=(11, 10.5), dpi=DPI, layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=(1.25, 1))  # else its names move both
    _draw_readings(upper.add_subplot(), rows)
    left, right = lower.subplots(1, 2)
    _draw_growths(left, curves)
    _draw_faces(right, rows)
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


def _draw_readings(axes: Any, rows: Sequence[Row]) -> None:
    mine = [row for row in rows if row["table"] == "square"]
    names: list[str] = []
    for offset, (layout, name) in zip((-0.18, 0.18), SETS.items(), strict=True):
        some = [row for row in mine if row["layout"] == layout]
        names = [f"{MAPS[row['maps']]}: {read_by(row)}" for row in some]
        places = np.arange(len(some)) + offset
        axes.plot([row["nme"] for row in some], places, "o", color=COLOURS[layout], label=name)
        stated = [(float(paper(r)), p) for r, p in zip(some, places, strict=True) if paper(r)]
        look = {"color": COLOURS[layout], "markersize": 8, "markerfacecolor": "none"}
        axes.plot(*zip(*stated, strict=True), "D", label=f"{name}, HIH's paper", **look)
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.invert_yaxis()
    axes.set(xscale="log", xlabel=f"NME, {NORM}")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_title("Maps of true landmarks, read back (square crop, 1.2 times the tight box)")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", fontsize=9)


def _draw_growths(axes: Any, curves: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    for layout, curve in curves.items():
        look = {"color": COLOURS[layout]}
        axes.plot(
            curve["growth"], curve["round"], "-", label=f"{SETS[layout]}, nearest cell", **look
        )
        holds = f"{SETS[layout]}, cell that holds the point"
        axes.plot(curve["growth"], curve["floor"], "--", label=holds, **look)
        paper = PAPER[layout, 0]
        axes.axhline(paper, linestyle=":", label=f"{SETS[layout]}, HIH's paper: {paper}", **look)
    axes.set(
        xlabel="crop's side / longer side of the tight box",
        ylabel=f"NME, {NORM}",
        xlim=(min(curve["growth"]), max(curve["growth"])),
        ylim=(0, 5),
        title="Arg-max, by the size of a square crop",
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9, loc="upper left")


def _draw_faces(axes: Any, rows: Sequence[Row]) -> None:
    for row in (row for row in rows if row["table"] == "subpixel"):
        errors = np.sort(row["errors"])
        shares = 100 * np.arange(1, len(errors) + 1) / len(errors)
        name = f"{SETS[row['layout']]}: {MAPS[row['maps']]}, {DECODERS[row['decoder']]}"
        style = "--" if row["maps"] == "round" else "-"
        axes.plot(errors, shares, style, color=COLOURS[row["layout"]], label=name)
    axes.set(
        xscale="log",
        xlim=(0.001, 10),
        xlabel=f"NME of a face, {NORM}",
        ylabel="faces with at most this NME, %",
        ylim=(0, 100),
        title="Subpixel's Figure 3: face 220 of 256 pixels long",
    )
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="upper left")
