"""How much memory a process gains over many calls of `Detector`: it shall be next to none.

    python benchmarks/memory_growth.py [--calls 10000] [--sizes 1] [--json F]

Resident memory after `--warm-up` calls, then at ten points on the way. With `--sizes 0` every call
sees a frame of another size, which finds caches that only grow. Exit status 1 when it grew by
`LIMIT_MB` or more. Linux only, as it reads /proc.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import cv2
import tyro
from rich.console import Console
from rich.progress import track

from facemark_sdk import Detector, load_image
from facemark_sdk.bench import BUNDLED_FRAME, describe_machine
from facemark_sdk.cli.console import write_whole
from facemark_sdk.image import Image

LIMIT_MB = 5.0
POINTS = 10
_STATM = Path("/proc/self/statm")
_SMALLEST = 320  # pixels of the frame's width


def main(
    calls: int = 10_000,
    sizes: int = 1,
    warm_up: int = 200,
    threads: int = 2,
    json_file: Annotated[Path | None, tyro.conf.arg(name="json")] = None,
) -> None:
    """Measure and print.

    Args:
        calls: Calls after which the growth counts.
        sizes: Sizes of the frame that take turns; 0 is another one every call.
        warm_up: Calls before, in which libraries allocate what they keep.
        threads: CPU threads of each network.
        json_file: Write the figures here.
    """
    if calls < POINTS or warm_up < 1 or sizes < 0:
        sys.exit(f"memory_growth: --calls from {POINTS}, --warm-up from 1, --sizes from 0")
    detector = Detector(backend="cpu", threads=threads)
    frames = _frames(load_image(BUNDLED_FRAME), sizes)
    for _ in range(warm_up):
        detector(next(frames))
    start = resident_mb()
    console = Console(stderr=True)
    found: list[tuple[int, float]] = []
    for call in track(
        range(1, calls + 1), "calls", console=console, disable=not console.is_terminal
    ):
        detector(next(frames))
        if call % (calls // POINTS) == 0:
            found.append((call, resident_mb() - start))
    for call, growth in found:
        print(f"{call:>8} calls  {growth:+8.2f} MB")
    most = max(growth for _, growth in found)
    print(f"at most {most:.2f} MB over {start:.1f} MB after {warm_up} calls (limit {LIMIT_MB} MB)")
    if json_file is not None:
        content = {
            "machine": describe_machine(),
            "sizes": sizes,
            "start_mb": start,
            "growth_mb": [{"calls": call, "mb": growth} for call, growth in found],
        }
        write_whole(json_file, (json.dumps(content, indent=2) + "\n").encode())
    if most >= LIMIT_MB:
        sys.exit(1)


def resident_mb() -> float:
    """Memory of this process that is in RAM, in 10^6 bytes."""
    return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def _frames(frame: Image, sizes: int) -> Iterator[Image]:
    """The frame for ever, in so many sizes, the first its own, or in a new one every time."""
    height, width = frame.shape[:2]
    count = sizes or width - _SMALLEST
    ready = [frame] if count == 1 else []
    step = 0
    while True:
        if ready:
            yield frame
            continue
        narrower = width - step % count * (width - _SMALLEST) // count
        # Another height every time round makes another size, too.
        lower = height - (step // count % (height // 2) if not sizes else 0)
        yield cv2.resize(frame, (narrower, lower))
        step += 1


if __name__ == "__main__":
    tyro.cli(main)
