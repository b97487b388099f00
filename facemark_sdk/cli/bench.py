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
    LeftOut,
    Protocol,
    Result,
    bundled_models,
    combine,
    compare,
    describe_machine,
    finder_of,
    load,
    measure,
    notes,
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
    """Landmark models and detectors: bundled names (see `facemark models`), ONNX or engine
    files; by default all bundled landmark models."""

    backend: Annotated[tuple[str, ...], _arg(metavar="B...")] = ("auto",)
    """What the networks run on: auto, cpu, cuda or tensorrt."""

    threads: Annotated[tuple[int, ...], _arg(metavar="N...")] = ()
    """CPU threads of each network; by default the runtime decides."""

    batch: Annotated[tuple[int, ...], _arg(metavar="N...")] = (1,)
    """Faces that the landmark network sees at once: those of the frame, repeated."""

    image: Annotated[tuple[Path, ...], _arg(metavar="FILE...")] = ()
    """Photos to look at, one after the other; by default a bundled 640x480 frame with a face."""

    detector: Annotated[str | None, _arg(metavar="D")] = None
    """Face detector that goes before the landmark models: a bundled name, an ONNX or engine
    file; by default what `facemark detect` takes for each backend."""

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
        wanted = combine(models, self.backend, self.threads or (None,), self.batch)
        subjects, left_out = load(
            wanted, self.detector, frames, lambda each: show_progress(each, "loading")
        )
        if not subjects:
            raise FacemarkError(f"nothing can be measured: {_said(left_out[0])}")
        finders = [finder_of(subject, self.detector) for subject in subjects]
        protocol = Protocol(self.repeat, self.warm_up)
        times = measure(subjects, protocol, lambda turns: show_progress(turns, "measuring"))
        peaks = [
            peak_memory_alone(subject.configuration, self.detector, frames)
            for subject in show_progress(subjects, "memory of each alone")
        ]
        results = [
            Result(
                subject.resolved,
                subject.sha256,
                subject.precision,
                finder,
                {name: summarise([run[name] for run in runs]) for name in subject.stages},
                peak.megabytes,
            )
            for subject, finder, runs, peak in zip(subjects, finders, times, peaks, strict=True)
        ]
        machine = describe_machine()
        _show_table(results)
        for line in (
            *notes.on_frames(frames, notes.faces_found(subjects, finders)),
            notes.on_runs(protocol, finders),
            notes.on_machine(machine),
            *notes.on_unknown_peaks([each.configuration for each in results], peaks),
            *(f"Left out: {_said(each)}" for each in left_out),
        ):
            _say(line)
        looked = next((each for each in subjects if each.landmarks), subjects[0])
        seen = list(zip(frames, looked.faces, strict=True))
        return record(machine, runtime, seen, protocol, results, left_out)

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
        for moved in content["moved"]:
            _say(f"The same file: {moved['old']} -> {moved['new']}")
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


def _show_table(results: Sequence[Result]) -> None:
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


def _said(left_out: LeftOut) -> str:
    return f"{_named(left_out.configuration, ', ')}: {left_out.why}"
