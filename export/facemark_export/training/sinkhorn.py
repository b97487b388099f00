"""Entropic optimal transport between batches of distributions on a grid (Cuturi 2013).

OT(p, q) = min over couplings pi of <pi, c> + epsilon KL(pi | p q^T), found by alternating its dual
potentials in the logarithmic domain; `debias` gives the Sinkhorn divergence
OT(p, q) - OT(p, p) / 2 - OT(q, q) / 2 (Feydy et al. 2019), which is 0 only at p = q.

The gradient with respect to p is the potential itself (envelope theorem): no iteration is stored,
and it is right to first order of how far the potentials are from convergence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from facemark_export.training.ground_kernels import GroundKernel, ground_kernel
from facemark_export.training.loop_recipe import TrainingError


@dataclass(frozen=True, slots=True)
class SinkhornSettings:
    """How a transport is solved; defaults from the curve of `benchmarks/wasserstein_cost.py`."""

    epsilon: float = 1.0
    """Strength of the entropy: in cells, or in squared cells with `squared`."""
    debias: bool = True
    """Subtract half of both maps' transports to themselves. Without it the best map is not the
    target but a sharper one."""
    iterations: int = 20
    """At most so many, on each grid."""
    tolerance: float = 0.05
    """Stop when the plan misplaces no more than this share of any map's mass."""
    coarse_first: bool = True
    """Begin with the potentials of maps pooled by 2, where sides are even."""
    squared: bool = False
    """Squared distance, which is separable, instead of the distance."""

    def __post_init__(self) -> None:
        """Refuse numbers that no iteration can have.

        Raises:
            TrainingError: One is out of range; the message names it.
        """
        if not 0 < self.epsilon < float("inf"):
            raise TrainingError(f"sinkhorn epsilon must be a positive number, got {self.epsilon}")
        if self.iterations < 1:
            raise TrainingError(f"sinkhorn iterations must be at least 1, got {self.iterations}")
        if not 0 <= self.tolerance < float("inf"):
            raise TrainingError(f"sinkhorn tolerance must be 0 or more, got {self.tolerance}")


class Transport(NamedTuple):
    """Solved transports of M maps.

    Attributes:
        values: (M,), in the unit of the cost.
        gradients: (M, H, W), of the values with respect to the masses of p.
    """

    values: Tensor
    gradients: Tensor


@torch.no_grad()
def transport(log_p: Tensor, log_q: Tensor, settings: SinkhornSettings) -> Transport:
    """Transport p to q.

    A map q without any mass has nothing to be carried to: value and gradient are 0.

    Args:
        log_p: (M, H, W) float32 or float64, logarithms of maps of sum 1.
        log_q: Likewise; minus infinity where there is no mass.
        settings: How.
    """
    with torch.autocast(log_p.device.type, enabled=False):
        empty = (log_q == -torch.inf).flatten(1).all(1)[:, None, None]
        log_q = torch.where(empty, log_p, log_q)
        p, q = log_p.exp(), log_q.exp()
        towards_q, towards_p = alternate(log_p, log_q, settings)
        values = _sums(p * towards_q + q * towards_p)
        gradients = towards_q
        if settings.debias:
            p_to_itself, q_to_itself = balance(torch.cat((log_p, log_q)), settings).chunk(2)
            values = values - _sums(p * p_to_itself + q * q_to_itself)
            gradients = gradients - p_to_itself
        full = ~empty
        return Transport(values * full.flatten(), gradients * full)


def alternate(
    log_p: Tensor, log_q: Tensor, settings: SinkhornSettings, spacing: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Potentials (M, H, W) of p and of q; the former is the exact answer to the latter.

    Args:
        log_p: (M, H, W).
        log_q: Likewise.
        settings: How.
        spacing: Distance between neighbouring cells.
    """
    kernel = _kernel(log_p, settings, spacing)
    if _goes_coarse(log_p, settings, spacing):
        _, coarse = alternate(_pooled(log_p), _pooled(log_q), settings, 2 * spacing)
        of_q = _enlarged(coarse)
    else:
        of_q = torch.zeros_like(log_q)
    q = log_q.exp()
    for _ in range(settings.iterations):
        before = of_q
        of_q = _answer(kernel, _answer(kernel, of_q, log_q), log_p)
        if _settled(of_q, before, q, settings):
            break
    return _answer(kernel, of_q, log_q), of_q


def balance(log_p: Tensor, settings: SinkhornSettings, spacing: float = 1.0) -> Tensor:
    """Potentials (M, H, W) of the transports of p to itself; arguments as of `alternate`.

    Both of a transport's potentials are equal, and the mean of one and of the answer to it comes
    to rest within a few iterations.
    """
    kernel = _kernel(log_p, settings, spacing)
    if _goes_coarse(log_p, settings, spacing):
        potential = _enlarged(balance(_pooled(log_p), settings, 2 * spacing))
    else:
        potential = torch.zeros_like(log_p)
    p = log_p.exp()
    for _ in range(settings.iterations):
        before = potential
        potential = (before + _answer(kernel, before, log_p)) / 2
        if _settled(potential, before, p, settings):
            break
    return _answer(kernel, potential, log_p)


def _answer(kernel: GroundKernel, potential: Tensor, log_masses: Tensor) -> Tensor:
    """The best potential against one of a map with these masses."""
    return -kernel.epsilon * kernel.log_sums(potential / kernel.epsilon + log_masses)


def _settled(after: Tensor, before: Tensor, masses: Tensor, settings: SinkhornSettings) -> bool:
    """Whether the plan's marginal, masses * exp((before - after) / epsilon), is near the masses."""
    misplaced = _sums((after - before).abs() * masses) / settings.epsilon
    return not bool((misplaced > settings.tolerance).any())  # an empty batch has settled


def _kernel(maps: Tensor, settings: SinkhornSettings, spacing: float) -> GroundKernel:
    height, width = maps.shape[1:]
    return ground_kernel(
        height, width, settings.epsilon, spacing, maps.dtype, maps.device, settings.squared
    )


def _goes_coarse(maps: Tensor, settings: SinkhornSettings, spacing: float) -> bool:
    height, width = maps.shape[1:]
    return settings.coarse_first and spacing == 1 and height % 2 == 0 and width % 2 == 0


def _pooled(logs: Tensor) -> Tensor:
    """Logarithms of the sums over 2 x 2 cells."""
    fours = logs.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).transpose(2, 3).flatten(3)
    return torch.logsumexp(fours, -1)


def _enlarged(potentials: Tensor) -> Tensor:
    return F.interpolate(potentials[:, None], scale_factor=2, mode="bilinear")[:, 0]


def _sums(maps: Tensor) -> Tensor:
    return maps.sum((1, 2))
