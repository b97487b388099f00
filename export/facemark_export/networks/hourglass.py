"""Stacks of hourglasses; the Heatmap-in-Heatmap network, which adds offsets (COMPAT 3.1)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facemark_export.networks.normalise import IMAGENET_MEAN, IMAGENET_STD
from facemark_export.networks.stages import HEATMAP_STRIDE
from facemark_sdk.errors import ModelError

DEPTH = 4
"""Levels of an hourglass."""
HOURGLASS_MULTIPLE = HEATMAP_STRIDE * 2**DEPTH
"""Pixels that divide the input's side: an hourglass halves the maps at every level."""
WIDTH = 256
OFFSET_WIDTH = 384
HEATMAP_SIZE = 64
"""Side of the heatmaps; the input's is four times as much."""
OFFSET_SIZES = (2, 4, 8, 16)
"""Sides of the offset maps that halving 64 gives (its pool makes 31, so 32 is none)."""
MAX_STACKS = 16


Block = Callable[[int, int], nn.Module]
"""What builds hourglasses, from the numbers of its input's and output's channels."""


class Stacks(nn.Module):
    """Stem and hourglasses in a row, each with heatmaps of its own, fed back into the next.

    Args:
        landmarks: L.
        stacks: Hourglasses.
        block: Of which they are built.
        beyond: Whether features come out behind the last hourglass as well.
    """

    input_mean = IMAGENET_MEAN
    input_std = IMAGENET_STD

    def __init__(self, landmarks: int, stacks: int, block: Block, *, beyond: bool) -> None:
        super().__init__()
        self.stacks = stacks
        self.fed_back = stacks if beyond else stacks - 1
        self.pre_conv = nn.Sequential(
            Unit(3, 64, 7, 2),
            block(64, 128),
            nn.MaxPool2d(2),
            block(128, 128),
            block(128, WIDTH),
        )
        for i in range(stacks):
            self.add_module(f"hg{i}", Hourglass(block))
            self.add_module(f"hg{i}_res1", block(WIDTH, WIDTH))
            self.add_module(f"hg{i}_lin1", Unit(WIDTH, WIDTH))
            self.add_module(f"hg{i}_conv_pred", nn.Conv2d(WIDTH, landmarks, 1))
            if i < self.fed_back:
                self.add_module(f"hg{i}_conv1", Unit(WIDTH, WIDTH))
                self.add_module(f"hg{i}_conv2", Unit(landmarks, WIDTH))

    def stacked(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Heatmaps (N, stacks, L, S / 4, S / 4) and the last features (N, 256, S / 4, S / 4)."""
        x = self.pre_conv(image)
        heatmaps = []
        for i in range(self.stacks):
            feature = self.get_submodule(f"hg{i}_res1")(self.get_submodule(f"hg{i}")(x))
            feature = self.get_submodule(f"hg{i}_lin1")(feature)
            heatmap = self.get_submodule(f"hg{i}_conv_pred")(feature)
            heatmaps.append(heatmap)
            if i < self.fed_back:
                x = (
                    x
                    + self.get_submodule(f"hg{i}_conv1")(feature)
                    + self.get_submodule(f"hg{i}_conv2")(heatmap)
                )
        return torch.stack(heatmaps, dim=1), x


class HeatmapInHeatmap(Stacks):
    """(N, 3, 256, 256) to heatmaps (N, stacks, L, 64, 64) and offset logits (N, 1, L, o, o)."""

    def __init__(self, landmarks: int, stacks: int, offset_size: int) -> None:
        """Build with fresh weights.

        Args:
            landmarks: L.
            stacks: Hourglasses in a row, each with heatmaps of its own.
            offset_size: o, the offset maps' side: 2, 4, 8 or 16.

        Raises:
            ModelError: A number is out of range.
        """
        if landmarks < 1 or not 1 <= stacks <= MAX_STACKS or offset_size not in OFFSET_SIZES:
            raise ModelError(
                f"HIH needs landmarks >= 1, stacks in 1..{MAX_STACKS} and offset_size among "
                f"{OFFSET_SIZES}, got {landmarks}, {stacks}, {offset_size}"
            )
        super().__init__(landmarks, stacks, Residual, beyond=True)
        self.offset_head = OffsetHead(landmarks, offset_size)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        heatmaps, x = self.stacked(image)
        return heatmaps, self.offset_head(x)[:, None]


class Hourglass(nn.Module):
    """(N, 256, h, w) to the same shape, through four halvings and back; sides multiples of 16."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        for level in range(DEPTH, 0, -1):
            self.add_module(f"res{level}_1", block(WIDTH, WIDTH))
            self.add_module(f"res{level}_2", block(WIDTH, WIDTH))
        self.res_center = block(WIDTH, WIDTH)
        for level in range(1, DEPTH + 1):
            self.add_module(f"res{level}_3", block(WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return self._level(DEPTH, x)

    def _level(self, level: int, x: Tensor) -> Tensor:
        if level == 0:
            return self.res_center(x)
        up = self.get_submodule(f"res{level}_1")(x)
        low = self.get_submodule(f"res{level}_2")(F.max_pool2d(x, 2))
        low = self.get_submodule(f"res{level}_3")(self._level(level - 1, low))
        return up + F.interpolate(low, scale_factor=2, mode="bilinear", align_corners=True)


class OffsetHead(nn.Module):
    """(N, 256, 64, 64) to offset logits (N, L, o, o)."""

    def __init__(self, landmarks: int, offset_size: int) -> None:
        super().__init__()
        # the first halving is the pool's
        blocks = (HEATMAP_SIZE // offset_size).bit_length() - 2
        self.conv1 = Unit(WIDTH, OFFSET_WIDTH)
        self.down_ops = nn.Sequential(*(Halving(OFFSET_WIDTH) for _ in range(blocks)))
        self.head = nn.Sequential(
            Unit(OFFSET_WIDTH, OFFSET_WIDTH), nn.Conv2d(OFFSET_WIDTH, landmarks, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.conv1(x), 3, 2)  # no padding: 64 becomes 31
        return self.head(self.down_ops(x))


class Unit(nn.Module):
    """Convolution without bias, batch norm and, unless told otherwise, ReLU."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, *, activate: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        return F.relu(x) if self.activate else x


class Residual(nn.Module):
    """1x1, 3x3, 1x1 and a shortcut, at one resolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = Unit(inputs, outputs // 2)
        self.conv2 = Unit(outputs // 2, outputs // 2, 3)
        self.conv3 = Unit(outputs // 2, outputs, activate=False)
        self.skip_layer = Unit(inputs, outputs, activate=False)
        self.skips = inputs != outputs
        # Files carry a skip layer even where the input itself is added; it is never trained.
        self.skip_layer.requires_grad_(self.skips)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.skip_layer(x) if self.skips else x
        return F.relu(self.conv3(self.conv2(self.conv1(x))) + shortcut)


class Halving(nn.Module):
    """Two 3x3 convolutions and a 1x1 shortcut, to half the resolution, rounded up."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = Unit(width, width, 3, 2)
        self.conv2 = Unit(width, width, 3, activate=False)
        self.downsample = nn.Sequential(Unit(width, width, 1, 2, activate=False))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv2(self.conv1(x)) + self.downsample(x))
