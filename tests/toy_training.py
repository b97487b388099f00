"""A task of a few weights for the tests of the loop, and a run of it as a process of its own.

python toy_training.py OUT [--resume] [--settings JSON] [--plain] [--pause S] [--die RANK:STEP]
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from facemark_export import checkpoint
from facemark_export.training import processes
from facemark_export.training.loop import LoopRecipe, Run
from facemark_sdk.spec import InputSpec, ModelSpec

SPEC = ModelSpec(
    name="toy",
    task="detection",
    family="toy",
    architecture="toy",
    decoder="toy",
    decoder_params={},
    layout="kps5",
    input=InputSpec(8, 8, "RGB", (127.0, 127.0, 127.0), (64.0, 64.0, 64.0)),
    crop=None,
    precision="fp32",
    producer="test",
    source_sha256="",
    training_data="",
    licence="",
)
RECIPE = LoopRecipe(
    epochs=3,
    batch_size=4,
    workers=0,
    precision="float32",
    threads=1,
    learning_rate=1e-2,
    device="cpu",
)
SAMPLES = 22
BATCHES = 6  # an epoch: 4, 4, 4, 4, 3 and 3 samples


class Toy:
    """Learn the mean brightness of random images.

    Batch norm and dropout, so that running statistics and the network's own chance matter too.
    """

    spec = SPEC
    metric = "error"
    higher_is_better = False

    def __init__(self, stop_at=None, nan_at=None):
        torch.manual_seed(0)
        self.network = nn.Sequential(
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Flatten(),
            nn.Linear(4 * 6 * 6, 1),
        )
        self.calls, self.stop_at, self.nan_at = 0, stop_at, nan_at

    def __len__(self):
        return SAMPLES

    def epoch_indices(self, rng):
        return rng.permutation(len(self))

    def make_batch(self, indices, rng):
        noise = [own.integers(0, 40, (8, 8, 3)) for own in rng.spawn(len(indices))]
        images = (indices[:, None, None, None] * 9 + np.stack(noise)).astype(np.uint8)
        return {
            "image": torch.from_numpy(images),
            "target": torch.from_numpy(images.mean((1, 2, 3)).astype(np.float32) / 255),
        }

    def losses(self, outputs, batch):
        self.calls += 1
        if self.calls == self.stop_at:
            raise KeyboardInterrupt
        loss = (outputs[:, 0].float() - batch["target"]).square().mean()
        return {"square": loss * float("nan") if self.calls == self.nan_at else loss}

    def validate(self, forward):
        """The error of black: a figure of the weights alone."""
        outputs = forward(torch.zeros(2, 8, 8, 3, dtype=torch.uint8))
        assert outputs.shape == (2, 1)
        return {"error": float(outputs[0].abs())}


class Plain(Toy):
    """No batch norm, no dropout: what a part of a batch gives depends on its samples alone.

    One weight is never used, and one by the losses of bright images only.
    """

    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 1))
        self.network.unused = nn.Parameter(torch.ones(3, 3))
        self.network.seldom = nn.Parameter(torch.ones(1, 1))

    def losses(self, outputs, batch):
        losses = super().losses(outputs, batch)
        bright = batch["target"][batch["target"] > 0.75]
        seldom = torch.zeros(())
        if len(bright):
            seldom = (self.network.seldom[0] - bright).square().sum() / len(batch["target"])
        return {**losses, "seldom": seldom}


def weights_and_rows(folder):
    """What a run leaves: its last weights, and its log without the speed."""
    rows = list(csv.DictReader((folder / "log.csv").open()))
    for row in rows:
        del row["images_per_second"]
    return checkpoint.read(folder / "last.safetensors").weights, rows


def assert_same_run(folder, other):
    (weights, rows), (other_weights, other_rows) = map(weights_and_rows, (folder, other))
    assert rows == other_rows
    assert weights.keys() == other_weights.keys()
    for key, value in weights.items():
        assert torch.equal(value, other_weights[key]), key


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--settings", type=json.loads, default={})
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--die", default="-1:0")
    arguments = parser.parse_args()
    task = Plain() if arguments.plain else Toy()
    run = Run(
        task, replace(RECIPE, **arguments.settings), "toy", arguments.out, resume=arguments.resume
    )
    losses, done = task.losses, run.epoch * BATCHES + run.batch
    dying, last = map(int, arguments.die.split(":"))

    def told(outputs, batch):
        print("step", done + task.calls, flush=True)
        if run.processes.rank == dying and done + task.calls == last:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(arguments.pause)
        return losses(outputs, batch)

    task.losses = told
    run.train()
    processes.leave()


if __name__ == "__main__":
    main()
