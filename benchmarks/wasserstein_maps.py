"""What wasserstein_cost.py measures on: maps of every stage of a training, and exact answers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from scipy.optimize import linprog
from torch import Tensor

from facemark_export.training.wasserstein import SIGMAS, log_gaussians, log_softmax

KINDS = ("start", "noisy", "two", "far", "near", "good")
"""A fresh network's map, a restless one, a true and a false peak, a false peak, one that is a
little off, one that is nearly right."""
FAR = 4
"""So many of them are far from the target: cells, not fractions of one."""
TRUTH = (0.32, 0.53)
PEAK = 2.0
"""Spread of a prediction's peaks, in cells."""
_NO_MASS = 1e-7
"""Cells with less than this are left out of the linear program."""


class Pairs(NamedTuple):
    """Predictions and targets of every kind at every sigma.

    Attributes:
        logits: (1, kinds * sigmas, G, G) float64.
        log_q: Likewise, logarithms of the targets.
    """

    logits: Tensor
    log_q: Tensor


def drawn_pairs(side: int) -> Pairs:
    """The pairs on maps of so many cells a side, the same at every call."""
    chance = torch.manual_seed(0)

    def noise(strength: float) -> Tensor:
        return strength * torch.randn((side, side), dtype=torch.float64, generator=chance)

    def peak(x: float, y: float) -> Tensor:
        at = torch.tensor([[[x, y]]], dtype=torch.float64)
        logs = log_gaussians(at, side, side, PEAK)[0, 0]
        return 12 * torch.exp(logs - logs.max())

    logits, targets = [], []
    x, y = TRUTH
    for sigma in SIGMAS:
        at = torch.tensor([[TRUTH]], dtype=torch.float64)
        target = log_gaussians(at, side, side, sigma)[0, 0]
        logits += [
            noise(0.3),
            noise(3.0),
            peak(x, y) + peak(0.8, 0.8) + noise(0.2),
            peak(0.85, 0.13) + noise(0.3),
            peak(x + 1.2 / side, y - 0.7 / side) + noise(0.3),
            target + noise(0.1),
        ]
        targets += [target] * len(KINDS)
    return Pairs(torch.stack(logits)[None], torch.stack(targets)[None])


class Exact(NamedTuple):
    """Distances (M,) and their gradients (M, G, G) with respect to the logits."""

    values: NDArray[np.float64]
    gradients: NDArray[np.float64]


def exact_transports(pairs: Pairs) -> Exact:
    """Equation 4 without entropy, by linear programming: a second a pair on 24 x 24 cells."""
    side = pairs.logits.shape[-1]
    rows, columns = np.mgrid[:side, :side].reshape(2, -1)
    costs = np.hypot(rows[:, None] - rows, columns[:, None] - columns)
    values, gradients = [], []
    for log_p, log_q in zip(log_softmax(pairs.logits)[0], pairs.log_q[0], strict=True):
        value, potential = _exact(log_p.exp().numpy().ravel(), log_q.exp().numpy().ravel(), costs)
        values.append(value)
        gradients.append(
            logit_gradients(log_p[None], torch.from_numpy(potential).view_as(log_p))[0]
        )
    return Exact(np.array(values), torch.stack(gradients).numpy())


def _exact(
    p: NDArray[np.float64], q: NDArray[np.float64], costs: NDArray[np.float64]
) -> tuple[float, NDArray[np.float64]]:
    """Distance, and its potential on all cells."""
    leaving, arriving = np.flatnonzero(p > _NO_MASS), np.flatnonzero(q > _NO_MASS)
    a, b = p[leaving] / p[leaving].sum(), q[arriving] / q[arriving].sum()
    few = costs[np.ix_(leaving, arriving)]
    marginals = sp.vstack(
        [
            sp.kron(sp.eye(len(a)), np.ones(len(b))),
            sp.kron(np.ones(len(a)), sp.eye(len(b))),
        ]
    ).tocsr()
    # The last equation follows from the others, but for rounding.
    found = linprog(few.ravel(), A_eq=marginals[:-1], b_eq=np.concatenate((a, b))[:-1])
    if not found.success:
        raise RuntimeError(f"the linear program failed: {found.message}")
    of_q = np.append(found.eqlin.marginals[len(a) :], 0.0)
    return float(found.fun), (costs[:, arriving] - of_q).min(axis=1)


def logit_gradients(log_p: Tensor, potentials: Tensor) -> Tensor:
    """Gradients (M, G, G) with respect to logits, from those with respect to masses."""
    p = log_p.exp()
    return p * (potentials - (p * potentials).sum((-2, -1), keepdim=True))
