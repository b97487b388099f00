"""Ours beside what people would use instead, in one run, on the same frame, in turns.

The peers' packages want other versions of numpy and OpenCV than ours: an environment of their own.

    python3 -m venv PEERS
    PEERS/bin/pip install mediapipe==0.10.21 dlib-bin==20.0.1.post1 face_recognition_models==0.3.0
    python benchmarks/side_by_side --peers-python PEERS/bin/python --int8 r18_98_int8.onnx --json F

Ours needs the extras cpu and export. The first run makes `--work`: PIPNet ResNet-18 with 98 points
from seeded weights (its checkpoint r18.pth, meanface.txt and r18_98.onnx), PFLD and YuNet from
their papers. `--int8` is what `facemark-export --ckpt WORK/r18.pth --meanface WORK/meanface.txt
--layout wflw98 --precision int8 ...` makes of the first, on a CPU with AMX also with `--amx`.

Protocol: every contender is a process of its own that sleeps until it is its turn; a turn is the
runs of 0.3 seconds, one at least, that are not counted (`worker.WARM_UP`), and `--runs` that are;
all have a turn in each of `--rounds` rounds, every other round backwards, after one round to warm
up. Times are medians and 95th percentiles of all runs; quotients are medians over the rounds of the
quotient of the two turns' medians. All processes may use as many CPUs as `--threads` says
(affinity), which is also what ONNX Runtime, PyTorch and, by OMP_NUM_THREADS and its like, BLAS are
told. mediapipe takes no such number: on Linux its networks run on one thread; "cores" is the CPU
time by the wall time of each contender. With `--threads 1` nobody has more than it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import claims as judged
import tyro
from field import NETWORK, PRODUCT, R18, R18_INT8, contenders
from flops import count_flops
from prepare import prepare
from rates import FLOPS
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from turns import Measured, quotient, take_turns

from facemark_sdk.bench import describe_machine
from facemark_sdk.cli.console import write_whole
from facemark_sdk.cli.progress import show_progress

Key = tuple[str, str]


def main(
    peers_python: Path | None = None,
    int8: Path | None = None,
    models: tuple[Path, ...] = (),
    yunet: Path | None = None,
    compiled: bool = False,
    threads: int = 2,
    rounds: int = 20,
    runs: int = 5,
    work: Path = Path("out/side_by_side"),
    json_file: Annotated[Path | None, tyro.conf.arg(name="json")] = None,
) -> None:
    """Measure, print the tables, and say which wishes of issue 5 are met.

    Args:
        peers_python: The interpreter of the peers' environment; without it only ours are measured.
        int8: The int8 file of the same ResNet-18.
        models: Further landmark models of ours.
        yunet: OpenCV's model file of YuNet, which no package brings.
        compiled: Also PyTorch compiled, which needs a C++ compiler.
        threads: CPUs and threads of every contender.
        rounds: Turns of each contender.
        runs: Runs of a turn that count.
        work: Folder of what is made for this benchmark; kept.
        json_file: Write all times here.
    """
    if min(threads, rounds, runs) < 1:
        sys.exit("side_by_side: --threads, --rounds and --runs must be at least 1")
    if peers_python is not None and not peers_python.is_file():
        sys.exit(
            f"side_by_side: no interpreter at {str(peers_python)!r}; --help says how to make it"
        )
    for path in filter(None, (int8, yunet, *models)):
        if not path.is_file():
            sys.exit(f"side_by_side: no model file at {str(path)!r}")
    made = prepare(work)
    field = list(
        contenders(
            made, int8=int8, models=models, compiled=compiled, peers=peers_python, yunet=yunet
        )
    )
    times, missing = take_turns(field, threads, rounds, runs, show_progress)
    console = Console(highlight=False)
    for group in dict.fromkeys(contender.group for contender in field):
        rows = {name: each for (its, name), each in times.items() if its == group}
        console.print(_table(group, rows))
    for (group, name), why in missing.items():
        console.print(f"not measured: {group}: {name}: {why}", markup=False)
    rates = _rates(times, {R18: made.r18, **({R18_INT8: made.r18} if int8 else {})})
    for name, rate in rates.items():
        console.print(f"{name}: {rate:.1f} GFLOP/s")
    wishes = list(judged.claims(times, made.r18, int8))
    console.print(_wishes(wishes))
    standing = list(judged.small_networks(times))
    for line in standing:
        console.print(line, markup=False)
    machine = describe_machine()
    console.print(f"{machine['cpu']}, {threads} of {machine['cpus']} CPUs", markup=False)
    if json_file is not None:
        content = {
            "kind": "facemark-side-by-side",
            "machine": machine,
            "threads": threads,
            "rounds": rounds,
            "runs": runs,
            "rates_gflops": rates,
            "times": [_entry(key, measured) for key, measured in times.items()],
            "not_measured": [{"group": g, "name": n, "why": w} for (g, n), w in missing.items()],
            "wishes": [{**vars(wish), "met": wish.met} for wish in wishes],
            "standing": standing,
        }
        write_whole(json_file, (json.dumps(content, indent=2) + "\n").encode())


def _rates(times: Mapping[Key, Measured], networks: Mapping[str, Path]) -> dict[str, float]:
    """GFLOP/s of matrix products and of networks, by name."""
    return {
        **{
            f"matrix product, {name}": FLOPS / each.percentile(50) / 1e6
            for (group, name), each in times.items()
            if group == PRODUCT
        },
        **{
            f"network {name}": count_flops(path) / times[NETWORK, name].percentile(50) / 1e6
            for name, path in networks.items()
            if (NETWORK, name) in times
        },
    }


def _table(group: str, rows: Mapping[str, Measured]) -> Table:
    table = Table(box=SIMPLE, pad_edge=False)
    table.add_column(group, overflow="fold", min_width=24)
    inner = sorted({name for each in rows.values() for name in each.inner})
    first = next(iter(rows.values()), None)
    for heading in ("p50 ms", "p95 ms", "x first", "cores", *(f"{name} ms" for name in inner)):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", overflow="fold")
    for name, each in rows.items():
        assert first is not None
        table.add_row(
            name,
            f"{each.percentile(50):.2f}",
            f"{each.percentile(95):.2f}",
            f"{quotient(each, first):.2f}",
            f"{each.cores:.2f}",
            *(f"{each.inner_median(key):.2f}" if key in each.inner else "-" for key in inner),
            each.said,
        )
    return table


def _wishes(wishes: Sequence[judged.Claim]) -> Table:
    table = Table(box=SIMPLE, pad_edge=False)
    table.add_column("wish", overflow="fold")
    for heading in ("wanted", "measured", ""):
        table.add_column(heading, justify="right", no_wrap=True)
    for wish in wishes:
        bound = f"{'>=' if wish.at_least else '<='} {wish.wanted:g} {wish.unit}"
        met = "met" if wish.met else "NOT MET"
        table.add_row(wish.said, bound, f"{wish.value:.2f} {wish.unit}", met)
    return table


def _entry(key: Key, measured: Measured) -> dict[str, Any]:
    group, name = key
    return {
        "group": group,
        "name": name,
        "said": measured.said,
        "p50_ms": measured.percentile(50),
        "p95_ms": measured.percentile(95),
        "cores": measured.cores,
        "inner_ms": {each: measured.inner_median(each) for each in measured.inner},
        "wall_ms": measured.wall,
    }


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
