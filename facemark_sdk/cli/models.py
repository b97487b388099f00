"""`facemark models`: the models that ship with the package."""

from __future__ import annotations

from dataclasses import dataclass

import tyro
from rich.console import Console
from rich.table import Table

from facemark_sdk.backends import create_backend
from facemark_sdk.models import list_models, read_spec, resolve_model

COLUMNS = ("name", "task", "layout", "size", "precision", "accuracy")


@tyro.conf.configure(tyro.conf.subcommand(name="models"))
@dataclass(frozen=True)
class Models:
    """List the models that ship with the package."""

    def run(self) -> int:
        """Print the table."""
        table = Table()
        for column in COLUMNS:
            table.add_column(column, no_wrap=column == "name")
        for name in list_models():
            table.add_row(*_row(name))
        if table.row_count:
            Console(markup=False, highlight=False).print(table)
        else:
            print("no bundled models; give commands the path of an ONNX file")
        return 0


def _row(name: str) -> tuple[str, ...]:
    path = resolve_model(name)
    spec = read_spec(create_backend("cpu", path, 1), path)
    size = f"{path.stat().st_size / 1e6:.1f} MB"
    # The figures over all data; the protocol and the figures of parts are in `facemark info`.
    figures = {k: v for k, v in spec.accuracy.items() if isinstance(v, int | float)}
    accuracy = ", ".join(f"{key} {value:.4g}" for key, value in figures.items())
    return name, spec.task, spec.layout, size, spec.precision, accuracy or "not stated"
