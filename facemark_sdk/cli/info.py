"""`facemark info`: all that a model file says of itself."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from facemark_sdk.backends import Described, describe_file
from facemark_sdk.backends.base import shown
from facemark_sdk.backends.tensorrt.engine_file import EngineRecord
from facemark_sdk.files import sha256_of
from facemark_sdk.models import read_spec, resolve_model
from facemark_sdk.spec import ModelSpec

_LONG_TABLE = 16
"""Lists of more numbers than this are shown by their shape; --json shows them whole."""


@tyro.conf.configure(tyro.conf.subcommand(name="info"))
@dataclass(frozen=True)
class Info:
    """Show all that a model file says of itself."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A bundled model's name (see `facemark models`) or the path of an ONNX or engine file."""

    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print JSON instead of a table."""

    def run(self) -> int:
        """Print it."""
        path = resolve_model(self.model)
        described = describe_file(path)
        record = describe(path, described, read_spec(described, path))
        if self.json:
            print(json.dumps(record, indent=2, ensure_ascii=False))
            return 0
        table = Table(title=record["spec"]["name"], show_header=False)
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for key, value in _rows(record):
            table.add_row(key, value)
        Console(markup=False, highlight=False).print(table)
        return 0


def describe(path: Path, described: Described, spec: ModelSpec) -> dict[str, Any]:
    """A model file as JSON values: file, spec, inputs, outputs, and of an engine its making."""
    record = {
        "file": str(path),
        "bytes": path.stat().st_size,
        "sha256": sha256_of(path),
        "spec": dataclasses.asdict(spec),
        "inputs": [dataclasses.asdict(tensor) for tensor in described.inputs],
        "outputs": [dataclasses.asdict(tensor) for tensor in described.outputs],
    }
    if isinstance(described, EngineRecord):
        record["engine"] = {
            **dataclasses.asdict(described.built),
            **described.profile.to_dict(),
            "onnx_sha256": described.onnx_sha256,
        }
    return record


def _rows(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [
        ("file", record["file"]),
        ("size", f"{record['bytes'] / 1e6:.2f} MB"),
        ("sha256", record["sha256"]),
    ]
    for key, value in record["spec"].items():
        if isinstance(value, Mapping):
            rows.extend((f"{key}.{name}", _cell(item)) for name, item in value.items())
        else:
            rows.append((key, _cell(value)))
    for kind in ("inputs", "outputs"):
        for tensor in record[kind]:
            shape = shown(tensor["shape"])
            rows.append((f"{kind[:-1]} {tensor['name']}", f"{tensor['dtype']} {shape}"))
    rows.extend((f"engine.{key}", _cell(value)) for key, value in record.get("engine", {}).items())
    return rows


def _cell(value: Any) -> str:
    shape = _shape(value)
    if shape and _count(value) > _LONG_TABLE:
        return f"table of {' x '.join(map(str, shape))}"
    if isinstance(value, (dict, list, tuple)):
        return json.dumps(value, ensure_ascii=False)
    return "none" if value is None else str(value)


def _shape(value: Any) -> tuple[int, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        return ()
    inner = max((_shape(item) for item in value), default=())  # a table's rows may be ragged
    return (len(value), *inner)


def _count(value: Any) -> int:
    if not isinstance(value, Sequence) or isinstance(value, str):
        return 1
    return sum(_count(item) for item in value)
