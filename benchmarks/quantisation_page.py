"""The section that quantisation.py writes: tables, and words about their figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from facemark_sdk.files import replace_file
from quantisation_faces import FACE_PIXELS, INPUT, WFLW_TEST
from reproduction.markers import between

SECTION = "quantisation"
SETS = {"wflw98": "WFLW", "ibug68": "300W"}
PAPER = {
    ("wflw98", 0): 1.285,
    ("ibug68", 0): 1.111,
    ("wflw98", 4): 0.420,
    ("wflw98", 8): 0.182,
    ("wflw98", 16): 0.091,
}
"""HIH, section IV-B (plain maps) and Table IX (decimal maps of so many cells), NME in %."""
MAPS = {
    "floor": "cell that holds the point",
    "round": "nearest cell",
    "continuous": "continuous",
}
DECODERS = {
    "argmax": "arg-max",
    "quarter_shift": "quarter shift",
    "dark": "DARK",
    "barycentre_sum": "barycentre",
    "barycentre": "barycentre of the softmax",
    "local_soft_argmax": "local soft-argmax",
}
Row = Mapping[str, Any]


def write(page: Path, figures: Mapping[str, Any]) -> None:
    """Put the section between its markers; at the end where the page has none."""
    text = between(page.read_text(), SECTION, section(figures))
    replace_file(page, lambda temporary: temporary.write_text(text))


def section(figures: Mapping[str, Any]) -> str:
    """The section in Markdown."""
    rows = figures["rows"]
    wflw98, ibug68 = (figures["faces"][layout] for layout in SETS)
    argmax = _find(rows, "subpixel", "wflw98", "round", "argmax")["nme"]
    return f"""## What the grid alone costs

True landmarks are made into maps of 64 x 64 cells by our training targets and read back by the
SDK's decoders; nothing is learned. Shapes: the {wflw98:,} of WFLW's {WFLW_TEST:,} test faces that
are in one of its six subsets (the others, the easier ones, are not at hand) and the {ibug68} of
300W's full test set. NME in % of the distance of the outer eye corners; sigma is 1.5 cells for
WFLW and 1 for 300W. What writes this section:

```
python benchmarks/quantisation.py --data ../shared/data --docs docs
```

![Quantisation errors](reproduction/quantisation.png)

**In the crop of COMPAT 3.3**, a square about the tight box of the points, 1.2 times its longer side
(neither file has another box):

{_main_table(rows)}

No decoder gets back what rounding threw away. From continuous maps the quarter shift gets half of
it, the local soft-argmax two thirds at sigma 1 and nine tenths at 1.5, DARK and the barycentre
practically all. The barycentre of the softmax is for maps that were trained through a softmax: an
L2 target's is near the middle of the map, wherever the landmark is. So GET_BC of an L2 map, which
the Wasserstein paper's Table 2 finds bad but not hopeless, must be the barycentre of the map's own
values. That is exact for true maps; what spoils it is what a network leaves elsewhere in the map.

**By which convention HIH's figures come out** (section IV-B; Table IX, "Ideal"):

{_convention_table(rows)}

{_hih_words(figures)}

**Subpixel's decoder** (its Figure 3, whose figures are not stated; the picture's lower right), in
its crop, a square with the face {FACE_PIXELS} of {INPUT} pixels long. WFLW, continuous maps, of
which the arg-max leaves {argmax:.3f}:

{_window_table(rows)}

With tau = 10 the decoder wants maps that peak at 1 and a sigma of 1.5 or more; at sigma 1 the
softmax is too peaked, and a third of the error stays. With the height 1 / (2 pi sigma^2) of
equation 1 it weighs the window's cells nearly alike and leaves most of the error. So our targets
peak at 1."""


def _hih_words(figures: Mapping[str, Any]) -> str:
    """Why the figures differ from HIH's."""
    rows, curves = figures["rows"], figures["growth_curves"]

    def both(maps: str) -> str:
        square = (_find(rows, "square", layout, maps, "argmax") for layout in SETS)
        return " and ".join(f"{row['nme']:.3f}" for row in square)

    def decimals(quantise: str) -> str:
        given = {"inner_quantise": quantise}
        found = (
            _find(rows, "pipnet", "wflw98", "floor", "hih", inner=inner, **given)
            for inner in (4, 8, 16)
        )
        return " / ".join(f"{row['nme_whole_set']:.3f}" for row in found)

    def needed(layout: str) -> float:
        """The square crop's side with the paper's figure; errors grow in proportion to it."""
        errors = np.array(curves[layout]["round"])
        return PAPER[layout, 0] * float(np.mean(curves[layout]["growth"] / errors))

    least = " and ".join(f"{min(curves[layout]['floor']):.3f}" for layout in SETS)
    ibug68 = _find(rows, "pipnet", "ibug68", "round", "argmax")["nme"]
    wflw98 = _find(rows, "pipnet", "wflw98", "round", "argmax")["nme_whole_set"]
    missing, easy = WFLW_TEST - figures["faces"]["wflw98"], figures["wflw_easy_faces"]
    return f"""- *Rounding.* The cell that holds the point (HIH's equation 1 and its published code)
  gives {both("floor")}; no square crop that holds the points gives less than {least}. The
  paper's 1.285 and 1.111 are those of the nearest cell, as its Figure 3 says ("round"), or, which
  is nearly the same, of the cell that holds the point, read at its middle.
- *Crop.* In the square crop the nearest cell gives {both("round")}, too much; the paper's
  figures would need squares of {needed("wflw98"):.2f} and {needed("ibug68"):.2f} times. In
  PIPNet's crops (COMPAT 1.6; errors in units of the crop, COMPAT 1.7) 300W gives {ibug68:.3f}
  against 1.111. That these are the paper's is our inference, it does not say so. They are not
  square: 300W's tight box of whole-pixel points grows to 1.1 times, WFLW's own box by a tenth on
  each side. For that box, which we do not have, the tight one in whole pixels stands; nor do we
  have the photos' sizes, at which crops end.
- *Faces.* Under "all", the {missing} missing faces are taken to be like the {easy} whose only
  attributes are illumination or make-up: {wflw98:.3f} against 1.285.
- *Decimal maps.* Places in the cell are rounded, and one that is rounded to the cell after the last
  is lost (COMPAT 3.3): {decimals("round")} against 0.420 / 0.182 / 0.091. Equation 2's
  signs are those of floor, which gives {decimals("floor")}. The 4 x 4 map stays 4 % off and
  the 16 x 16 map 6 %, as the paper's three are not of one rule: {_lossless(wflw98)}
- COFW's 0.864 has no row: its shapes are not at hand."""


def _lossless(nearest: float) -> str:
    """What decimal maps would leave without a loss at the cell's end, beside the paper's.

    Args:
        nearest: What the nearest cell leaves, in %, in the paper's crop.
    """
    ours = {inner: nearest / inner for inner in (4, 8, 16)}
    four, eight, sixteen = (PAPER["wflw98", inner] / left for inner, left in ours.items())
    lossless = " / ".join(f"{left:.3f}" for left in ours.values())
    return f"""its 8 x 8 figure is twice
  its 16 x 16 figure, as where rounding loses nothing, which would give the nearest cell's by 4, 8
  and 16, {lossless}. They are {eight:.2f} and {sixteen:.2f} times that, so presumably of a
  larger crop than the 1.285 is; but its 4 x 4 figure is {four:.2f} times, as if places were lost at
  the end of the cell, of which a small map has more."""


def _find(
    rows: Sequence[Row], table: str, layout: str, maps: str, decoder: str, **given: Any
) -> Row:
    """A table's first row that is so; places in a cell are rounded unless given otherwise."""
    wanted = {"table": table, "layout": layout, "maps": maps, "decoder": decoder}
    wanted |= {"inner_quantise": "round", **given}
    return next(row for row in rows if all(row[key] == value for key, value in wanted.items()))


def _main_table(rows: Sequence[Row]) -> str:
    lines = [["maps", "read by", *SETS.values(), "paper, WFLW", "paper, 300W"]]
    mine = [row for row in rows if row["table"] == "square"]
    for row in (row for row in mine if row["layout"] == "wflw98"):
        other = next(one for one in mine if one["layout"] == "ibug68" and _alike(one, row))
        errors = [f"{row['nme']:.3f}", f"{other['nme']:.3f}"]
        lines.append([MAPS[row["maps"]], read_by(row), *errors, paper(row), paper(other)])
    return _table(lines, 2)


def _convention_table(rows: Sequence[Row]) -> str:
    crops = {"square": "square crop", "pipnet": "PIPNet's crop"}
    heads = [f"WFLW, {words}" for crop in crops.values() for words in (crop, f"{crop}, all")]
    heads += ["paper", *(f"300W, {crop}" for crop in crops.values()), "paper"]
    lines = [["maps", "read by", *heads]]
    for row in (row for row in rows if (row["table"], row["layout"]) == ("pipnet", "wflw98")):
        same = {(one["layout"], one["table"]): one for one in rows if _alike(one, row)}
        wflw = [same["wflw98", crop] for crop in crops]
        cells = [f"{one[key]:.3f}" for one in wflw for key in ("nme", "nme_whole_set")]
        cells.append(paper(row))
        cells += [f"{same['ibug68', crop]['nme']:.3f}" for crop in crops]
        cells.append(paper(same["ibug68", "pipnet"]))
        lines.append([MAPS[row["maps"]], read_by(row), *cells])
    return _table(lines, 2)


def _window_table(rows: Sequence[Row]) -> str:
    """A line a sigma; the readings of a sigma stand in the same order."""
    mine = [row for row in rows if row["table"] == "windows"]
    sigmas = sorted({row["sigma"] for row in mine})
    by_sigma = {sigma: [row for row in mine if row["sigma"] == sigma] for sigma in sigmas}
    heads = [read_by(row) for row in by_sigma[sigmas[0]]]
    lines = [["sigma, cells", *heads]]
    for sigma, some in by_sigma.items():
        lines.append([f"{sigma:g}", *(f"{row['nme']:.3f}" for row in some)])
    return _table(lines, 1)


def _alike(row: Row, other: Row) -> bool:
    """Whether two rows are of the same maps, read in the same way."""
    keys = ("maps", "decoder", "params", "inner", "inner_quantise", "unit_sum")
    return all(row[key] == other[key] for key in keys)


def read_by(row: Row) -> str:
    """A row's decoder in words."""
    if row["inner"]:
        how = "" if row["inner_quantise"] == "round" else ", floor instead of rounding"
        return f"HIH, decimal map {row['inner']} x {row['inner']}{how}"
    name = DECODERS[row["decoder"]]
    if "origin" in row["params"]:
        return f"{name}, at the cell's middle"
    if "window" in row["params"]:
        window, tau = row["params"]["window"], row["params"]["temperature"]
        height = ", height of equation 1" if row["unit_sum"] else ""
        return f"{name}, {window:g} x {window:g}, tau {tau:g}{height}"
    return name


def paper(row: Row) -> str:
    """The paper's figure in its best row only: rounded, as the paper must have done."""
    plain = row["maps"] == "round" and row["decoder"] == "argmax"
    decimal = row["inner"] and row["inner_quantise"] == "round"
    figure = PAPER.get((row["layout"], row["inner"])) if plain or decimal else None
    return "" if figure is None else f"{figure:.3f}"


def _table(lines: Sequence[Sequence[str]], words: int) -> str:
    """Markdown of a head and lines; all but the first columns are numbers."""
    rule = ["---"] * words + ["---:"] * (len(lines[0]) - words)
    return "\n".join("| " + " | ".join(line) + " |" for line in [lines[0], rule, *lines[1:]])
