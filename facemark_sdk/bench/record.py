"""The JSON that `facemark bench --json` writes.

An object of:

- ``kind``: ``facemark-bench``; ``schema``: 1.
- ``machine``: see `describe_machine`.
- ``frames``: a list of ``file``, ``width``, ``height``, ``faces`` (that the first configuration's
  detector finds; 0 means that the landmarks are those of a square in the middle).
- ``protocol``: ``repeat`` (runs that count), ``warm_up``, ``turn`` (runs in a row).
- ``detector``: what finds the faces.
- ``results``: for each configuration ``model``, ``backend`` (the one in use), ``threads`` (null:
  the runtime decides), ``batch`` (faces a run), ``precision``, ``stages`` (by name, `STAGES`, each
  with ``p50_ms``, ``p95_ms``, ``p99_ms``), ``fps`` (runs a second: 1000 / p50 of ``total``),
  ``faces_per_second`` (``batch`` times that) and ``peak_memory_mb`` (`peak_memory_alone`; null
  where it is not known).
- ``left_out``: configurations that could not run: ``model``, ``backend``, ``threads``, ``batch``,
  ``why``.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facemark_sdk.bench.configuration import Configuration
from facemark_sdk.bench.frames import Frame
from facemark_sdk.bench.measure import TURN, Protocol
from facemark_sdk.bench.summary import Summary
from facemark_sdk.errors import DataError

KIND, SCHEMA = "facemark-bench", 1


@dataclass(frozen=True, slots=True)
class Result:
    """What one configuration costs.

    Attributes:
        configuration: Its ``backend`` is the one in use.
        precision: What the model's file states.
        stages: By name; ``total`` is one of them.
        peak_memory_mb: See `peak_memory_alone`.
    """

    configuration: Configuration
    precision: str
    stages: Mapping[str, Summary]
    peak_memory_mb: float | None

    @property
    def fps(self) -> float:
        """Runs, which are frames, a second."""
        return 1e3 / self.stages["total"].p50_ms


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A configuration that could not run."""

    configuration: Configuration
    why: str


def record(
    machine: Mapping[str, Any],
    frames: Sequence[tuple[Frame, int]],
    protocol: Protocol,
    detector: str,
    results: Sequence[Result],
    left_out: Sequence[LeftOut] = (),
) -> dict[str, Any]:
    """All of a benchmark as JSON values; frames come with the number of faces in each."""
    return {
        "kind": KIND,
        "schema": SCHEMA,
        "machine": dict(machine),
        "frames": [
            {
                "file": str(frame.path),
                "width": frame.pixels.shape[1],
                "height": frame.pixels.shape[0],
                "faces": faces,
            }
            for frame, faces in frames
        ],
        "protocol": {**dataclasses.asdict(protocol), "turn": TURN},
        "detector": detector,
        "results": [
            {
                **dataclasses.asdict(result.configuration),
                "precision": result.precision,
                "stages": {name: dataclasses.asdict(s) for name, s in result.stages.items()},
                "fps": result.fps,
                "faces_per_second": result.fps * result.configuration.batch,
                "peak_memory_mb": result.peak_memory_mb,
            }
            for result in results
        ],
        "left_out": [
            {**dataclasses.asdict(each.configuration), "why": each.why} for each in left_out
        ],
    }


def read_record(path: Path) -> dict[str, Any]:
    """Read what `facemark bench --json` wrote.

    Raises:
        DataError: Not there, or not such a file.
    """
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {str(path)!r}: {error}") from None
    kind = content.get("kind") if isinstance(content, dict) else None
    if not isinstance(content, dict) or kind != KIND:
        raise DataError(
            f"{str(path)!r} was not written by facemark bench: its kind is {kind!r}, not {KIND!r}"
        )
    if content.get("schema") != SCHEMA:
        raise DataError(
            f"{str(path)!r} has schema {content.get('schema')!r}, this version reads {SCHEMA}; "
            "measure again"
        )
    try:
        results_of(content)
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise DataError(f"{str(path)!r} is damaged: {type(error).__name__} {error}") from None
    return content


def results_of(content: Mapping[str, Any]) -> list[Result]:
    """The results that a record holds."""
    results = []
    for entry in content["results"]:
        configuration = Configuration(
            *(entry[field.name] for field in dataclasses.fields(Configuration))
        )
        stages = {
            name: Summary(**{key: float(value) for key, value in times.items()})
            for name, times in entry["stages"].items()
        }
        peak = entry["peak_memory_mb"]
        result = Result(configuration, entry["precision"], stages, peak and float(peak))
        if not result.fps > 0:
            raise ValueError(f"a total of {result.stages['total'].p50_ms} ms")
        results.append(result)
    return results
