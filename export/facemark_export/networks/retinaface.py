"""RetinaFace under the names of `biubug6/Pytorch_Retinaface` weights (COMPAT 5.2).

The trunk is MobileNet v1 at a quarter of its width, or ResNet-50. The small one also comes with
plain ReLUs: the same tensors, but in int8 ONNX Runtime then looks nothing up for activations, which
saves three tenths of the time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facemark_export.networks.resnet import ResNet50
from facemark_sdk.errors import ModelError

LEAK = 0.1
"""Negative slope of the published small network's activations (COMPAT 5.2)."""
RELU = "_relu"
"""Ends the names of architectures with plain ReLUs where the published ones leak."""
ANCHORS = 2
"""Priors a cell, on every level."""
POINTS = 5
"""Landmarks a face."""


class RetinaFace(nn.Module):
    """Single-shot face detector: trunk, feature pyramid, context modules, three heads.

    Its tensors (300 on the small trunk) carry the published names, so that upstream checkpoints
    load strictly.
    """

    def __init__(self, architecture: str = "mobilenet0.25") -> None:
        """Build the network with random weights.

        Args:
            architecture: A key of `TRUNKS`.

        Raises:
            ModelError: The architecture is unknown.
        """
        if architecture not in TRUNKS:
            raise ModelError(
                f"unknown RetinaFace architecture {architecture!r}; known: {', '.join(TRUNKS)}"
            )
        trunk = TRUNKS[architecture]
        super().__init__()
        self.body = trunk.build()
        self.fpn = FeaturePyramid(trunk.channels, trunk.width, trunk.leak)
        self.ssh1 = ContextModule(trunk.width, trunk.leak)
        self.ssh2 = ContextModule(trunk.width, trunk.leak)
        self.ssh3 = ContextModule(trunk.width, trunk.leak)
        levels = len(trunk.channels)
        self.ClassHead = nn.ModuleList(Head(trunk.width, 2) for _ in range(levels))
        self.BboxHead = nn.ModuleList(Head(trunk.width, 4) for _ in range(levels))
        self.LandmarkHead = nn.ModuleList(Head(trunk.width, 2 * POINTS) for _ in range(levels))

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

    def __init__(self, leak: float) -> None:
        """Build stages of 6, 6 and 2 blocks, whose activations have this negative slope."""
        super().__init__()
        self.stage1 = nn.Sequential(
            conv_bn(3, 8, stride=2, leak=leak),
            separable(8, 16, leak=leak),
            separable(16, 32, stride=2, leak=leak),
            separable(32, 32, leak=leak),
            separable(32, 64, stride=2, leak=leak),
            separable(64, 64, leak=leak),
        )
        self.stage2 = nn.Sequential(
            separable(64, 128, stride=2, leak=leak),
            *(separable(128, 128, leak=leak) for _ in range(5)),
        )
        self.stage3 = nn.Sequential(
            separable(128, 256, stride=2, leak=leak), separable(256, 256, leak=leak)
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images (N, 3, H, W) -> features at strides 8, 16 and 32."""
        shallow = self.stage1(images)
        middle = self.stage2(shallow)
        return shallow, middle, self.stage3(middle)


class ResNet50Pyramid(ResNet50):
    """ResNet-50 that gives the features of its last three layers."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images (N, 3, H, W) -> features at strides 8, 16 and 32."""
        return self.pyramid(images)


@dataclass(frozen=True, slots=True)
class Trunk:
    """A trunk and the sizes of what follows it.

    Attributes:
        build: Makes the trunk.
        channels: Of its features at strides 8, 16 and 32.
        width: Channels of the pyramid and of the three heads' input.
        leak: Negative slope of what follows the trunk, 0 for plain ReLUs.
    """

    build: Callable[[], nn.Module]
    channels: tuple[int, int, int]
    width: int
    leak: float


def _quarter(leak: float) -> Trunk:
    return Trunk(partial(MobileNetQuarter, leak), (64, 128, 256), 64, leak)


TRUNKS = {
    "mobilenet0.25": _quarter(LEAK),
    f"mobilenet0.25{RELU}": _quarter(0.0),
    # The published code's pyramid leaks at 64 channels, and this one has 256 (COMPAT 5.2).
    "resnet50": Trunk(ResNet50Pyramid, (512, 1024, 2048), 256, 0.0),
}


class FeaturePyramid(nn.Module):
    """Top-down pathway: nearest upsampling, sum, one 3x3 convolution."""

    def __init__(self, channels: tuple[int, int, int], width: int, leak: float) -> None:
        """Build for a trunk of three numbers of channels, to give `width` of each."""
        super().__init__()
        self.output1 = conv_bn(channels[0], width, kernel=1, leak=leak)
        self.output2 = conv_bn(channels[1], width, kernel=1, leak=leak)
        self.output3 = conv_bn(channels[2], width, kernel=1, leak=leak)
        self.merge1 = conv_bn(width, width, leak=leak)
        self.merge2 = conv_bn(width, width, leak=leak)

    def forward(self, features: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Trunk features at three strides -> as many of the pyramid's width."""
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

    def __init__(self, width: int, leak: float) -> None:
        """Build five convolutions, two of them shared; the whole gives `width` channels."""
        super().__init__()
        self.conv3X3 = conv_bn(width, width // 2)
        self.conv5X5_1 = conv_bn(width, width // 4, leak=leak)
        self.conv5X5_2 = conv_bn(width // 4, width // 4)
        self.conv7X7_2 = conv_bn(width // 4, width // 4, leak=leak)
        self.conv7x7_3 = conv_bn(width // 4, width // 4)

    def forward(self, feature: Tensor) -> Tensor:
        """(N, width, h, w) -> the same shape."""
        five = self.conv5X5_1(feature)
        branches = [
            self.conv3X3(feature),
            self.conv5X5_2(five),
            self.conv7x7_3(self.conv7X7_2(five)),
        ]
        return F.relu(torch.cat(branches, dim=1))


class Head(nn.Module):
    """One 1x1 convolution; its map is read row by row, a cell's anchors innermost."""

    def __init__(self, width: int, outputs: int) -> None:
        """Build for an input of `width` channels and so many outputs an anchor."""
        super().__init__()
        self.outputs = outputs
        self.conv1x1 = nn.Conv2d(width, ANCHORS * outputs, 1)

    def forward(self, feature: Tensor) -> Tensor:
        """(N, width, h, w) -> (N, h * w * ANCHORS, outputs)."""
        return (
            self.conv1x1(feature)
            .permute(0, 2, 3, 1)
            .flatten(1, 2)
            .unflatten(2, (ANCHORS, self.outputs))
            .flatten(1, 2)
        )


def conv_bn(
    inputs: int,
    outputs: int,
    *,
    kernel: int = 3,
    stride: int = 1,
    leak: float | None = None,
) -> nn.Sequential:
    """A convolution without bias, batch norm and, where a slope is given, an activation."""
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    if leak is not None:
        layers.append(activation(leak))
    return nn.Sequential(*layers)


def separable(inputs: int, outputs: int, *, leak: float, stride: int = 1) -> nn.Sequential:
    """A depthwise 3x3 and a pointwise convolution, each with batch norm and an activation."""
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False),
        nn.BatchNorm2d(inputs),
        activation(leak),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
        activation(leak),
    )


def activation(leak: float) -> nn.Module:
    """A ReLU with a negative slope, or a plain one."""
    return nn.LeakyReLU(leak, inplace=True) if leak else nn.ReLU(inplace=True)
