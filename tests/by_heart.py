"""Eight real faces learnt by heart: what every landmark recipe must be able to do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import SHARED

from facemark_export.networks.normalise import Normalise
from facemark_export.training.augment import Augmentation
from facemark_export.training.landmark_task import LandmarkTask
from facemark_export.training.loop import autocast_type
from facemark_export.training.recipes import landmarks
from facemark_export.training.recipes.landmarks import LandmarkRecipe

HELEN = SHARED / "data" / "landmarks68" / "helen_train"
FACES = 8
STILL = Augmentation(translate=0, rotate=0, scale=0, flip=0, occlude=0, blur=0, colour=0, grey=0)
_WARMUP = 5
_BETAS = 0.8, 0.9
"""Of AdamW: shorter memories than usual, as there are few steps."""


def nme_by_heart(
    monkeypatch: pytest.MonkeyPatch, recipe: LandmarkRecipe, *, rate: float, steps: int
) -> float:
    """Inter-ocular NME (%) on eight faces of HELEN after training on just these.

    Network, targets, losses and validation are the recipe's.
    """

    def the_first(faces):
        return faces[:FACES], faces[:FACES]

    monkeypatch.setattr(landmarks, "split_by_photo", the_first)
    torch.manual_seed(0)
    task = recipe.build([HELEN])
    learn_by_heart(task, rate=rate, steps=steps)
    return nme_of(task)


def learn_by_heart(task: LandmarkTask, *, rate: float, steps: int) -> dict[str, float]:
    """Train on a task's first eight faces; what the losses were at last.

    Every step sees all eight, in the type in which recipes train here; the rate rises over five
    steps and falls to 0 over all.
    """
    network = task.network.to(memory_format=torch.channels_last)
    normalise = Normalise(task.spec.input)
    batch = task.make_batch(np.arange(FACES), np.random.default_rng(0))
    image = normalise(batch["image"])
    optimizer = torch.optim.AdamW(network.parameters(), rate, _BETAS)
    dtype = autocast_type("bfloat16", torch.device("cpu"))
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min((step + 1) / _WARMUP, 1 - step / steps)
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            outputs = network(image)
        losses = task.losses(outputs, batch)
        torch.stack([*losses.values()]).sum().backward()
        optimizer.step()
    return {name: loss.item() for name, loss in losses.items()}


def nme_of(task: LandmarkTask) -> float:
    """Inter-ocular NME (%) on a task's held-out faces."""
    normalise = Normalise(task.spec.input)
    network = task.network.eval()
    with torch.inference_mode():
        return task.validate(lambda images: network(normalise(images)))["nme"]
