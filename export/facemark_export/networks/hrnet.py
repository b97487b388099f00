"""HRNetV2-W18 for landmarks, under the published key names (COMPAT 2.1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facemark_export.networks.normalise import IMAGENET_MEAN, IMAGENET_STD
from facemark_export.networks.resnet import BasicBlock, Bottleneck, stack
from facemark_sdk.errors import ModelError

WIDTHS = (18, 36, 72, 144)
"""Channels of the branches at strides 4, 8, 16 and 32."""
_MODULES = {2: 1, 3: 4, 4: 3}
"""Modules of each stage; stage s has s branches."""
_BLOCKS = 4
"""Blocks of every branch, and of `layer1`."""


class HighResolutionNet(nn.Module):
    """(N, 3, S, S), S a multiple of 32, to heatmaps (N, L, S / 4, S / 4), unbounded."""

    input_mean = IMAGENET_MEAN
    input_std = IMAGENET_STD

    def __init__(self, landmarks: int) -> None:
        """Build with fresh weights for so many landmarks.

        Raises:
            ModelError: Not at least one landmark.
        """
        if landmarks < 1:
            raise ModelError(f"HRNet needs at least one landmark, got {landmarks}")
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.conv2 = nn.Conv2d(64, 64, 3, 2, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(64)
        self.layer1 = stack(Bottleneck, 64, 64, _BLOCKS, 1)
        stem = 64 * Bottleneck.expansion
        self.transition1 = nn.ModuleDict(
            {"0": _conv3x3(stem, WIDTHS[0]), "1": nn.Sequential(_conv3x3(stem, WIDTHS[1], 2))}
        )
        self.stage2 = _stage(2)
        self.transition2 = _new_branch(2)
        self.stage3 = _stage(3)
        self.transition3 = _new_branch(3)
        self.stage4 = _stage(4)
        joined = sum(WIDTHS)
        self.head = nn.Sequential(
            nn.Conv2d(joined, joined, 1),
            nn.BatchNorm2d(joined),
            nn.ReLU(),
            nn.Conv2d(joined, landmarks, 1),
        )

    def forward(self, image: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(image)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = self.layer1(x)
        branches = self.stage2([self.transition1["0"](x), self.transition1["1"](x)])
        # A new branch starts from the last, coarsest one.
        branches = self.stage3([*branches, self.transition2["2"](branches[-1])])
        branches = self.stage4([*branches, self.transition3["3"](branches[-1])])
        return self.head(torch.cat([enlarge(b, 2**j) for j, b in enumerate(branches)], dim=1))


class HighResolutionModule(nn.Module):
    """Four blocks on each branch, then each branch takes the sum of all, resampled to its own."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            stack(BasicBlock, width, width, _BLOCKS, 1) for width in WIDTHS[:count]
        )
        self.fuse_layers = nn.ModuleList(
            nn.ModuleDict({str(j): _resampling(j, i) for j in range(count) if j != i})
            for i in range(count)
        )

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Features of the branches, finest first -> the same shapes."""
        features = [branch(x) for branch, x in zip(self.branches, features, strict=True)]
        return [self._fuse(i, features) for i in range(len(features))]

    def _fuse(self, i: int, features: Sequence[Tensor]) -> Tensor:
        """The sum, in order of j, of the branches j brought to branch i."""
        terms = []
        for j, x in enumerate(features):
            y = x if j == i else self.fuse_layers[i][str(j)](x)
            terms.append(enlarge(y, 2 ** (j - i)) if j > i else y)
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return F.relu(total)


def _stage(branches: int) -> nn.Sequential:
    return nn.Sequential(*(HighResolutionModule(branches) for _ in range(_MODULES[branches])))


def _new_branch(index: int) -> nn.ModuleDict:
    """Branch `index` from the one before it, at half its resolution."""
    unit = _conv3x3(WIDTHS[index - 1], WIDTHS[index], 2)
    return nn.ModuleDict({str(index): nn.Sequential(unit)})


def _resampling(j: int, i: int) -> nn.Sequential:
    """What brings branch j to the width of branch i and, where j is finer, to its resolution."""
    if j > i:
        return nn.Sequential(
            nn.Conv2d(WIDTHS[j], WIDTHS[i], 1, bias=False), nn.BatchNorm2d(WIDTHS[i])
        )
    halvings = [_conv3x3(WIDTHS[j], WIDTHS[j], 2) for _ in range(i - j - 1)]
    return nn.Sequential(*halvings, _conv3x3(WIDTHS[j], WIDTHS[i], 2, activate=False))


def _conv3x3(inputs: int, outputs: int, stride: int = 1, *, activate: bool = True) -> nn.Sequential:
    layers = [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)]
    return nn.Sequential(*layers, *([nn.ReLU()] if activate else []))


def enlarge(x: Tensor, times: int) -> Tensor:
    """(N, C, h, w) to (N, C, times h, times w), bilinear between the centres of cells."""
    if times == 1:
        return x
    return F.interpolate(x, scale_factor=times, mode="bilinear", align_corners=False)
