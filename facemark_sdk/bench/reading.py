"""Read what `facemark bench --json` wrote, and see that all of it is there and of its kind."""

from __future__ import annotations

import dataclasses
import json
import reprlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from facemark_sdk.bench.configuration import Configuration
from facemark_sdk.bench.finder import Finder
from facemark_sdk.bench.record import KIND, SCHEMA, Result
from facemark_sdk.bench.summary import Summary
from facemark_sdk.errors import DataError


@dataclasses.dataclass(frozen=True, slots=True)
class _Kind:
    """What a value must be, in words and as a test."""

    said: str
    fits: Callable[[Any], bool]

    def or_null(self) -> _Kind:
        return _Kind(f"{self.said} or null", lambda value: value is None or self.fits(value))


_OBJECT = _Kind("an object", lambda value: isinstance(value, dict))
_LIST = _Kind("a list", lambda value: isinstance(value, list))
_TEXT = _Kind("a text", lambda value: isinstance(value, str))
_SWITCH = _Kind("true or false", lambda value: isinstance(value, bool))
_COUNT = _Kind("a whole number of at least 0", lambda value: type(value) is int and value >= 0)
_NUMBER = _Kind(  # NaN is in no range; an int may be too large for a float
    "a finite number of at least 0",
    lambda value: type(value) in (int, float) and 0 <= value <= sys.float_info.max,
)

_RECORD = {
    "machine": _OBJECT,
    "runtime": _OBJECT,
    "frames": _LIST,
    "protocol": _OBJECT,
    "results": _LIST,
}
_MACHINE = {"cpu": _TEXT, "cpus": _COUNT, "gpus": _LIST, "system": _TEXT, "versions": _OBJECT}
_RUNTIME = {"spinning": _TEXT, "arena": _SWITCH}
_FRAME = {"file": _TEXT, "sha256": _TEXT, "width": _COUNT, "height": _COUNT, "faces": _COUNT}
_PROTOCOL = {"repeat": _COUNT, "warm_up": _COUNT, "turn": _COUNT}
_RESULT = {
    "model": _TEXT,
    "backend": _TEXT,
    "threads": _COUNT.or_null(),
    "batch": _COUNT,
    "sha256": _TEXT.or_null(),
    "precision": _TEXT,
    "detector": _OBJECT.or_null(),
    "stages": _OBJECT,
    "peak_memory_mb": _NUMBER.or_null(),
}
_FINDER = {"model": _TEXT, "backend": _TEXT.or_null(), "sha256": _TEXT.or_null()}
_TIMES = {field.name: _NUMBER for field in dataclasses.fields(Summary)}


_ONE_DETECTOR = 2
"""The schema before models had checksums, and each result a detector of its own."""


def read_record(path: Path) -> dict[str, Any]:
    """Read what `facemark bench --json` wrote, now or in schema 2.

    Returns:
        As `record` makes it; what schema 2 does not tell is null.

    Raises:
        DataError: Not there, or not such a file; the message names file and field.
    """
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"cannot read {str(path)!r}: {error}") from None
    kind = content.get("kind") if isinstance(content, dict) else None
    if not isinstance(content, dict) or kind != KIND:
        raise DataError(
            f"{str(path)!r} was not written by facemark bench: its kind is {reprlib.repr(kind)}, "
            f"not {KIND!r}"
        )
    if content.get("schema") not in (SCHEMA, _ONE_DETECTOR):
        raise DataError(
            f"{str(path)!r} has schema {reprlib.repr(content.get('schema'))}, this version reads "
            f"{SCHEMA} and {_ONE_DETECTOR}; measure again"
        )
    try:
        current = content if content["schema"] == SCHEMA else _with_a_detector_each(content)
        _check(current)
        results_of(current)
    except DataError as error:
        raise DataError(f"{str(path)!r} is damaged: {error}; measure again") from None
    return current


def results_of(content: Mapping[str, Any]) -> list[Result]:
    """The results that a record holds.

    Raises:
        DataError: Two are of the same configuration.
    """
    results: dict[Configuration, Result] = {}
    for entry in content["results"]:
        configuration = Configuration(
            *(entry[field.name] for field in dataclasses.fields(Configuration))
        )
        if configuration in results:
            raise DataError(f"results holds {configuration.said} twice")
        stages = {
            name: Summary(*(float(times[key]) for key in _TIMES))
            for name, times in entry["stages"].items()
        }
        peak = entry["peak_memory_mb"]
        finder = entry["detector"]
        results[configuration] = Result(
            configuration,
            entry["sha256"],
            entry["precision"],
            None if finder is None else Finder(*(finder[name] for name in _FINDER)),
            stages,
            None if peak is None else float(peak),
        )
    return list(results.values())


def _with_a_detector_each(content: Mapping[str, Any]) -> dict[str, Any]:
    """A record of schema 2 in the form of today."""
    _need(content, "", {"detector": _TEXT, "results": _LIST})
    for index, result in enumerate(content["results"]):
        _see(result, f"results.{index}", _OBJECT)
    finder = {"model": content["detector"], "backend": None, "sha256": None}
    return {
        **{key: value for key, value in content.items() if key != "detector"},
        "schema": SCHEMA,
        "results": [
            {**result, "sha256": None, "detector": dict(finder)} for result in content["results"]
        ],
    }


def _check(content: Mapping[str, Any]) -> None:
    _need(content, "", _RECORD)
    _need(content["machine"], "machine.", _MACHINE)
    for index, gpu in enumerate(content["machine"]["gpus"]):
        _see(gpu, f"machine.gpus.{index}", _TEXT)
    for name, version in content["machine"]["versions"].items():
        _see(version, f"machine.versions.{name}", _TEXT)
    _need(content["runtime"], "runtime.", _RUNTIME)
    _need(content["protocol"], "protocol.", _PROTOCOL)
    for index, frame in enumerate(content["frames"]):
        _need(frame, f"frames.{index}.", _FRAME)
    for index, result in enumerate(content["results"]):
        where = f"results.{index}."
        _need(result, where, _RESULT)
        if result["detector"] is not None:
            _need(result["detector"], f"{where}detector.", _FINDER)
        for name, times in result["stages"].items():
            _need(times, f"{where}stages.{name}.", _TIMES)
        if result["stages"].get("total", {}).get("p50_ms", 0) <= 0:
            raise DataError(f"{where}stages.total.p50_ms must be there and more than 0")


def _need(holder: Any, where: str, fields: Mapping[str, _Kind]) -> None:
    """See that something is an object and has fields of these kinds; `where` ends in a dot."""
    _see(holder, where.removesuffix("."), _OBJECT)
    for name, kind in fields.items():
        if name not in holder:
            raise DataError(f"{where}{name} is missing")
        _see(holder[name], f"{where}{name}", kind)


def _see(value: Any, where: str, kind: _Kind) -> None:
    if not kind.fits(value):
        raise DataError(f"{where} must be {kind.said}, is {reprlib.repr(value)}")
