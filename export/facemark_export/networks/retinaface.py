"""RetinaFace with a MobileNet-0.25 trunk, under the names of `biubug6/Pytorch_Retinaface` weights.

Source: COMPAT 5.2.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAK = 0.1
"""Negative slope of every activation, as out_channels <= 64 asks for (COMPAT 5.2)."""
WIDTH = 64
"""Channels of the pyramid and of the three heads' input."""
ANCHORS = 2
"""Priors a cell, on every level."""
TRUNK_WIDTHS = (64, 128, 256)
"""Channels of the trunk at strides 8, 16 and 32."""


class RetinaFace(nn.Module):
    """Single-shot face detector: trunk, feature pyramid, context modules, three heads.

    Its 300 tensors carry the published names, so that upstream checkpoints load strictly.
    """

    def __init__(self) -> None:
        """Build the network with random weights."""
        super().__init__()
        self.body = MobileNetQuarter()
        self.fpn = FeaturePyramid(TRUNK_WIDTHS)
        self.ssh1 = ContextModule()
        self.ssh2 = ContextModule()
        self.ssh3 = ContextModule()
        self.ClassHead = nn.ModuleList(Head(2) for _ in TRUNK_WIDTHS)
        self.BboxHead = nn.ModuleList(Head(4) for _ in TRUNK_WIDTHS)
        self.LandmarkHead = nn.ModuleList(Head(10) for _ in TRUNK_WIDTHS)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Predict offsets from the priors of `facemark_sdk.detect.retinaface`, in their order.

        Args:
            images: (N, 3, H, W), BGR minus (104, 117, 123), sides multiples of 32.

        Returns:
            loc (N, A, 4), conf (N, A, 2) logits of background and face, landms (N, A, 10); all in
            units of the variances.
        """
        shallow, middle, deep = self.fpn(self.body(images))
        features = (self.ssh1(shallow), self.ssh2(middle), self.ssh3(deep))
        loc = torch.cat(
            [head(feature) for head, feature in zip(self.BboxHead, features, strict=True)], dim=1
        )
        conf = torch.cat(
            [head(feature) for head, feature in zip(self.ClassHead, features, strict=True)], dim=1
        )
        landms = torch.cat(
            [head(feature) for head, feature in zip(self.LandmarkHead, features, strict=True)],
            dim=1,
        )
        return loc, conf, landms


class MobileNetQuarter(nn.Module):
    """MobileNet v1 at a quarter of its width, cut after its stride-8, 16 and 32 features."""

    def __init__(self) -> None:
        """Build stages of 6, 6 and 2 blocks."""
        super().__init__()
        self.stage1 = nn.Sequential(
            conv_bn(3, 8, stride=2),
            separable(8, 16),
            separable(16, 32, stride=2),
            separable(32, 32),
            separable(32, 64, stride=2),
            separable(64, 64),
        )
        self.stage2 = nn.Sequential(
            separable(64, 128, stride=2), *(separable(128, 128) for _ in range(5))
        )
        self.stage3 = nn.Sequential(separable(128, 256, stride=2), separable(256, 256))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images (N, 3, H, W) -> features at strides 8, 16 and 32."""
        shallow = self.stage1(images)
        middle = self.stage2(shallow)
        return shallow, middle, self.stage3(middle)


class FeaturePyramid(nn.Module):
    """Top-down pathway: nearest upsampling, sum, one 3x3 convolution."""

    def __init__(self, widths: tuple[int, int, int]) -> None:
        """Build for a trunk of three widths."""
        super().__init__()
        self.output1 = conv_bn(widths[0], WIDTH, kernel=1)
        self.output2 = conv_bn(widths[1], WIDTH, kernel=1)
        self.output3 = conv_bn(widths[2], WIDTH, kernel=1)
        self.merge1 = conv_bn(WIDTH, WIDTH)
        self.merge2 = conv_bn(WIDTH, WIDTH)

    def forward(self, features: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Trunk features at three strides -> as many of WIDTH channels."""
        shallow, middle, deep = (
            self.output1(features[0]),
            self.output2(features[1]),
            self.output3(features[2]),
        )
        middle = self.merge2(middle + F.interpolate(deep, size=middle.shape[2:], mode="nearest"))
        shallow = self.merge1(
            shallow + F.interpolate(middle, size=shallow.shape[2:], mode="nearest")
        )
        return shallow, middle, deep


class ContextModule(nn.Module):
    """SSH context: 3x3, 5x5 and 7x7 receptive fields made of 3x3 convolutions, concatenated."""

    def __init__(self) -> None:
        """Build five convolutions, two of them shared."""
        super().__init__()
        self.conv3X3 = conv_bn(WIDTH, WIDTH // 2, activate=False)
        self.conv5X5_1 = conv_bn(WIDTH, WIDTH // 4)
        self.conv5X5_2 = conv_bn(WIDTH // 4, WIDTH // 4, activate=False)
        self.conv7X7_2 = conv_bn(WIDTH // 4, WIDTH // 4)
        self.conv7x7_3 = conv_bn(WIDTH // 4, WIDTH // 4, activate=False)

    def forward(self, feature: Tensor) -> Tensor:
        """(N, WIDTH, h, w) -> the same shape."""
        five = self.conv5X5_1(feature)
        branches = [
            self.conv3X3(feature),
            self.conv5X5_2(five),
            self.conv7x7_3(self.conv7X7_2(five)),
        ]
        return F.relu(torch.cat(branches, dim=1))


class Head(nn.Module):
    """One 1x1 convolution; its map is read row by row, a cell's anchors innermost."""

    def __init__(self, outputs: int) -> None:
        """Build for so many outputs an anchor."""
        super().__init__()
        self.outputs = outputs
        self.conv1x1 = nn.Conv2d(WIDTH, ANCHORS * outputs, 1)

    def forward(self, feature: Tensor) -> Tensor:
        """(N, WIDTH, h, w) -> (N, h * w * ANCHORS, outputs)."""
        return (
            self.conv1x1(feature)
            .permute(0, 2, 3, 1)
            .flatten(1, 2)
            .unflatten(2, (ANCHORS, self.outputs))
            .flatten(1, 2)
        )


def conv_bn(
    inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1, activate: bool = True
) -> nn.Sequential:
    """A convolution without bias, batch norm and, unless told otherwise, a leaky ReLU."""
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    if activate:
        layers.append(nn.LeakyReLU(LEAK, inplace=True))
    return nn.Sequential(*layers)


def separable(inputs: int, outputs: int, *, stride: int = 1) -> nn.Sequential:
    """A depthwise 3x3 and a pointwise convolution, each with batch norm and a leaky ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False),
        nn.BatchNorm2d(inputs),
        nn.LeakyReLU(LEAK, inplace=True),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.LeakyReLU(LEAK, inplace=True),
    )
