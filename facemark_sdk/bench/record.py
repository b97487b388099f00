"""The JSON that `facemark bench --json` writes.

An object of:

- ``kind``: ``facemark-bench``; ``schema``: 3.
- ``machine``: see `describe_machine`.
- ``runtime``: ``spinning`` and ``arena`` of `RuntimeOptions`, which the environment sets.
- ``frames``: a list of ``file``, ``sha256`` (of the file), ``width``, ``height``, ``faces`` (that
  the first configuration's detector finds; 0 means that the landmarks are those of a square in the
  middle).
- ``protocol``: ``repeat`` (runs that count), ``warm_up``, ``turn`` (runs in a row).
- ``results``: for each configuration ``model``, ``backend`` (the one in use), ``threads`` (null:
  the runtime decides), ``batch`` (faces a run), ``sha256`` (of the model's file), ``precision``,
  ``detector`` (what finds the faces: ``model``, ``backend``, ``sha256``; null where the model is
  itself a detector), ``stages`` (by name, `STAGES`, each with ``p50_ms``, ``p95_ms``, ``p99_ms``),
  ``fps`` (runs a second: 1000 / p50 of ``total``), ``faces_per_second`` (``batch`` times that) and
  ``peak_memory_mb`` (`peak_memory_alone`; null where it is not known).
- ``left_out``: configurations that could not run, or are the same as one that did: ``model``,
  ``backend``, ``threads``, ``batch``, ``why``.

Schema 2, which `read_record` reads, too, had one ``detector`` for all, a text beside ``protocol``,
and no ``sha256`` of models.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from facemark_sdk.backends import RuntimeOptions
from facemark_sdk.bench.configuration import Configuration
from facemark_sdk.bench.finder import Finder
from facemark_sdk.bench.frames import Frame
from facemark_sdk.bench.measure import Protocol
from facemark_sdk.bench.summary import Summary

KIND, SCHEMA = "facemark-bench", 3


@dataclass(frozen=True, slots=True)
class Result:
    """What one configuration costs.

    Attributes:
        configuration: Its ``backend`` is the one in use.
        sha256: Of the model's file; None where a record of an older version does not tell.
        precision: What the model's file states.
        detector: What finds the faces; None where the model is itself a detector.
        stages: By name; ``total`` is one of them.
        peak_memory_mb: See `peak_memory_alone`.
    """

    configuration: Configuration
    sha256: str | None
    precision: str
    detector: Finder | None
    stages: Mapping[str, Summary]
    peak_memory_mb: float | None

    @property
    def fps(self) -> float:
        """Runs, which are frames, a second."""
        return 1e3 / self.stages["total"].p50_ms


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A configuration that could not run, or need not."""

    configuration: Configuration
    why: str


def record(
    machine: Mapping[str, Any],
    runtime: RuntimeOptions,
    frames: Sequence[tuple[Frame, int]],
    protocol: Protocol,
    results: Sequence[Result],
    left_out: Sequence[LeftOut] = (),
) -> dict[str, Any]:
    """All of a benchmark as JSON values; frames come with the number of faces in each."""
    return {
        "kind": KIND,
        "schema": SCHEMA,
        "machine": dict(machine),
        "runtime": {"spinning": runtime.spinning, "arena": runtime.arena},
        "frames": [
            {
                "file": str(frame.path),
                "sha256": frame.sha256,
                "width": frame.pixels.shape[1],
                "height": frame.pixels.shape[0],
                "faces": faces,
            }
            for frame, faces in frames
        ],
        "protocol": dataclasses.asdict(protocol),
        "results": [
            {
                **dataclasses.asdict(result.configuration),
                "sha256": result.sha256,
                "precision": result.precision,
                "detector": result.detector and dataclasses.asdict(result.detector),
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
