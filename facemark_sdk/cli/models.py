"""`facemark models`: the models that ship with the package."""

from __future__ import annotations

from dataclasses import dataclass

import tyro
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from facemark_sdk.backends import create_backend
from facemark_sdk.models import list_models, read_spec, resolve_model

HEADLINES = (
    ("nme_percent", "NME {:.2f} %"),
    ("average_precision", "AP {:.3f}"),
)
COLUMNS = ("name", "task", "layout", "size", "precision", "accuracy")


@tyro.conf.configure(tyro.conf.subcommand(name="models"))
@dataclass(frozen=True)
class Models:
    """List the models that ship with the package."""

    def run(self) -> int:
        """Print the table."""
        table = Table(box=SIMPLE, pad_edge=False, collapse_padding=True)
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
    # What people compare by; all figures and their protocol are in `facemark info`.
    said = [text.format(spec.accuracy[key]) for key, text in HEADLINES if key in spec.accuracy]
    return name, spec.task, spec.layout, size, spec.precision, ", ".join(said) or "not stated"
