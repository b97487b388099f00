"""`facemark bench`: what models cost on this machine, and how two such measurements compare."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from facemark_sdk.backends import BACKENDS, MAX_THREADS
from facemark_sdk.backends.options import options_from_environment
from facemark_sdk.bench import (
    STAGES,
    Configuration,
    Frame,
    LeftOut,
    Protocol,
    Result,
    bundled_models,
    combine,
    compare,
    describe_machine,
    load,
    measure,
    open_frames,
    peak_memory_alone,
    read_record,
    record,
    summarise,
)
from facemark_sdk.bench.measure import REPEAT, WARM_UP
from facemark_sdk.cli.console import UsageError, write_whole
from facemark_sdk.cli.progress import show_progress
from facemark_sdk.errors import FacemarkError
from facemark_sdk.models import default_detector

_arg = tyro.conf.arg

MAX_BATCH = 1024
PARTS = STAGES[:-1]
"""Stages that have one column, their median."""


@tyro.conf.configure(tyro.conf.subcommand(name="bench"))
@dataclass(frozen=True)
class Bench:
    """Measure what models cost here: milliseconds by stage, frames a second, memory.

    Every model runs on every backend with every number of threads and every batch size, all taking
    turns. With --compare, two files of earlier measurements are set side by side instead.
    """

    models: Annotated[tuple[str, ...], tyro.conf.Positional, _arg(metavar="MODEL...")] = ()
    """Landmark models and detectors: bundled names (see `facemark models`) or ONNX files; by
    default all bundled landmark models."""

    backend: Annotated[tuple[str, ...], _arg(metavar="B...")] = ("auto",)
    """What the networks run on: auto, cpu, cuda or tensorrt."""

    threads: Annotated[tuple[int, ...], _arg(metavar="N...")] = ()
    """CPU threads of each network; by default the runtime decides."""

    batch: Annotated[tuple[int, ...], _arg(metavar="N...")] = (1,)
    """Faces that the landmark network sees at once: those of the frame, repeated."""

    image: Annotated[tuple[Path, ...], _arg(metavar="FILE...")] = ()
    """Photos to look at, one after the other; by default a bundled 640x480 frame with a face."""

    detector: Annotated[str | None, _arg(metavar="D")] = None
    """Face detector that goes before the landmark models: a bundled name or an ONNX file; by
    default what `facemark detect` takes for the first backend."""

    repeat: Annotated[int, _arg(metavar="N")] = REPEAT
    """Runs of each configuration that count."""

    warm_up: Annotated[int, _arg(metavar="N")] = WARM_UP
    """Runs of each configuration before them that do not."""

    json: Annotated[Path | None, _arg(metavar="FILE")] = None
    """Also write the figures, or the comparison, as JSON."""

    compare: Annotated[tuple[Path, Path] | None, _arg(metavar="OLD.json NEW.json")] = None
    """Compare two files that --json wrote; nothing is measured."""

    def run(self) -> int:
        """Do it and print the table."""
        self._check()
        content = self._compare(*self.compare) if self.compare else self._measure()
        if self.json is not None:
            write_whole(self.json, (json.dumps(content, indent=2) + "\n").encode())
            print(f"JSON -> {self.json}")
        return 0

    def _check(self) -> None:
        """Fail before the work, not after it."""
        if self.compare and (idle := self._idle()):
            raise UsageError(
                f"--compare takes two files and measures nothing; leave out {', '.join(idle)}"
            )
        for backend in self.backend:
            if backend not in BACKENDS:
                raise UsageError(f"--backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
        for threads in self.threads:
            if not 1 <= threads <= MAX_THREADS:
                raise UsageError(f"--threads must be from 1 to {MAX_THREADS}, got {threads}")
        if self.repeat < 1 or self.warm_up < 0:
            raise UsageError("--repeat must be at least 1 and --warm-up at least 0")
        for batch in self.batch:
            if not 1 <= batch <= MAX_BATCH:
                raise UsageError(f"--batch must be from 1 to {MAX_BATCH}, got {batch}")
        if self.json is not None and self.json.is_dir():
            raise UsageError(f"--json must be a file, {str(self.json)!r} is a folder")

    def _idle(self) -> list[str]:
        """Options that were given and are only for measuring."""
        measuring = [each for each in fields(self) if each.name not in ("json", "compare")]
        given = [each.name for each in measuring if getattr(self, each.name) != each.default]
        return ["MODEL" if name == "models" else f"--{name.replace('_', '-')}" for name in given]

    def _measure(self) -> dict[str, Any]:
        runtime = options_from_environment()
        frames = open_frames(self.image)
        models = self.models or bundled_models("landmarks")
        detector = self.detector or default_detector(self.backend[0])
        wanted = combine(models, self.backend, self.threads or (None,), self.batch)
        subjects, left_out = load(
            wanted, detector, frames, lambda each: show_progress(each, "loading")
        )
        if not subjects:
            raise FacemarkError(f"nothing can be measured: {_said(left_out[0])}")
        protocol = Protocol(self.repeat, self.warm_up)
        times = measure(subjects, protocol, lambda turns: show_progress(turns, "measuring"))
        each_alone = show_progress(subjects, "memory of each alone")
        results = [
            Result(
                subject.resolved,
                subject.precision,
                {name: summarise([run[name] for run in runs]) for name in subject.stages},
                peak_memory_alone(subject.configuration, detector, frames),
            )
            for subject, runs in zip(each_alone, times, strict=True)
        ]
        looked = next((each for each in subjects if each.landmarks), subjects[0])
        seen = list(zip(frames, looked.faces, strict=True))
        machine = describe_machine()
        _show(results, seen, protocol, detector, machine, left_out)
        return record(machine, runtime, seen, protocol, detector, results, left_out)

    def _compare(self, old: Path, new: Path) -> dict[str, Any]:
        content = compare(read_record(old), read_record(new))
        console = _console()
        table = _table("NEW / OLD")
        _add_columns(table, (*STAGES, "old/new ms", "peak memory"))
        for row in content["rows"]:
            ratios = [row["stages"].get(name) for name in STAGES]
            total = row["stages"]["total"]
            table.add_row(
                _named(Configuration(*(row[key] for key in Configuration.__slots__))),
                *map(_ratio, ratios),
                f"{_ms(total['old'])}\n{_ms(total['new'])}",
                _ratio(row["peak_memory_mb"]),
            )
        console.print(table)
        _say("Ratios of medians, new by old: under 1 is faster, or less memory. ms: total.")
        for key, where in (("only_old", old), ("only_new", new)):
            for only in content[key]:
                _say(f"Only in {where}: {_named(Configuration(**only), ', ')}")
        for line in content["differences"]:
            _say(f"Differs: {line}")
        return content


def _console() -> Console:
    return Console(markup=False, highlight=False)


def _say(line: str) -> None:
    _console().print(line, soft_wrap=not sys.stdout.isatty())


def _table(title: str) -> Table:
    table = Table(box=SIMPLE, pad_edge=False, collapse_padding=True)
    table.add_column(title, overflow="fold", min_width=16)
    return table


def _add_columns(table: Table, headings: Iterable[str]) -> None:
    for heading in headings:
        table.add_column(heading.replace(" ", "\n"), justify="right", no_wrap=True)


def _named(configuration: Configuration, gap: str = "\n") -> str:
    model, threads = os.path.basename(configuration.model), configuration.threads
    return (
        f"{model}{gap}{configuration.backend}, threads {threads or 'auto'}, "
        f"batch {configuration.batch}"
    )


def _ms(milliseconds: float) -> str:
    return f"{milliseconds:.2f}" if milliseconds < 100 else f"{milliseconds:.1f}"


def _ratio(pair: Mapping[str, float] | None) -> str:
    return "-" if pair is None else f"{pair['ratio']:.2f}"


def _show(
    results: Sequence[Result],
    frames: Sequence[tuple[Frame, int]],
    protocol: Protocol,
    detector: str,
    machine: Mapping[str, Any],
    left_out: Sequence[LeftOut],
) -> None:
    table = _table("milliseconds")
    _add_columns(table, (*PARTS, "total 50/95/99", "FPS", "peak MB"))
    for result in results:
        total = result.stages["total"]
        parts = [result.stages.get(name) for name in PARTS]
        peak = result.peak_memory_mb
        table.add_row(
            _named(result.configuration),
            *("-" if part is None else _ms(part.p50_ms) for part in parts),
            "\n".join(map(_ms, (total.p50_ms, total.p95_ms, total.p99_ms))),
            f"{result.fps:.1f}",
            "-" if peak is None else f"{peak:.0f}",
        )
    _console().print(table)
    for line in _explained(frames, protocol, detector, machine):
        _say(line)
    for each in left_out:
        _say(f"Left out: {_said(each)}")


def _explained(
    frames: Sequence[tuple[Frame, int]],
    protocol: Protocol,
    detector: str,
    machine: Mapping[str, Any],
) -> Iterable[str]:
    """What was measured, in words."""
    for frame, faces in frames:
        if faces:
            yield f"Frame: {frame.name}, {faces} face(s), repeated to fill the batch."
        else:
            yield (
                f"Frame: {frame.name}, in which {detector} finds no face: its time is that of "
                "finding none, and the landmarks are those of a square in the middle."
            )
    yield (
        f"A run: a frame's file decoded, its faces found by {detector}, a batch of them cut, run "
        "and decoded; total is all of it in one go. Medians (p50), of total also p95 and p99, of "
        f"{protocol.repeat} runs in turns of {protocol.turn}, configurations taking turns, after "
        f"{protocol.warm_up} to warm up. Memory: peak of a process that does only this."
    )
    versions = ", ".join(f"{name} {value}" for name, value in machine["versions"].items())
    gpus = ", ".join(machine["gpus"]) or "no GPU"
    yield f"{machine['cpu']}, {machine['cpus']} CPUs, {gpus}; {machine['system']}; {versions}"


def _said(left_out: LeftOut) -> str:
    return f"{_named(left_out.configuration, ', ')}: {left_out.why}"
