"""The loop: resume, what is kept, what stops it. On a task of a few weights, so in seconds."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from torch import nn
from toy_training import RECIPE, SPEC, Toy, assert_same_run

from facemark_export import checkpoint
from facemark_export.training.loop import Run, TrainingError
from facemark_sdk.errors import CheckpointError


def with_errors(*errors):
    """A toy whose validations give these figures."""
    task, figures = Toy(), iter(errors)
    task.validate = lambda forward: {"error": next(figures)}
    return task


def run(task, out, *, resume=False, recipe=RECIPE, name="toy"):
    return Run(task, recipe, name, out, resume=resume)


@pytest.mark.parametrize("stop_at", [2, 6, 11])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_killed_and_resumed_run_ends_like_an_uninterrupted_one(tmp_path, stop_at, workers):
    recipe = replace(RECIPE, checkpoint_minutes=0.0, workers=workers)  # saves after every batch
    run(Toy(), tmp_path / "whole", recipe=recipe).train()
    with pytest.raises(KeyboardInterrupt):
        run(Toy(stop_at=stop_at), tmp_path / "cut", recipe=recipe).train()
    run(Toy(), tmp_path / "cut", recipe=recipe, resume=True).train()
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_workers_start_although_opencv_has_used_its_threads(tmp_path):
    cv2.setNumThreads(4)
    cv2.GaussianBlur(np.zeros((2000, 2000, 3), np.uint8), (0, 0), 9)  # starts the pool
    task = Toy()
    make = task.make_batch

    def with_opencv(indices, rng):
        cv2.GaussianBlur(np.zeros((2000, 2000, 3), np.uint8), (0, 0), 9)
        return make(indices, rng)

    task.make_batch = with_opencv
    run(task, tmp_path / "run", recipe=replace(RECIPE, epochs=1, workers=1)).train()


def test_best_and_last_are_kept_with_spec_and_recipe(tmp_path):
    run(with_errors(3.0, 1.0, 2.0), tmp_path / "run").train()
    best, last = (checkpoint.read(tmp_path / "run" / f"{n}.safetensors") for n in ("best", "last"))
    assert best.record["epoch"] == 2
    assert best.record["validation"]["error"] == 1.0
    assert last.record["epoch"] == 3
    assert best.spec == SPEC
    assert best.record["recipe"] == "toy"
    assert best.record["settings"]["learning_rate"] == RECIPE.learning_rate
    rows = list(csv.DictReader((tmp_path / "run" / "log.csv").open()))
    assert [float(row["error"]) for row in rows] == [3.0, 1.0, 2.0]
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]


def test_a_loss_that_is_not_a_number_stops_and_keeps_the_last_good_checkpoint(tmp_path):
    with pytest.raises(TrainingError, match="not a number at epoch 2, batch 3"):
        run(Toy(nan_at=6 + 3), tmp_path / "run").train()
    kept = checkpoint.read(tmp_path / "run" / "last.safetensors")
    assert kept.record["epoch"] == 1
    assert all(torch.isfinite(v).all() for v in kept.weights.values())


def test_a_folder_with_a_run_is_not_overwritten(tmp_path):
    run(Toy(), tmp_path / "run", recipe=replace(RECIPE, epochs=1)).train()
    with pytest.raises(TrainingError, match="--resume"):
        run(Toy(), tmp_path / "run")
    with pytest.raises(TrainingError, match="recipe 'toy'"):
        run(Toy(), tmp_path / "run", resume=True, name="other")


def test_a_damaged_state_is_refused(tmp_path):
    run(Toy(), tmp_path / "run", recipe=replace(RECIPE, epochs=1)).train()
    state = tmp_path / "run" / "last.state.pt"
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="resumed"):
        run(Toy(), tmp_path / "run", resume=True)


def test_checkpoints_run_no_code_from_the_file(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    path = tmp_path / "last.state.pt"
    torch.save({"name": Evil()}, path)
    with pytest.raises(CheckpointError):
        checkpoint.read_training_state(path)
    with pytest.raises(CheckpointError):
        checkpoint.read(path)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["pipnet_lite0_68", "--data", "nowhere", "--out", "run"], 1, "annotations.jsonl"),
        (["pipnet_lite0_68"], 2, "--out"),
        (["unknown_recipe"], 2, "unknown_recipe"),
        (["--help"], 0, "retinaface_mnet025"),
    ],
)
def test_the_command_reports_misuse_without_a_traceback(tmp_path, arguments, status, message):
    done = subprocess.run(
        [sys.executable, "-m", "facemark_export.training.cli", *arguments],
        check=False,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == status, done.stderr
    assert message in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_only_settings_that_change_no_step_may_differ_when_resuming(tmp_path):
    run(Toy(), tmp_path / "run", recipe=replace(RECIPE, epochs=1)).train()
    run(Toy(), tmp_path / "run", recipe=replace(RECIPE, epochs=2, workers=1), resume=True)
    with pytest.raises(TrainingError, match="batch_size was 4, is 7"):
        run(Toy(), tmp_path / "run", recipe=replace(RECIPE, batch_size=7), resume=True)
    with pytest.raises(TrainingError, match="holds no run"):
        run(Toy(), tmp_path / "empty", resume=True)


def test_a_figure_that_is_not_a_number_is_never_the_best(tmp_path):
    run(with_errors(float("nan"), 1.0, float("nan")), tmp_path / "run").train()
    assert checkpoint.read(tmp_path / "run" / "best.safetensors").record["epoch"] == 2


@pytest.mark.parametrize(
    "setting",
    [{"epochs": 0}, {"batch_size": 0}, {"workers": -1}, {"learning_rate": 0}, {"ema_decay": 1.0},
     {"validate_every": 0}, {"checkpoint_minutes": float("nan")}],
)  # fmt: skip
def test_impossible_settings_are_refused_by_name(setting):
    with pytest.raises(TrainingError, match=next(iter(setting))):
        replace(RECIPE, **setting)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_is_not_silently_replaced(tmp_path):
    with pytest.raises(TrainingError, match="CUDA"):
        run(Toy(), tmp_path / "run", recipe=replace(RECIPE, device="cuda"))


def test_fine_tuning_starts_from_a_checkpoint(tmp_path):
    run(Toy(), tmp_path / "first", recipe=replace(RECIPE, epochs=1)).train()
    start = tmp_path / "first" / "best.safetensors"
    second = run(Toy(), tmp_path / "second", recipe=replace(RECIPE, init=start))
    for key, value in checkpoint.read(start).weights.items():
        assert torch.equal(second.network.state_dict()[key], value), key
    other = Toy()
    other.network = nn.Linear(2, 2)
    with pytest.raises(CheckpointError, match="another network"):
        run(other, tmp_path / "third", recipe=replace(RECIPE, init=start))
