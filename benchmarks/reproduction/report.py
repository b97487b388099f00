"""The tables of docs/reproduction.md from the figures of runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import readings
from markers import between
from rows import Row, Scale
from spreads import Run, difference, markdown, spread

from facemark_sdk.files import replace_file

_COLUMNS = {
    "nme": ("NME %", 2),
    "harder_nme": ("NME % on AFW", 2),
    "failures": ("FR 0.10 %", 1),
    "point_variance": ("point variance, 1e-4", 2),
    "other_nme": ("NME % on video", 2),
}


def write(
    results: Sequence[Run], tables: Mapping[str, Sequence[Row]], docs: Path, scale: Scale
) -> None:
    """Keep the figures as JSON and put the tables between their markers in the document.

    Runs that are kept already and were not made again stay; a table without any run is not touched.

    Args:
        results: Of finished runs.
        tables: The rows, in their order.
        docs: The folder of reproduction.md.
        scale: Of the runs; each has its own file and markers.
    """
    kept = docs / "reproduction" / f"{scale}.json"
    kept.parent.mkdir(parents=True, exist_ok=True)
    runs = {_key(run): run for run in json.loads(kept.read_text())} if kept.exists() else {}
    runs |= {_key(run): run for run in results}
    lines = ",\n".join(json.dumps(runs[key]) for key in sorted(runs))
    _replace(kept, f"[\n{lines}\n]\n")
    page = docs / "reproduction.md"
    text = page.read_text()
    for name, rows in tables.items():
        by_row = {
            r.name: [run for run in runs.values() if _key(run)[:2] == (name, r.name)] for r in rows
        }
        by_row = {row: sorted(found, key=_key) for row, found in by_row.items() if found}
        if not by_row:
            continue
        several = any(row.readings for row in rows)
        content = readings.table(by_row) if several else table(by_row)
        text = between(text, f"{scale}: {name}", content)
        if any(row.perturbed for row in rows):
            text = between(text, f"{scale}: {name}, made harder", readings.perturbed(by_row))
    _replace(page, text)


def table(by_row: Mapping[str, Sequence[Run]]) -> str:
    """Markdown: a line a row, means over seeds with their standard deviation.

    The NME less that of the first row is that of the same faces, averaged over each one's seeds,
    with the 95 % interval of a bootstrap over photos.
    """
    first = next(iter(by_row))
    rounds = any(run["rounds"] for runs in by_row.values() for run in runs)
    heads = ["", *(head for head, _ in _COLUMNS.values()), f"NME less that of {first}"]
    heads += ["NME % by round"] * rounds + ["seeds"]
    lines = []
    for name, runs in by_row.items():
        cells = [
            spread([run[key] for run in runs], digits) for key, (_, digits) in _COLUMNS.items()
        ]
        cells.append("" if name == first else difference(runs, by_row[first]))
        if rounds:
            cells.append(
                ", ".join(f"{x:.2f}" for x in np.mean([r["rounds"] for r in runs], axis=0))
            )
        lines.append([name, *cells, str(len(runs))])
    return markdown(heads, lines)


def _key(run: Run) -> tuple[str, str, int]:
    return run["table"], run["row"], run["seed"]


def _replace(path: Path, text: str) -> None:
    replace_file(path, lambda temporary: temporary.write_text(text))
