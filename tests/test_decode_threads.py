"""Decoding stays on the caller's thread: what BLAS's threads take, the next batch's network lacks.

They go on spinning for a while after a matrix product, which made a network on as many threads as
there are cores take twice its time between two batches of 98 points.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from heatmap_samples import spec_of

from facemark_sdk.decode import DECODERS, make_decoder
from facemark_sdk.decode.pip import nearest_neighbours

HERE = Path(__file__).parent
FACES, LANDMARKS, NEIGHBOURS, GRID, CELLS = 32, 98, 10, 8, 128
SHAPES = {
    **dict.fromkeys(("cls", "x", "y"), (LANDMARKS, GRID, GRID)),
    **dict.fromkeys(("nb_x", "nb_y"), (LANDMARKS * NEIGHBOURS, GRID, GRID)),
    "heatmaps": (LANDMARKS, CELLS, CELLS),
    "offsets": (LANDMARKS, 8, 8),
    "offset_maps": (2, CELLS, CELLS),
    "offset_values": (LANDMARKS, 2),
    "displacement": (LANDMARKS * 2,),
    "points": (LANDMARKS, 2),
    "scores": (LANDMARKS,),
}
MEAN_FACE = np.random.default_rng(0).random((LANDMARKS, 2))
PARAMS = {
    "pip": {"neighbours": nearest_neighbours(MEAN_FACE, NEIGHBOURS).tolist()},
    "regression": {"mean_shape": MEAN_FACE.tolist()},
}
QUIET_S = 0.2
"""Longer than BLAS's threads spin for."""


def wakings():
    """How often the other threads of this process went to sleep."""
    time.sleep(QUIET_S)
    own = os.getpid()
    tasks = [task for task in Path("/proc/self/task").iterdir() if task.name != str(own)]
    return sum(
        int(line.split()[1])
        for task in tasks
        for line in (task / "status").read_text().splitlines()
        if line.startswith("voluntary_ctxt_switches")
    )


def spec_for(decoder):
    spec = spec_of(decoder, **PARAMS.get(decoder, {}))
    return dataclasses.replace(spec, layout="wflw98")


def main():
    """Print the wakings by a large matrix product, and by each decoder."""
    rng = np.random.default_rng(1)
    maps = {name: rng.random((FACES, *shape), np.float32) for name, shape in SHAPES.items()}
    square = rng.random((512, 512), np.float32)
    work = {name: partial(make_decoder(spec_for(name)), maps) for name in DECODERS}
    counts = {}
    for name, run in {"a matrix product": partial(np.matmul, square, square), **work}.items():
        before = wakings()
        run()
        counts[name] = wakings() - before
    print(json.dumps(counts))


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads' wakings by /proc")
def test_decoding_wakes_no_other_thread():
    limits = {"OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", "import test_decode_threads as t; t.main()"],
        cwd=HERE,
        env={name: value for name, value in os.environ.items() if name not in limits},
        capture_output=True,
        text=True,
        check=True,
    )
    counts = json.loads(done.stdout)
    if not counts.pop("a matrix product"):
        pytest.skip("numpy's BLAS has no threads here")
    assert counts == dict.fromkeys(DECODERS, 0)
