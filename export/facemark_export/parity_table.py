"""What a parity check found, as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from facemark_export.parity import ParityReport


def parity_table(title: str, checks: Mapping[str, ParityReport]) -> Table:
    """A column a check, a row a kind of difference."""
    table = Table(title=title)
    table.add_column("largest difference of")
    for check in checks:
        table.add_column(check, justify="right")
    rows = {
        "raw outputs": [
            "" if check.largest_map_difference is None else f"{check.largest_map_difference:.2e}"
            for check in checks.values()
        ],
        "points": [f"{check.largest_px:.2e} px" for check in checks.values()],
        "points, the mean": [f"{check.mean_px:.2e} px" for check in checks.values()],
        "points, the median": [f"{check.median_px:.2e} px" for check in checks.values()],
        "scores": [f"{check.largest_score_difference:.2e}" for check in checks.values()],
        "argmax flips": [_flips(check.flip_margins) for check in checks.values()],
        "ties among the points": [f"{check.ties} of {check.points}" for check in checks.values()],
    }
    for name, cells in rows.items():
        table.add_row(name, *cells)
    return table


def _flips(margins: tuple[float, ...]) -> str:
    return f"{len(margins)}, margin up to {max(margins):.1e}" if margins else "0"
