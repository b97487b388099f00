"""MapNet, the heatmap baseline: a trunk, transposed convolutions, one map a landmark.

PIPNet paper, section 4.3.1: the network of Xiao et al. (Simple Baselines for Human Pose Estimation,
ECCV 2018), whose three transposed convolutions of 256 channels lead to stride 4; one and two more
lead to strides 2 and 1.
"""

from __future__ import annotations

from torch import Tensor, nn

from facemark_export.networks.trunks import TRUNK_STRIDE, TRUNKS, load_imagenet
from facemark_sdk.errors import ModelError

MAP_STRIDES = (4, 2, 1)
"""Pixels a cell of the heatmaps."""
CHANNELS = 256


class MapNet(nn.Module):
    """(N, 3, S, S) to heatmaps (N, L, S / stride, S / stride).

    Args:
        trunk: A key of `TRUNKS`.
        landmarks: L.
        stride: Pixels a cell, a power of two below the trunk's.
    """

    def __init__(self, trunk: str, landmarks: int, stride: int) -> None:
        super().__init__()
        self.trunk = TRUNKS[trunk].network()
        doublings = (TRUNK_STRIDE // stride).bit_length() - 1
        inputs = (self.trunk.channels, *(CHANNELS,) * (doublings - 1))
        self.upsampling = nn.Sequential(*map(_doubling, inputs))
        self.heatmap_layer = nn.Conv2d(CHANNELS, landmarks, 1)
        nn.init.normal_(self.heatmap_layer.weight, std=0.001)  # as PIPNet's heads (COMPAT 1.5)
        nn.init.zeros_(self.heatmap_layer.bias)

    def forward(self, image: Tensor) -> Tensor:
        heatmaps: Tensor = self.heatmap_layer(self.upsampling(self.trunk(image)))
        return heatmaps

    def load_imagenet(self) -> None:
        """Load the trunk's ImageNet weights.

        Raises:
            CheckpointError: No package carries them, or it is not installed.
        """
        load_imagenet(self.trunk)


def _doubling(inputs: int) -> nn.Sequential:
    """Twice the side: a 4x4 transposed convolution, batch norm, relu."""
    return nn.Sequential(
        nn.ConvTranspose2d(inputs, CHANNELS, 4, 2, 1, bias=False),
        nn.BatchNorm2d(CHANNELS),
        nn.ReLU(),
    )


def build_mapnet(trunk: str, landmarks: int, stride: int) -> MapNet:
    """A MapNet with fresh weights.

    Args:
        trunk: A key of `TRUNKS`.
        landmarks: L.
        stride: One of `MAP_STRIDES`.

    Raises:
        ModelError: Unknown trunk, or numbers out of range.
    """
    if trunk not in TRUNKS:
        raise ModelError(f"unknown MapNet architecture {trunk!r}; known: {', '.join(TRUNKS)}")
    if stride not in MAP_STRIDES:
        raise ModelError(f"MapNet has stride {' or '.join(map(str, MAP_STRIDES))}, got {stride}")
    if landmarks < 1:
        raise ModelError(f"MapNet needs at least one landmark, got {landmarks}")
    return MapNet(trunk, landmarks, stride)
