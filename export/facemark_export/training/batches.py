"""The batches of an epoch, whose contents depend on (seed, epoch, batch, position) alone."""

from __future__ import annotations

import math
from collections.abc import Iterator

import cv2
import numpy as np
import torch
from torch import Tensor

from facemark_export.training.loop_recipe import LoopRecipe
from facemark_export.training.processes import Processes
from facemark_export.training.task import Task


class EpochBatches(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """One epoch's batches from batch number `start` on, made where a worker asks for them.

    An item is this process's part of a batch, and its share of the batch's samples.
    """

    def __init__(
        self, task: Task, recipe: LoopRecipe, epoch: int, start: int, processes: Processes
    ) -> None:
        order = task.epoch_indices(np.random.default_rng((recipe.seed, epoch)))
        self.task, self.seed, self.epoch, self.start = task, recipe.seed, epoch, start
        self.rank, self.count = processes.rank, processes.count
        self.batches = np.array_split(order, math.ceil(len(order) / recipe.batch_size))

    def __len__(self) -> int:
        return len(self.batches) - self.start

    def __getitem__(self, item: int) -> tuple[dict[str, Tensor], float]:
        number = item + self.start
        whole = self.batches[number]
        first, end = (len(whole) * rank // self.count for rank in (self.rank, self.rank + 1))
        # Its n-th child is the same one in whichever process the n-th sample is made.
        chance = np.random.SeedSequence((self.seed, self.epoch, number), n_children_spawned=first)
        part = self.task.make_batch(whole[first:end], np.random.default_rng(chance))
        return part, (end - first) / len(whole)


def load_batches(
    task: Task, recipe: LoopRecipe, epoch: int, start: int, processes: Processes
) -> Iterator[tuple[dict[str, Tensor], float]]:
    """An epoch's batches in order, prepared by the recipe's workers."""
    # OpenCV's threads do not survive the fork of a worker, which would wait for them for ever;
    # with one thread there is no pool to inherit. A worker's batches need no more.
    cv2.setNumThreads(1)
    return iter(
        torch.utils.data.DataLoader(
            EpochBatches(task, recipe, epoch, start, processes),
            batch_size=None,
            num_workers=recipe.workers,
            pin_memory=processes.device.type == "cuda",
        )
    )
