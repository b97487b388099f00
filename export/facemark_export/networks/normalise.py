"""The first step of every graph: uint8 BGR pixels become the network's normalised input."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from facemark_sdk.spec import InputSpec

# ImageNet statistics, R G B, in units of the 0..255 image (COMPAT 1.2, 2.2, 3.2)
IMAGENET_MEAN = (0.485 * 255, 0.456 * 255, 0.406 * 255)
IMAGENET_STD = (0.229 * 255, 0.224 * 255, 0.225 * 255)


class Normalise(nn.Module):
    """uint8 BGR (N, H, W, 3) to float (N, 3, H, W): channel order, minus mean, over std."""

    def __init__(self, spec: InputSpec) -> None:
        super().__init__()
        # Constants are kept in the order of the BGR input: reordering comes last, and is not there
        # for networks that take BGR.
        self.reverse = spec.channels == "RGB"
        mean, std = (torch.tensor(each, dtype=torch.float32) for each in (spec.mean, spec.std))
        if self.reverse:
            mean, std = mean.flip(0), std.flip(0)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("variance", std.square(), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        # Planes first, while a pixel is a byte: ONNX Runtime is slow where every third value has
        # another constant. One normalisation instead of a difference and a quotient saves 1 % of a
        # ResNet-18.
        planes = image.permute(0, 3, 1, 2).float()
        x = functional.batch_norm(planes, self.mean, self.variance, eps=0.0)
        return x.flip(1) if self.reverse else x
