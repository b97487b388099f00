"""The contenders' processes and the rounds in which they take turns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Of OpenMP (PyTorch, libfacedetection), of numpy's and of Intel's matrix products."""


@dataclass(frozen=True)
class Contender:
    """Something whose time is taken.

    Attributes:
        group: The table it stands in.
        name: Its row there; no other contender of the group has it.
        module: Where it is made: a file of this folder, with a table KINDS.
        kind: A key of that table.
        options: Arguments, JSON-safe.
        python: The interpreter that has its packages; None for ours.
    """

    group: str
    name: str
    module: str
    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)
    python: Path | None = None


@dataclass(frozen=True)
class Measured:
    """What the turns of a contender gave: milliseconds, a list for each turn.

    Attributes:
        said: What it says of itself, such as the number of faces it finds.
        wall: From call to result.
        cpu: Of all its threads; by wall, the cores that it used.
        inner: What it measures inside its runs, by name.
    """

    said: str
    wall: list[list[float]]
    cpu: list[list[float]]
    inner: dict[str, list[list[float]]]

    def percentile(self, percent: float) -> float:
        """Of all its runs."""
        return float(np.percentile(np.concatenate(self.wall), percent))

    @property
    def cores(self) -> float:
        """CPU time by wall time."""
        return float(np.median(np.concatenate(self.cpu)) / self.percentile(50))

    def inner_median(self, name: str) -> float:
        """Of something measured inside its runs."""
        return float(np.median(np.concatenate(self.inner[name])))


def quotient(above: Measured, below: Measured) -> float:
    """How many times as long: the median over the rounds of the turns' medians' quotients.

    Both had their turns in the same rounds, so that a slow minute of the machine cancels out.
    """
    return float(
        np.median(
            [np.median(a) / np.median(b) for a, b in zip(above.wall, below.wall, strict=True)]
        )
    )


class Worker:
    """A contender's process; `said` is what it says of itself."""

    def __init__(self, contender: Contender, threads: int) -> None:
        """Start it and have it ready.

        Raises:
            RuntimeError: It could not be built; the message says why.
        """
        # Open until the worker is closed.
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        paths = [REPOSITORY, REPOSITORY / "export", REPOSITORY / "models"]
        ours = {} if contender.python else {"PYTHONPATH": os.pathsep.join(map(str, paths))}
        limits = {name: str(threads) for name in THREAD_VARIABLES}
        self._process = subprocess.Popen(
            [str(contender.python or sys.executable), str(HERE / "worker.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            encoding="utf-8",
            env={**os.environ, **limits, **ours},
        )
        try:
            answer = self._ask(
                {
                    "module": contender.module,
                    "kind": contender.kind,
                    "options": dict(contender.options),
                    "threads": threads,
                }
            )
            if "failed" in answer:
                raise RuntimeError(answer["failed"])
        except BaseException:
            self.close()
            raise
        self.said: str = answer["ready"]

    def turn(self, runs: int) -> dict[str, Any]:
        """Times of so many runs: ``wall``, ``cpu`` and ``inner``."""
        return self._ask({"runs": runs})

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            print(json.dumps(request), file=stdin, flush=True)
            answer: dict[str, Any] = json.loads(stdout.readline())
        except (OSError, ValueError):
            self._errors.seek(0)
            last = self._errors.read().strip().splitlines()[-3:]
            raise RuntimeError(f"its process ended: {' | '.join(last)}") from None
        return answer


def take_turns(
    contenders: Sequence[Contender],
    threads: int,
    rounds: int,
    runs: int,
    track: Callable[[Sequence[Any], str], Iterable[Any]],
) -> tuple[dict[tuple[str, str], Measured], dict[tuple[str, str], str]]:
    """Run all of them, a turn each a round; every other round backwards.

    Returns:
        By group and name, what was measured, and why others could not be.
    """
    workers: dict[tuple[str, str], Worker] = {}
    missing: dict[tuple[str, str], str] = {}
    try:
        for contender in track(contenders, "starting"):
            key = contender.group, contender.name
            try:
                workers[key] = Worker(contender, threads)
            except RuntimeError as error:
                missing[key] = str(error)
        answers: dict[tuple[str, str], list[dict[str, Any]]] = {key: [] for key in workers}
        for number in track(range(-1, rounds), "measuring"):
            for key in reversed(workers) if number % 2 else iter(workers):
                answer = workers[key].turn(runs)
                if number >= 0:  # round -1 warms up
                    answers[key].append(answer)
        return {key: _measured(workers[key].said, answers[key]) for key in workers}, missing
    finally:
        for worker in workers.values():
            worker.close()


def _measured(said: str, answers: Sequence[Mapping[str, Any]]) -> Measured:
    return Measured(
        said,
        [answer["wall"] for answer in answers],
        [answer["cpu"] for answer in answers],
        {name: [answer["inner"][name] for answer in answers] for name in answers[0]["inner"]},
    )
