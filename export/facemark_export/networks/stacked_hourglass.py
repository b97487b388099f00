"""Stacked hourglasses with one map a landmark, of residual or hierarchical blocks.

The residual ones are HIH's without its offset head (COMPAT 3.1). The hierarchical, parallel and
multi-scale block is that of Bulat and Tzimiropoulos (Binarized Convolutional Landmark Localizers,
ICCV 2017), of which the subpixel paper (section 5.1) builds its two stacks of width 256; stem,
pools, upsampling and heads are HIH's here too.
"""

from __future__ import annotations

import re

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facemark_export.networks.hourglass import MAX_STACKS, Residual, Stacks
from facemark_sdk.errors import ModelError

_NAME = re.compile(r"hourglass([1-9]\d?)(_hierarchical)?")


class StackedHourglass(Stacks):
    """(N, 3, S, S), S a multiple of 64, to heatmaps (N, stacks, L, S / 4, S / 4), unbounded."""

    def __init__(self, landmarks: int, stacks: int, *, hierarchical: bool = False) -> None:
        """Build with fresh weights.

        Args:
            landmarks: L.
            stacks: Hourglasses in a row, each with heatmaps of its own.
            hierarchical: Of hierarchical blocks instead of residual ones.

        Raises:
            ModelError: A number is out of range.
        """
        if landmarks < 1 or not 1 <= stacks <= MAX_STACKS:
            raise ModelError(
                f"stacked hourglasses need landmarks >= 1 and stacks in 1..{MAX_STACKS}, "
                f"got {landmarks}, {stacks}"
            )
        block = HierarchicalBlock if hierarchical else Residual
        super().__init__(landmarks, stacks, block, beyond=False)

    def forward(self, image: Tensor) -> Tensor:
        return self.stacked(image)[0]


class HierarchicalBlock(nn.Module):
    """3x3 convolutions in a row, to a half, a quarter and a quarter of the width, side by side.

    Each takes what the one before gives; together they are as wide as the output, to which the
    shortcut is added.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = PreUnit(inputs, outputs // 2, 3)
        self.second = PreUnit(outputs // 2, outputs // 4, 3)
        self.third = PreUnit(outputs // 4, outputs // 4, 3)
        self.shortcut = PreUnit(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        half = self.first(x)
        quarter = self.second(half)
        parts = torch.cat([half, quarter, self.third(quarter)], dim=1)
        return parts + self.shortcut(x)


class PreUnit(nn.Module):
    """Batch norm, ReLU and then a convolution without bias."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(inputs)
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.relu(self.bn(x)))


def build_hourglass(name: str, landmarks: int) -> StackedHourglass:
    """Stacked hourglasses with fresh weights.

    Args:
        name: ``hourglass1`` to ``hourglass16``, or ``hourglass1_hierarchical`` and so on.
        landmarks: L.

    Raises:
        ModelError: Unknown name, or a number is out of range.
    """
    found = _NAME.fullmatch(name)
    if found is None:
        raise ModelError(
            f"unknown hourglass architecture {name!r}; known: hourglass1 to "
            f"hourglass{MAX_STACKS}, with _hierarchical behind it for hierarchical blocks"
        )
    return StackedHourglass(landmarks, int(found[1]), hierarchical=found[2] is not None)
