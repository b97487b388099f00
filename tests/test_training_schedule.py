"""Learning rates, optimizers, and float16's scaled losses."""

from __future__ import annotations

import functools
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from toy_training import BATCHES, RECIPE, Toy, assert_same_run

from facemark_export import checkpoint
from facemark_export.training import loop
from facemark_export.training.loop import Run, TrainingError
from facemark_export.training.schedule import learning_rate, make_optimizer


def rates(batches=10, **settings):
    recipe = replace(RECIPE, **settings)
    return [learning_rate(recipe, step, batches) for step in range(recipe.epochs * batches)]


def test_cosine_warms_up_linearly_and_decays_to_nothing():
    rate = rates(learning_rate=2.0, epochs=11, warmup_epochs=1.0)
    np.testing.assert_allclose(rate[:10], np.arange(1, 11) * 0.2)
    assert rate[10] == 2.0
    assert rate[60] == pytest.approx(1.0)  # half-way
    assert rate[10 + 25] == pytest.approx(1 + np.cos(np.pi / 4))
    assert 0 < rate[-1] < 1e-3


def test_steps_are_pipnets_published_schedule():
    """COMPAT 1.5: Adam at 1e-4, x 0.1 at epochs 30 and 50, of 60."""
    rate = rates(
        learning_rate=1e-4, epochs=60, warmup_epochs=0.0, schedule="steps", milestones=(30, 50)
    )
    np.testing.assert_allclose(rate[:300], 1e-4)
    np.testing.assert_allclose(rate[300:500], 1e-5)
    np.testing.assert_allclose(rate[500:], 1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": "steps"}, "milestones"),
        ({"milestones": (3,)}, "cosine"),
        ({"schedule": "steps", "milestones": (5, 3)}, "rising"),
        ({"schedule": "steps", "milestones": (0, 3)}, "from 1"),
        ({"schedule": "steps", "milestones": (3,), "step_factor": 1.5}, "step_factor"),
    ],
)
def test_schedules_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(TrainingError, match=message):
        replace(RECIPE, **settings)


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_the_first_step_is_the_optimizers_own(optimizer):
    """Adam's first step is the rate along the gradient's sign, into which its decay goes."""
    network = nn.Linear(2, 1)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[4.0, -4.0]]))
    recipe = replace(RECIPE, optimizer=optimizer, learning_rate=0.01, weight_decay=0.5)
    stepper = make_optimizer(network, recipe)
    network.weight.grad = torch.tensor([[-1.0, -1.0]])
    network.bias.grad = torch.tensor([3.0])
    bias = network.bias.item()
    stepper.step()
    # Adam: gradient -1 + 0.5 * 4 = 1 and -3. AdamW: the weight shrinks by 0.01 * 0.5 of itself.
    expected = {"adam": [3.99, -3.99], "adamw": [4 * 0.995 + 0.01, -4 * 0.995 + 0.01]}[optimizer]
    np.testing.assert_allclose(network.weight[0].tolist(), expected, rtol=1e-5)
    assert network.bias.item() == pytest.approx(bias - 0.01)  # does not decay


def test_a_run_follows_the_schedule(tmp_path):
    recipe = replace(RECIPE, warmup_epochs=0.0, schedule="steps", milestones=(1, 2))
    trained = Run(Toy(), recipe, "toy", tmp_path / "run", resume=False)
    seen = []
    step = trained.optimizer.step

    def noting(*arguments):
        seen.append(trained.optimizer.param_groups[0]["lr"])
        return step(*arguments)

    trained.optimizer.step = noting
    trained.train()
    expected = [rate for rate in (1e-2, 1e-3, 1e-4) for _ in range(BATCHES)]
    np.testing.assert_allclose(seen, expected)


# --- float16 --------------------------------------------------------------------------------


@pytest.fixture
def scaled(monkeypatch):
    """The loss is scaled on the CPU, too, from a given scale on."""
    scaler = torch.amp.GradScaler

    def start_at(scale):
        made = functools.partial(scaler, init_scale=scale, growth_interval=4)
        monkeypatch.setattr(torch.amp, "GradScaler", lambda device, enabled: made(device))

    return start_at


def steep(**arguments):
    """A toy with large gradients."""
    task = Toy(**arguments)
    losses = task.losses
    task.losses = lambda outputs, batch: {"square": 1e4 * losses(outputs, batch)["square"]}
    return task


def test_an_overflow_leaves_a_step_out_and_the_scale_is_resumed(tmp_path, scaled):
    scaled(2.0**127)  # the gradients of the first steps are infinite
    recipe = replace(RECIPE, checkpoint_minutes=0.0)
    run = functools.partial(Run, recipe=recipe, name="toy")
    whole = run(steep(), out=tmp_path / "whole", resume=False)
    whole.train()
    assert whole.scaler.get_scale() < 2.0**127
    with pytest.raises(KeyboardInterrupt):
        run(steep(stop_at=9), out=tmp_path / "cut", resume=False).train()
    state = checkpoint.read_training_state(tmp_path / "cut" / "last.state.pt")
    assert state["scaler"]["scale"] < 2.0**127
    scaled(1.0)  # what is stored counts
    run(steep(), out=tmp_path / "cut", resume=True).train()
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
    weights = checkpoint.read(tmp_path / "whole" / "last.safetensors").weights
    assert all(torch.isfinite(value).all() for value in weights.values())


def test_gradients_that_no_scale_makes_finite_stop_the_run(tmp_path, scaled):
    scaled(4.0)
    task = Toy()
    losses = task.losses

    def with_bad_gradients(outputs, batch):
        return {"square": losses(outputs, batch)["square"] + (outputs * 0).sum().sqrt()}

    task.losses = with_bad_gradients
    with pytest.raises(TrainingError, match=r"gradient .* epoch 1, batch 4.*bfloat16"):
        Run(task, RECIPE, "toy", tmp_path / "run", resume=False).train()


def test_float16_is_refused_on_the_cpu(tmp_path):
    with pytest.raises(TrainingError, match=r"float16 needs CUDA.*bfloat16"):
        Run(Toy(), replace(RECIPE, precision="float16"), "toy", tmp_path / "run", resume=False)


@pytest.mark.parametrize("has", [True, False])
def test_bfloat16_where_the_cpu_has_it(tmp_path, monkeypatch, caplog, has):
    monkeypatch.setattr(loop, "_has_bfloat16", lambda: has)
    with caplog.at_level(logging.WARNING, "facemark"):
        recipe = replace(RECIPE, precision="bfloat16")
        run = Run(Toy(), recipe, "toy", tmp_path / "run", resume=False)
    assert run.autocast == (torch.bfloat16 if has else None)
    assert ("training in float32" in caplog.text) == (not has)
    assert loop.autocast_type("bfloat16", torch.device("cuda")) == torch.bfloat16
    assert loop.autocast_type("float32", torch.device("cpu")) is None


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_precisions_train_on_the_cpu(tmp_path, precision):
    recipe = replace(RECIPE, precision=precision, epochs=6)
    figures = Run(Toy(), recipe, "toy", tmp_path / "run", resume=False).train()
    assert figures["square"] < 0.2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_precisions_train_and_resume_on_cuda(tmp_path, precision):
    recipe = replace(RECIPE, precision=precision, device="cuda", epochs=6, checkpoint_minutes=0.0)
    run = functools.partial(Run, recipe=recipe, name="toy", out=tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        run(Toy(stop_at=9), resume=False).train()
    resumed = run(Toy(), resume=True)
    assert resumed.scaler.is_enabled() == (precision == "float16")
    assert resumed.train()["square"] < 0.2
