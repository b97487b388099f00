"""ResNet trunks with torchvision's key names, without the classifier (COMPAT 1.1)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + shortcut)


class Bottleneck(nn.Module):
    """1x1, 3x3 (which carries the stride), 1x1 to four times the width, and a shortcut."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = _shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + shortcut)


def stack(
    block: type[BasicBlock] | type[Bottleneck], inputs: int, width: int, blocks: int, stride: int
) -> nn.Sequential:
    """Blocks of one width in a row; the first takes the inputs and the stride."""
    return nn.Sequential(
        block(inputs, width, stride),
        *(block(width * block.expansion, width, 1) for _ in range(blocks - 1)),
    )


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    """A 1x1 convolution where the shapes of input and output differ."""
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class ResNet(nn.Module):
    """(N, 3, S, S) to (N, channels, S / 32, S / 32); a subclass says which block and how many."""

    block: type[BasicBlock] | type[Bottleneck]
    blocks: tuple[int, int, int, int]
    channels: int
    stride = 32

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        grown = 64 * self.block.expansion
        self.layer1 = stack(self.block, 64, 64, self.blocks[0], 1)
        self.layer2 = stack(self.block, grown, 128, self.blocks[1], 2)
        self.layer3 = stack(self.block, 2 * grown, 256, self.blocks[2], 2)
        self.layer4 = stack(self.block, 4 * grown, 512, self.blocks[3], 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.pyramid(x)[-1]

    def pyramid(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features at strides 8, 16 and 32: a quarter, half and all of `channels`."""
        return self.levels(x)[1:]

    def levels(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Features of all four layers: before those of `pyramid` stride 4, an eighth."""
        first = self.layer1(F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1))
        shallow = self.layer2(first)
        middle = self.layer3(shallow)
        return first, shallow, middle, self.layer4(middle)


class ResNet18(ResNet):
    """512 channels, 120 tensors."""

    block = BasicBlock
    blocks = (2, 2, 2, 2)
    channels = 512


class ResNet50(ResNet):
    """2048 channels, 318 tensors."""

    block = Bottleneck
    blocks = (3, 4, 6, 3)
    channels = 2048


class ResNet101(ResNet):
    """2048 channels, 624 tensors."""

    block = Bottleneck
    blocks = (3, 4, 23, 3)
    channels = 2048
