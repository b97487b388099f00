"""The tables of docs/reproduction.md from the figures of runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from rows import Row, Scale

from facemark_sdk.files import replace_file

_COLUMNS = {
    "nme": ("NME %", 2),
    "failures": ("FR 0.10 %", 1),
    "point_variance": ("point variance, 1e-4", 2),
    "other_nme": ("NME % on video frames", 2),
}


def write(
    results: list[dict[str, Any]], tables: dict[str, list[Row]], docs: Path, scale: Scale
) -> None:
    """Keep the figures as JSON and put the tables between their markers in the document.

    Args:
        results: Of finished runs.
        tables: The rows, in their order.
        docs: The folder of reproduction.md.
        scale: Of the runs; each has its own file and markers.
    """
    kept = docs / "reproduction" / f"{scale}.json"
    kept.parent.mkdir(parents=True, exist_ok=True)
    _replace(kept, json.dumps(results, indent=1) + "\n")
    page = docs / "reproduction.md"
    text = page.read_text()
    for name, rows in tables.items():
        text = _between(text, f"{scale}: {name}", table(results, rows))
    _replace(page, text)


def table(results: list[dict[str, Any]], rows: list[Row]) -> str:
    """Markdown: a line a row, means over seeds with their standard deviation."""
    by_row = {row.name: [r for r in results if _of(r, row)] for row in rows}
    by_row = {name: runs for name, runs in by_row.items() if runs}
    if not by_row:
        return "Not run."
    rounds = max(len(run["rounds"]) for runs in by_row.values() for run in runs)
    heads = ["", *(head for head, _ in _COLUMNS.values())]
    heads += ["NME % by round"] * bool(rounds) + ["seeds", "CPU minutes a run"]
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)]]
    for name, runs in by_row.items():
        cells = [
            _spread([run[key] for run in runs], digits) for key, (_, digits) in _COLUMNS.items()
        ]
        if rounds:
            taken = [run["rounds"] for run in runs]
            cells.append(", ".join(f"{x:.2f}" for x in np.mean(taken, axis=0)) if taken[0] else "")
        minutes = np.mean([run["cpu_minutes"] for run in runs])
        lines.append([name, *cells, str(len(runs)), f"{minutes:.0f}"])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _of(result: dict[str, Any], row: Row) -> bool:
    return bool(result["table"] == row.table and result["row"] == row.name)


def _spread(values: list[float], digits: int) -> str:
    """Mean and, of several values, their standard deviation."""
    mean = f"{np.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.{digits}f}"


def _between(text: str, name: str, content: str) -> str:
    """The text with what stands between two markers replaced; a new section when there is none."""
    start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    if start not in text:
        text = f"{text.rstrip()}\n\n{start}\n{end}\n"
    before, rest = text.split(start, 1)
    after = rest.split(end, 1)[1]
    return f"{before}{start}\n{content}\n{end}{after}"


def _replace(path: Path, text: str) -> None:
    replace_file(path, lambda temporary: temporary.write_text(text))
