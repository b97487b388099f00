"""The Cascaded Pyramid Network (Chen et al., CVPR 2018, arXiv 1711.07319, section 3.2).

GlobalNet is a feature pyramid on the trunk's four stages, each level with heatmaps of its own;
RefineNet takes its levels through bottlenecks, more of them the coarser the level, and predicts
from all of them together.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from facemark_export.networks.hourglass import Unit
from facemark_export.networks.hrnet import enlarge
from facemark_export.networks.resnet import Bottleneck, ResNet
from facemark_export.networks.trunks import TRUNKS, load_imagenet
from facemark_sdk.errors import ModelError

WIDTH = 256
"""Channels of every level."""
LEVELS = 4
CPN_TRUNKS = tuple(name for name, trunk in TRUNKS.items() if issubclass(trunk.network, ResNet))


class CascadedPyramid(nn.Module):
    """(N, 3, S, S), S a multiple of 32, to heatmaps (N, 5, L, S / 4, S / 4), unbounded.

    The first four are GlobalNet's, from the coarsest level to the finest; the last are RefineNet's.

    Args:
        trunk: One of `CPN_TRUNKS`.
        landmarks: L.
    """

    def __init__(self, trunk: str, landmarks: int) -> None:
        super().__init__()
        self.trunk = TRUNKS[trunk].network()
        # level 0 is the finest; each stage of the trunk is twice as wide as the one before
        widths = [self.trunk.channels >> (LEVELS - 1 - level) for level in range(LEVELS)]
        self.lateral = nn.ModuleList(Unit(width, WIDTH) for width in widths)
        self.upward = nn.ModuleList(Unit(WIDTH, WIDTH, activate=False) for _ in widths[1:])
        self.global_heads = nn.ModuleList(
            nn.Sequential(Unit(WIDTH, WIDTH), _maps(landmarks)) for _ in widths
        )
        self.refine = nn.ModuleList(
            nn.Sequential(*(_bottleneck(WIDTH) for _ in range(level))) for level in range(LEVELS)
        )
        self.refine_head = nn.Sequential(_bottleneck(LEVELS * WIDTH), _maps(landmarks))

    def forward(self, image: Tensor) -> Tensor:
        pyramid = self._pyramid(self.trunk.levels(image))
        maps = [
            enlarge(head(x), 2**level)
            for level, (head, x) in enumerate(zip(self.global_heads, pyramid, strict=True))
        ]
        refined = [
            enlarge(blocks(x), 2**level)
            for level, (blocks, x) in enumerate(zip(self.refine, pyramid, strict=True))
        ]
        return torch.stack([*maps[::-1], self.refine_head(torch.cat(refined, dim=1))], dim=1)

    def load_imagenet(self) -> None:
        """Load the trunk's ImageNet weights.

        Raises:
            CheckpointError: No package carries them, or it is not installed.
        """
        load_imagenet(self.trunk)

    def _pyramid(self, levels: tuple[Tensor, ...]) -> list[Tensor]:
        """The trunk's stages to levels of one width, finest first: each adds the coarser one."""
        x = self.lateral[-1](levels[-1])
        pyramid = [x]
        for level in range(LEVELS - 2, -1, -1):
            # section 3.2: a 1x1 convolution before each sum
            x = self.lateral[level](levels[level]) + self.upward[level](enlarge(x, 2))
            pyramid.insert(0, x)
        return pyramid


def build_cpn(trunk: str, landmarks: int) -> CascadedPyramid:
    """A Cascaded Pyramid Network with fresh weights.

    Args:
        trunk: One of `CPN_TRUNKS`.
        landmarks: L.

    Raises:
        ModelError: Unknown trunk, or no landmarks.
    """
    if trunk not in CPN_TRUNKS:
        raise ModelError(f"unknown CPN architecture {trunk!r}; known: {', '.join(CPN_TRUNKS)}")
    if landmarks < 1:
        raise ModelError(f"CPN needs at least one landmark, got {landmarks}")
    return CascadedPyramid(trunk, landmarks)


def _bottleneck(inputs: int) -> Bottleneck:
    return Bottleneck(inputs, WIDTH // Bottleneck.expansion, 1)


def _maps(landmarks: int) -> nn.Conv2d:
    return nn.Conv2d(WIDTH, landmarks, 3, padding=1)
