"""Losses of regressed coordinates, each over errors (N, L, 2) as fractions of the crop's side.

Each is the mean over faces and landmarks of a sum over x and y, so that `anisotropic` with identity
matrices is `l2`. Constants that are lengths were found by their authors in pixels; here they are
pixels of a 256-pixel crop, that of the published landmark networks (COMPAT 1.2), whatever the
network's own input is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

PIXEL = 1 / 256
# Girshick, Fast R-CNN (ICCV 2015)
SMOOTH_WITHIN = 1 * PIXEL
# Feng et al., Wing loss (CVPR 2018): w and epsilon
WING_WIDTH = 10 * PIXEL
WING_CURVATURE = 2 * PIXEL
# Wang et al., adaptive Wing loss (ICCV 2019): alpha, of which a pixel's value y in 0..1 is taken
ADAPTIVE_ALPHA = 2.1
FOREGROUND = 1.0

CoordinateLoss: TypeAlias = Callable[[Tensor], Tensor]


def l1(errors: Tensor) -> Tensor:
    """Sum of absolute errors."""
    return _per_landmark(errors.abs())


def l2(errors: Tensor) -> Tensor:
    """Squared distance; equation 1 of the anisotropic paper over the number of landmarks."""
    return _per_landmark(errors.square())


def smooth_l1(errors: Tensor) -> Tensor:
    """A parabola within one pixel, a straight line of slope 1 beyond."""
    zeros = torch.zeros_like(errors)
    return _per_landmark(F.smooth_l1_loss(errors, zeros, reduction="none", beta=SMOOTH_WITHIN))


def wing(errors: Tensor, width: float = WING_WIDTH, curvature: float = WING_CURVATURE) -> Tensor:
    """Wing: w ln(1 + |e| / epsilon) within w, |e| - C beyond, C making it continuous.

    Args:
        errors: (N, L, 2).
        width: w.
        curvature: epsilon.
    """
    size = errors.abs()
    offset = width - width * math.log(1 + width / curvature)
    return _per_landmark(
        torch.where(size < width, width * torch.log1p(size / curvature), size - offset)
    )


def adaptive_wing(
    errors: Tensor,
    width: float = WING_WIDTH,
    threshold: float = WING_WIDTH,
    curvature: float = WING_CURVATURE,
    power: float = ADAPTIVE_ALPHA - FOREGROUND,
) -> Tensor:
    """Adaptive Wing: omega ln(1 + |e / epsilon|^power) within theta, its tangent beyond.

    It was made for heatmaps: there power = alpha - y adapts to the true value y of a pixel, from
    2.1 on the background, where small errors shall not count, to 1.1 on the foreground. A
    coordinate has no such value (its own size says nothing of its importance); each counts as
    foreground here, so nothing is left to adapt but Wing's shape: smooth at 0, and without Wing's
    kink at w. The constants for heatmaps (omega 14, theta 0.5, epsilon 1) are pixels' values, not
    lengths, so Wing's stand in their place.

    Args:
        errors: (N, L, 2).
        width: omega.
        threshold: theta.
        curvature: epsilon.
        power: alpha - y.
    """
    size = errors.abs()
    ratio = (threshold / curvature) ** power
    slope = width * power * ratio / (threshold * (1 + ratio))
    offset = threshold * slope - width * math.log1p(ratio)
    # Within the threshold only: far out the power would overflow in the gradient of the other side.
    near = size.clamp(max=threshold)
    curved = width * torch.log1p((near / curvature) ** power)
    return _per_landmark(torch.where(size < threshold, curved, slope * size - offset))


def anisotropic(errors: Tensor, weights: Tensor) -> Tensor:
    """Mahalanobis distance, e^T W e: equation 2 over the number of landmarks.

    Args:
        errors: (N, L, 2).
        weights: (N, L, 2, 2), from `anisotropic.weight_matrices`.
    """
    return torch.einsum("nli,nlij,nlj->nl", errors, weights, errors).mean()


LOSSES: dict[str, CoordinateLoss] = {
    "l1": l1,
    "l2": l2,
    "smooth_l1": smooth_l1,
    "wing": wing,
    "adaptive_wing": adaptive_wing,
}
"""The losses that need nothing but the errors."""


def _per_landmark(values: Tensor) -> Tensor:
    return values.sum(-1).mean()
