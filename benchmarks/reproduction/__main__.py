"""The papers' claims in small: train every row with several seeds, write docs/reproduction.md.

    python benchmarks/reproduction --data ../shared/data --out RUNS [--table heads] [--seeds 2]

The protocol: training on the photos of helen_train and afw that are not held out (a tenth of the
photos, by the hash of their names), boxes by the annotated points, 128 x 128 pixels, and as many
steps in every row of a table, or what a row's name says. Every run goes through facemark-export
with its parity check, and the exported file is judged through the SDK; where a row names several
decoders, a file of each, and where it says so, on occluded and blurred photos too. What is there
already is not done again, and a run that was stopped goes on, so that the command can be given
again at any time.
docs/reproduction.md keeps its words; the figures between its markers are replaced.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import traceback
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import report
import tyro
from rows import Row, Scale, tables
from trial import run_trial

REPOSITORY = Path(__file__).resolve().parents[2]


def main(
    data: Path,
    out: Path,
    table: tuple[str, ...] = (),
    seeds: int = 2,
    parallel: int = 2,
    scale: Scale = "small",
    docs: Path = REPOSITORY / "docs",
) -> None:
    """Train what is missing and write the tables.

    Args:
        data: The folder of all data folders (../shared/data).
        out: Folder of the runs; they can be large.
        table: Only these tables; all when none is given.
        seeds: Runs a row, seeds 0, 1, ...
        parallel: Runs at a time, one thread each (at scale small).
        scale: small for two CPU cores, full for a GPU.
        docs: The folder of reproduction.md; results are kept in its folder reproduction.
    """
    known = tables(scale, data)
    if unknown := set(table) - set(known):
        sys.exit(f"unknown table {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    rows = [row for name in table or known for row in known[name]]
    runs = [(row, seed) for seed in range(seeds) for row in rows]
    failed = _run_all(runs, data, out, parallel)
    results = _results(known, out)
    report.write(results, known, docs, scale)
    if failed:
        sys.exit(f"{failed} of {len(runs)} runs failed")


def _run_all(runs: list[tuple[Row, int]], data: Path, out: Path, parallel: int) -> int:
    """Do the runs, several at a time, each in a process of its own; how many failed."""
    failed = 0
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(parallel, mp_context=spawn, max_tasks_per_child=1) as pool:
        asked = {pool.submit(run_trial, row, seed, data, out): (row, seed) for row, seed in runs}
        for number, done in enumerate(as_completed(asked), 1):
            row, seed = asked[done]
            head = f"[{number}/{len(runs)}] {row.table}: {row.name}, seed {seed}:"
            try:
                result = done.result()
            except Exception:
                failed += 1
                print(head, "failed\n", traceback.format_exc(), file=sys.stderr, flush=True)
            else:
                print(head, f"NME {result['nme']:.2f} %", flush=True)
    return failed


def _results(known: dict[str, list[Row]], out: Path) -> list[dict[str, Any]]:
    """The figures of all finished runs, whatever was asked for this time."""
    rows: Iterable[Row] = (row for table in known.values() for row in table)
    files = [file for row in rows for file in sorted((out / row.key).glob("seed*/result.json"))]
    return [json.loads(file.read_text()) for file in files]


if __name__ == "__main__":
    tyro.cli(main)
