"""What the Wasserstein loss gives and what it takes: accuracy, time, memory.

Five tables: entropy against exact distances (linear programming); iterations, on one grid or a
coarse one first, against convergence; kernels of one half iteration; the envelope theorem's
gradient against unrolled iterations; time and memory of a batch beside HRNetV2-W18's own.

Writes wasserstein_cost.json, .png and .md into DOCS/reproduction. A quarter of an hour on two quiet
cores; --quick tries the script in half a minute.

    python benchmarks/wasserstein_cost.py [--docs docs] [--device cuda] [--quick]
"""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from torch import Tensor

import wasserstein_page
from facemark_export.training.sinkhorn import SinkhornSettings, alternate, transport
from facemark_export.training.wasserstein import log_softmax
from wasserstein_batch import SIDE, batch_rows, seconds_of
from wasserstein_kernels import kernel_rows
from wasserstein_maps import FAR, KINDS, drawn_pairs, exact_transports, logit_gradients

ENTROPIES = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Values of epsilon, in cells; those below 0.5 want hundreds of iterations."""
EPSILONS = (0.5, 1.0, 2.0, 4.0)
LIMITS = (1, 2, 4, 8, 16)
"""Iterations."""
CONVERGED = SinkhornSettings(iterations=1000, tolerance=1e-5)
Figures = list[dict[str, Any]]


def main(
    docs: Path = Path("docs"),
    device: str = "cpu",
    batch: int = 16,
    landmarks: int = 68,
    exact_side: int = 24,
    maps: int = 144,
    quick: bool = False,
) -> None:
    """Measure and write.

    Args:
        docs: Folder with a reproduction folder.
        device: Where times are taken; accuracy is a matter of the CPU.
        batch: Faces of the batch beside the network.
        landmarks: Maps a face.
        exact_side: Cells a side of the maps of which exact distances are found.
        maps: At a time, where times a map are taken.
        quick: Few and small maps, to see whether it runs; the figures mean nothing.
    """
    side, entropies, epsilons, limits = SIDE, ENTROPIES, EPSILONS, LIMITS
    if quick:
        batch, landmarks, exact_side, maps, side = 1, 2, 8, 36, 16
        entropies = epsilons = (1.0, 2.0)
        limits = (1, 4)
    figures = {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "batch": [batch, landmarks, SIDE],
        "exact_side": exact_side,
        "entropy": entropy_rows(exact_side, entropies),
        "iterations": iteration_rows(side, epsilons, limits, maps, device),
        "kernels": kernel_rows(side, epsilons, maps, device, CONVERGED),
        "gradients": gradient_rows(side, limits, device),
        "batches": batch_rows(batch, landmarks, device),
    }
    folder = docs / "reproduction"
    folder.mkdir(parents=True, exist_ok=True)
    suffix = "" if device == "cpu" else f"_{device}"
    (folder / f"wasserstein_cost{suffix}.json").write_text(json.dumps(figures, indent=1) + "\n")
    (folder / f"wasserstein_cost{suffix}.md").write_text(wasserstein_page.tables(figures))
    wasserstein_page.plot(figures, folder / f"wasserstein_cost{suffix}.png")


def entropy_rows(side: int, epsilons: tuple[float, ...]) -> Figures:
    """Converged distances and gradients against the exact ones."""
    pairs = drawn_pairs(side)
    exact = exact_transports(pairs)
    log_p = log_softmax(pairs.logits)[0]
    rows = []
    for epsilon, debias in product(epsilons, (True, False)):
        how = replace(CONVERGED, epsilon=epsilon, debias=debias)
        found = transport(log_p, pairs.log_q[0], how)
        off = (found.values.numpy() - exact.values).reshape(-1, len(KINDS))
        slopes = logit_gradients(log_p, found.gradients).numpy()
        alike = _cosines(slopes, exact.gradients).reshape(-1, len(KINDS))
        rows.append(
            {
                "epsilon": epsilon,
                "debias": debias,
                "off": dict(zip(KINDS, off.mean(0).tolist(), strict=True)),
                "off_far": float(np.abs(off[:, :FAR]).mean()),
                "off_near": float(np.abs(off[:, FAR:]).mean()),
                "cosine": dict(zip(KINDS, alike.mean(0).tolist(), strict=True)),
                "cosine_far": float(alike[:, :FAR].min()),
                "cosine_near": float(alike[:, FAR].min()),
            }
        )
    return rows


def iteration_rows(
    side: int, epsilons: tuple[float, ...], limits: tuple[int, ...], maps: int, device: str
) -> Figures:
    """Distances and gradients in float32 after few iterations, against converged ones."""
    pairs = drawn_pairs(side)
    log_p, log_q = log_softmax(pairs.logits)[0], pairs.log_q[0]
    many = [
        logs.float().to(device).repeat(-(-maps // len(logs)), 1, 1)[:maps]
        for logs in (log_p, log_q)
    ]
    rows = []
    stops = [(limit, 0.0) for limit in limits] + [(100, SinkhornSettings().tolerance)]
    for epsilon, debias in product(epsilons, (True, False)):
        how = replace(CONVERGED, epsilon=epsilon, debias=debias)
        ideal = transport(log_p, log_q, how)
        right = logit_gradients(log_p, ideal.gradients)
        for coarse_first, (limit, tolerance) in product((True, False), stops):
            how = SinkhornSettings(epsilon, debias, limit, tolerance, coarse_first)
            found = transport(log_p.float(), log_q.float(), how)
            slopes = logit_gradients(log_p, found.gradients.double())
            wrong = (slopes - right).flatten(1).norm(dim=1) / right.flatten(1).norm(dim=1)
            far = wrong.view(-1, len(KINDS))[:, : FAR + 1]  # at "good" nothing is left to compare
            rows.append(
                {
                    "epsilon": epsilon,
                    "debias": debias,
                    "coarse_first": coarse_first,
                    "iterations": limit if tolerance == 0 else None,
                    "tolerance": tolerance,
                    "value_off": float((found.values - ideal.values).abs().max()),
                    "gradient_off": float(far.max()),
                    "ms_a_map": 1e3
                    / maps
                    * seconds_of(lambda s=how: transport(*many, s), device, 1),
                }
            )
    return rows


def gradient_rows(side: int, limits: tuple[int, ...], device: str) -> Figures:
    """The envelope theorem's gradient and unrolled iterations', each after so many iterations."""
    pairs = drawn_pairs(side)
    log_q = pairs.log_q[0].float().to(device)
    right = _gradient(pairs.logits[0], pairs.log_q[0], replace(CONVERGED, debias=False), False)[0]
    rows = []
    for limit, unrolled in product(limits, (False, True)):
        how = SinkhornSettings(debias=False, iterations=limit, tolerance=0.0, coarse_first=False)
        logits = pairs.logits[0].float().to(device)
        slopes, kept = _gradient(logits, log_q, how, unrolled)
        wrong = (slopes.double().cpu() - right).flatten(1).norm(dim=1)
        wrong = (wrong / right.flatten(1).norm(dim=1)).view(-1, len(KINDS))[:, : FAR + 1]
        taken = seconds_of(
            lambda m=logits, s=how, u=unrolled: _gradient(m, log_q, s, u), device
        ) / len(logits)
        rows.append(
            {
                "iterations": limit,
                "unrolled": unrolled,
                "gradient_off": float(wrong.max()),
                "ms_a_map": 1e3 * taken,
                "kept_kib_a_map": kept / len(logits) / 1024,
            }
        )
    return rows


def _gradient(
    logits: Tensor, log_q: Tensor, how: SinkhornSettings, unrolled: bool
) -> tuple[Tensor, int]:
    """Gradient of the sum of distances (M, G, G) and bytes kept for it."""
    logits = logits.clone().requires_grad_()
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.shape[-1] != logits[0].numel():  # the kernel, which all maps share
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        log_p = log_softmax(logits[None])[0]
        if unrolled:
            of_p, of_q = alternate(log_p, log_q, how)
            total = (log_p.exp() * of_p + log_q.exp() * of_q).sum()
        else:
            solved = transport(log_p.detach(), log_q, how)
            total = (log_p.exp() * solved.gradients).sum()
        total.backward()
    assert logits.grad is not None
    return logits.grad, sum(kept.values())


def _cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    return (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))


if __name__ == "__main__":
    tyro.cli(main)
