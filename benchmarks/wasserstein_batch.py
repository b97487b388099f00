"""Time and memory of a batch: the losses of its heatmaps, and the network that makes them."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from facemark_export.networks.hrnet import HighResolutionNet
from facemark_export.training.sinkhorn import SinkhornSettings
from facemark_export.training.wasserstein import (
    jensen_shannon_loss,
    l2_loss,
    soft_argmax_loss,
    wasserstein_loss,
)
from facemark_sdk.bench.memory import peak_memory_mb

SIDE = 64
SIGMA = 1.5

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Wasserstein": lambda maps, points: wasserstein_loss(maps, points, SIGMA),
    "not debiased": lambda maps, points: wasserstein_loss(
        maps, points, SIGMA, SinkhornSettings(debias=False)
    ),
    "without the coarse grid": lambda maps, points: wasserstein_loss(
        maps, points, SIGMA, SinkhornSettings(coarse_first=False)
    ),
    "epsilon 0.5": lambda maps, points: wasserstein_loss(
        maps, points, SIGMA, SinkhornSettings(epsilon=0.5)
    ),
    "epsilon 2": lambda maps, points: wasserstein_loss(
        maps, points, SIGMA, SinkhornSettings(epsilon=2.0)
    ),
    "squared distance, epsilon 4": lambda maps, points: wasserstein_loss(
        maps, points, SIGMA, SinkhornSettings(epsilon=4.0, squared=True)
    ),
    "Jensen-Shannon": lambda maps, points: jensen_shannon_loss(maps, points, SIGMA),
    "soft-argmax": soft_argmax_loss,
    "L2": lambda maps, points: l2_loss(maps, points, SIGMA),
}
NETWORK = "HRNetV2-W18, forward and backward"


def batch_rows(batch: int, landmarks: int, device: str) -> list[dict[str, Any]]:
    """Forward and backward of a batch of maps, and of the network that makes them.

    Each in a process of its own, whose highest memory use is the case's.
    """
    rows = []
    for name in (NETWORK, *LOSSES):
        with multiprocessing.get_context("spawn").Pool(1) as one:
            seconds, peak = one.apply(batch_cost, (name, batch, landmarks, device))
        rows.append({"name": name, "seconds": seconds, "mb": peak})
    return rows


def batch_cost(name: str, batch: int, landmarks: int, device: str) -> tuple[float, float | None]:
    """Seconds, and 10^6 bytes beyond those of the inputs, where the system tells."""
    chance = torch.manual_seed(0)
    if name == NETWORK:
        network = HighResolutionNet(landmarks).to(device).train()
        images = torch.rand((batch, 3, 4 * SIDE, 4 * SIDE), generator=chance).to(device)

        def work() -> None:
            network(images).sum().backward()

    else:
        maps = torch.randn((batch, landmarks, SIDE, SIDE), generator=chance).to(device)
        points = torch.rand((batch, landmarks, 2), generator=chance).to(device)
        maps.requires_grad_()

        def work() -> None:
            LOSSES[name](maps, points).backward()

    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    before = _peak(device)
    seconds = seconds_of(work, device)
    after = _peak(device)
    return seconds, None if before is None or after is None else after - before


def _peak(device: str) -> float | None:
    """Highest use so far, 10^6 bytes."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    return peak_memory_mb()


def seconds_of(work: Callable[[], object], device: str, times: int = 3) -> float:
    """The shortest of some runs, after one that makes kernels and buffers."""
    taken = []
    for _ in range(times + 1):
        started = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return min(taken[1:])
