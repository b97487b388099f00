"""Several processes that share every batch, under torchrun: two of them, on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from toy_training import BATCHES, RECIPE, Plain, Toy, weights_and_rows

from facemark_export import checkpoint
from facemark_export.training import processes
from facemark_export.training.batches import EpochBatches
from facemark_export.training.loop import Run, TrainingError

TOY = Path(__file__).with_name("toy_training.py")
CPU = torch.device("cpu")


def torchrun(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        + [str(argument) for argument in arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
        },
    )


def assert_alike(folder, other):
    (weights, rows), (other_weights, other_rows) = map(weights_and_rows, (folder, other))
    for row, other_row in zip(rows, other_rows, strict=True):
        assert row.keys() == other_row.keys()
        for key, value in row.items():
            assert float(value) == pytest.approx(float(other_row[key]), rel=1e-4), key
    for key, value in weights.items():
        torch.testing.assert_close(value, other_weights[key], rtol=1e-4, atol=1e-5)


def test_two_processes_follow_one_with_the_same_batch(tmp_path):
    """Odd parts, a weight that is never used, and one that only one process may use in a step."""
    Run(Plain(), RECIPE, "toy", tmp_path / "one", resume=False).train()
    done = torchrun(TOY, tmp_path / "two", "--plain")
    assert done.returncode == 0, done.stderr
    assert_alike(tmp_path / "one", tmp_path / "two")
    weights = checkpoint.read(tmp_path / "two" / "last.safetensors").weights
    assert (weights["unused"] == 1).all()  # nor did it decay
    assert (weights["seldom"] != 1).all()
    assert [row["epoch"] for row in weights_and_rows(tmp_path / "two")[1]] == ["1", "2", "3"]


def test_a_killed_process_ends_all_and_the_run_goes_on_in_one(tmp_path):
    Run(Plain(), RECIPE, "toy", tmp_path / "one", resume=False).train()
    done = torchrun(
        TOY, tmp_path / "two", "--plain", "--die", "1:9", "--settings", '{"checkpoint_minutes": 0}'
    )
    assert done.returncode != 0
    state = checkpoint.read_training_state(tmp_path / "two" / "last.state.pt")
    assert state["epoch"] * BATCHES + state["batch"] == 9
    Run(Plain(), RECIPE, "toy", tmp_path / "two", resume=True).train()
    assert_alike(tmp_path / "one", tmp_path / "two")


@pytest.mark.parametrize("count", [2, 3])
def test_the_parts_of_the_processes_are_the_batch_of_one(count):
    task = Toy()
    whole = EpochBatches(task, RECIPE, 1, 2, processes.Processes(0, 1, CPU))
    parts = [
        EpochBatches(task, RECIPE, 1, 2, processes.Processes(rank, count, CPU))
        for rank in range(count)
    ]
    assert len(whole) == len(parts[0]) == BATCHES - 2
    for number in range(len(whole)):
        batch, share = whole[number]
        assert share == 1
        made, shares = zip(*(part[number] for part in parts), strict=True)
        assert sum(shares) == pytest.approx(1)
        for key, value in batch.items():
            assert torch.equal(value, torch.cat([part[key] for part in made]))


def test_a_batchs_chance_is_of_seed_epoch_and_number():
    class Drawing(Toy):
        def make_batch(self, indices, rng):
            return {"drawn": torch.from_numpy(rng.random(3))}

    recipe = replace(RECIPE, seed=5)
    for rank in range(2):  # what the batch as a whole draws is the same everywhere
        batches = EpochBatches(Drawing(), recipe, 2, 1, processes.Processes(rank, 2, CPU))
        expected = np.random.default_rng((5, 2, 4)).random(3)
        np.testing.assert_array_equal(batches[3][0]["drawn"], expected)


def test_more_processes_than_samples_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "join", lambda device: processes.Processes(0, 4, CPU))
    with pytest.raises(TrainingError, match=r"4 processes share batches of 3 .*--batch-size"):
        Run(Toy(), RECIPE, "toy", tmp_path / "run", resume=False)


def test_the_command_trains_a_recipe_in_two_processes(tmp_path):
    data, rng = tmp_path / "faces", np.random.default_rng(0)
    data.mkdir()
    lines = []
    for number in range(40):
        points = rng.uniform(20, 60, (68, 2)).round(1)
        cv2.imwrite(str(data / f"{number}.png"), rng.integers(0, 255, (80, 80, 3)))
        lines.append(json.dumps({"image": f"{number}.png", "points": points.tolist()}))
    (data / "annotations.jsonl").write_text("\n".join(lines))
    command = ["-m", "facemark_export.training.cli", "pipnet_r18_68", "--data", data]
    options = ["--size", "64", "--epochs", "1", "--batch-size", "16", "--device", "cpu"]
    done = torchrun(*command, *options, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("images_per_second") == 1  # one process tells
    assert checkpoint.read(tmp_path / "run" / "best.safetensors").record["epoch"] == 1
