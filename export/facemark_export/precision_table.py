"""The precision ladder as a table for the terminal."""

from __future__ import annotations

from rich.table import Table

from facemark_export.precision import Ladder


def ladder_table(ladder: Ladder) -> Table:
    """A column a precision, a row a figure."""
    rows = ladder.rows()
    table = Table("on the validation faces", *rows, title=ladder.protocol)
    for figure in rows["fp32"]:
        cells = (f"{row[figure]:.4g}" for row in rows.values())
        table.add_row(figure.replace("_", " "), *cells)
    captions = []
    if ladder.search is not None:
        kept = len(ladder.search.faster) + len(ladder.search.kept)
        captions.append(
            f"{kept} of {ladder.search.layers} layers stay in float: {len(ladder.search.faster)} "
            f"as that is faster, {len(ladder.search.kept)} as they hurt"
        )
    if ladder.amx is not None:
        captions.append(ladder.amx.in_words())
    table.caption = "\n".join(captions) or None
    return table
