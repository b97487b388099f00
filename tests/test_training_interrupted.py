"""A run that is killed, or whose disk is full, loses at most one checkpoint interval."""

from __future__ import annotations

import os
import random
import secrets
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toy_training import BATCHES, RECIPE, Toy, assert_same_run

from facemark_export import checkpoint
from facemark_export.training.loop import Run, TrainingError

# Saves after every batch.
RECIPE = replace(RECIPE, checkpoint_minutes=0.0)
SETTINGS = '{"checkpoint_minutes": 0, "epochs": 9}'


def run(out, *, task=None, resume=False, **settings):
    return Run(task or Toy(), replace(RECIPE, **settings), "toy", out, resume=resume)


def position(folder):
    state = checkpoint.read_training_state(folder / "last.state.pt")
    return state["epoch"] * BATCHES + state["batch"]


@pytest.fixture
def chance():
    """Other moments in every run; pytest shows the seed of a failure, and KILL_SEED repeats it."""
    seed = int(os.environ.get("KILL_SEED", secrets.randbits(32)))
    print(f"KILL_SEED={seed}")
    return random.Random(seed)


def kill_at(step, delay, out, *arguments):
    """Kill a training process `delay` seconds after `step` has begun; the step it was at."""
    print(f"killed {1000 * delay:.1f} ms after step {step} had begun")
    script = Path(__file__).with_name("toy_training.py")
    child = subprocess.Popen(
        [sys.executable, script, out, *arguments, "--pause", "0.01", "--settings", SETTINGS],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    begun = 0
    while begun < step:
        begun = int(child.stdout.readline().split()[1])
    try:
        child.wait(delay)
    except subprocess.TimeoutExpired:
        child.send_signal(signal.SIGKILL)
    rest = child.stdout.read().split()
    assert child.wait() == -signal.SIGKILL
    return int(rest[-1]) if rest else begun


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs POSIX signals")
def test_runs_killed_at_random_moments_lose_no_finished_step_and_end_bit_identical(
    tmp_path, chance
):
    run(tmp_path / "whole", epochs=9).train()
    begun = kill_at(chance.randint(3, 15), chance.uniform(0, 0.05), tmp_path / "cut")
    assert begun <= position(tmp_path / "cut") <= begun + 1
    later = chance.randint(begun + 2, 35)
    begun = kill_at(later, chance.uniform(0, 0.05), tmp_path / "cut", "--resume")
    assert begun <= position(tmp_path / "cut") <= begun + 1
    run(tmp_path / "cut", resume=True, epochs=9).train()
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
    assert not list((tmp_path / "cut").glob(".*.partial"))


def test_a_run_killed_between_an_epochs_last_step_and_its_validation_goes_on(tmp_path):
    run(tmp_path / "whole").train()
    task = Toy()

    def interrupted(forward):
        raise KeyboardInterrupt

    task.validate = interrupted
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", task=task).train()
    assert position(tmp_path / "cut") == BATCHES
    run(tmp_path / "cut", resume=True).train()
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_a_run_killed_before_its_state_is_written_logs_the_epoch_once(tmp_path, monkeypatch):
    run(tmp_path / "whole").train()
    cut = run(tmp_path / "cut", checkpoint_minutes=9.0)
    save = cut._save

    def killed_in_the_second_epoch():
        if cut.epoch == 2:
            raise KeyboardInterrupt
        save()

    monkeypatch.setattr(cut, "_save", killed_in_the_second_epoch)
    with pytest.raises(KeyboardInterrupt):
        cut.train()
    assert position(tmp_path / "cut") == BATCHES
    run(tmp_path / "cut", resume=True).train()
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.parametrize("too_large", ["last.safetensors", "last.state.pt"])
def test_a_full_disk_stops_with_its_cause_and_keeps_the_checkpoint(tmp_path, too_large):
    """Whichever of the two files cannot be written, the run goes on from the state."""
    resource = pytest.importorskip("resource")  # POSIX: a limit on files stands for the disk's
    run(tmp_path / "whole").train()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "full", task=Toy(stop_at=BATCHES + 1)).train()
    size = (tmp_path / "full" / too_large).stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1, before[1]))
    try:
        with pytest.raises(TrainingError, match=r"cannot write to .*full.*File too large"):
            run(tmp_path / "full", resume=True).train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert position(tmp_path / "full") == BATCHES
    checkpoint.read(tmp_path / "full" / "last.safetensors")  # readable, at most a step ahead
    assert not list((tmp_path / "full").glob(".*.partial"))
    run(tmp_path / "full", resume=True).train()
    assert_same_run(tmp_path / "whole", tmp_path / "full")


def test_a_gradient_that_is_not_a_number_stops_before_it_reaches_the_weights(tmp_path):
    task = Toy()
    losses = task.losses

    def with_a_bad_gradient(outputs, batch):
        named = losses(outputs, batch)
        if task.calls == BATCHES + 3:
            named["square"] = named["square"] + (outputs * 0).sum().sqrt()  # 0, gradient 0 x inf
        return named

    task.losses = with_a_bad_gradient
    with pytest.raises(TrainingError, match="gradient is not a number at epoch 2, batch 3"):
        run(tmp_path / "run", task=task).train()
    kept = checkpoint.read(tmp_path / "run" / "last.safetensors")
    assert all(torch.isfinite(value).all() for value in kept.weights.values())
    assert position(tmp_path / "run") == BATCHES + 2
