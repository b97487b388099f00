"""TensorBoard beside log.csv."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
from toy_training import BATCHES, RECIPE, Toy

from facemark_export.training.loop import Run, TrainingError

RECIPE = replace(RECIPE, tensorboard=True, log_every=2, checkpoint_minutes=0.0)


def run(task, out, *, resume=False):
    return Run(task, RECIPE, "toy", out, resume=resume)


def events(folder):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    accumulator = reader.EventAccumulator(str(folder / "tensorboard"))
    accumulator.Reload()
    return {
        tag: [(event.step, event.value) for event in accumulator.Scalars(tag)]
        for tag in accumulator.Tags()["scalars"]
    }


def test_losses_every_few_steps_and_figures_every_epoch(tmp_path):
    pytest.importorskip("tensorboard")
    run(Toy(), tmp_path / "run").train()
    logged = events(tmp_path / "run")
    assert [step for step, _ in logged["training/square"]] == list(range(0, 3 * BATCHES, 2))
    assert [step for step, _ in logged["epoch/error"]] == [5, 11, 17]
    assert {"training/learning_rate", "epoch/square", "epoch/images_per_second"} <= logged.keys()


def test_a_resumed_run_shows_no_step_twice(tmp_path):
    pytest.importorskip("tensorboard")
    run(Toy(), tmp_path / "whole").train()
    with pytest.raises(KeyboardInterrupt):
        run(Toy(stop_at=9), tmp_path / "cut").train()
    run(Toy(), tmp_path / "cut", resume=True).train()
    whole, cut = (events(tmp_path / name) for name in ("whole", "cut"))
    for tag in ("training/square", "epoch/error", "epoch/square"):
        np.testing.assert_array_equal(whole[tag], cut[tag])


def test_without_the_package_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(TrainingError, match=r"facemark-sdk\[tensorboard\]"):
        run(Toy(), tmp_path / "run")
