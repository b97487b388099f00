"""MapNet's loss: L2 to Gaussians of always four pixels (PIPNet paper, section 4.3.1)."""

from __future__ import annotations

from facemark_export.training.heatmaps import MapLoss, named_loss

SIGMA_PIXELS = 4.0
"""The Gaussian's radius, 1, 2 and 4 cells at strides 4, 2 and 1: always four pixels."""


def map_loss(stride: int) -> MapLoss:
    """The loss of maps with so many pixels a cell."""
    return named_loss("l2", SIGMA_PIXELS / stride)
