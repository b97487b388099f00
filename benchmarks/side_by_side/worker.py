"""One contender in a process of its own: waits without using a core, runs when it is told to.

The first line on standard input says what to build: {"module", "kind", "options", "threads"}. The
answer is {"ready": what it says of itself}, or {"failed": why}. Each further line is {"runs": N};
the answer is {"wall": [ms], "cpu": [ms], "inner": {name: [ms]}} of N runs. The runs of the first
`WARM_UP` seconds, one at least, are not counted: they find the processor asleep and its caches full
of the others' data. A network of 3 ms took a sixth longer in the second of its runs than in the
twentieth.

This file also runs in the environment of the packages that we compare with: only the standard
library at the top.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

Run = Callable[[], "dict[str, float] | None"]

WARM_UP = 0.3
"""Seconds. By time, as by number those of short runs would be colder than those of long ones."""


def ignore(result: object) -> None:
    """A run's result is dropped inside the time that is taken, as a user's is sooner or later."""


def main() -> None:
    """Build, then run until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print goes to stderr
    task = json.loads(sys.stdin.readline())
    _confine(task["threads"])
    try:
        module = importlib.import_module(task["module"])
        run, said = module.KINDS[task["kind"]](threads=task["threads"], **task["options"])
        run()
    except Exception as error:  # whatever a stranger's library raises is the answer
        _answer(answers, {"failed": f"{type(error).__name__}: {error}"})
        return
    _answer(answers, {"ready": said})
    for line in sys.stdin:
        _answer(answers, _turn(run, json.loads(line)["runs"]))


def _turn(run: Run, runs: int) -> dict[str, Any]:
    wall, cpu = [], []
    inner: dict[str, list[float]] = {}
    warm = time.perf_counter() + WARM_UP
    run()
    while time.perf_counter() < warm:
        run()
    for _ in range(runs):
        used, start = time.process_time(), time.perf_counter()
        parts = run()
        wall.append((time.perf_counter() - start) * 1e3)
        cpu.append((time.process_time() - used) * 1e3)
        for name, value in (parts or {}).items():
            inner.setdefault(name, []).append(value)
    return {"wall": wall, "cpu": cpu, "inner": inner}


def _confine(threads: int) -> None:
    """Let the process use so many CPUs, whatever number of threads its libraries start."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def _answer(answers: Any, content: dict[str, Any]) -> None:
    print(json.dumps(content), file=answers, flush=True)


if __name__ == "__main__":
    main()
