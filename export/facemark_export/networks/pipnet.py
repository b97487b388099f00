"""PIPNet: a trunk and five 1x1 convolutions (paper section 3.1-3.2, COMPAT 1.1)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from facemark_export.networks.trunks import TRUNK_STRIDE, TRUNKS, imagenet_weights
from facemark_sdk.errors import ModelError

HEADS = ("cls_layer", "x_layer", "y_layer", "nb_x_layer", "nb_y_layer")
RESNET18_STRIDES = (16, 32, 64, 128)
"""Strides that published networks have, all on ResNet-18 (COMPAT 1.1)."""
OWN_STRIDES = {"efficientnet_lite0": (16, TRUNK_STRIDE)}
"""Strides that a trunk's own features can have, without the published resampling layers."""


def _with_heads(name: str) -> type:
    """A PIPNet class on a trunk. It inherits, so that the trunk's keys have no prefix."""
    trunk = TRUNKS[name].network

    class PIPNet(trunk):  # type: ignore[misc, valid-type]
        """Raw maps of the grid: cls, x, y (N, L, G, G); nb_x, nb_y (N, L * C, G, G)."""

        input_mean = TRUNKS[name].mean
        input_std = TRUNKS[name].std
        possible_strides = (
            RESNET18_STRIDES if name == "resnet18" else OWN_STRIDES.get(name, (TRUNK_STRIDE,))
        )

        halvings = 0
        """Set for self-training with curriculum (paper section 3.3): in training a sixth output
        then is the score map of features that were max-pooled 2x2 so many times."""

        def __init__(self, landmarks: int, neighbours: int, stride: int = TRUNK_STRIDE) -> None:
            super().__init__(*((stride,) if name in OWN_STRIDES else ()))
            self.resampled = TRUNK_STRIDE if name in OWN_STRIDES else stride
            _add_resampling(self, self.channels, self.resampled)
            for key in HEADS:
                rows = landmarks * (neighbours if key.startswith("nb_") else 1)
                head = nn.Conv2d(self.channels, rows, 1)
                nn.init.normal_(head.weight, std=0.001)  # COMPAT 1.5
                nn.init.zeros_(head.bias)
                setattr(self, key, head)

        def forward(self, image: Tensor) -> tuple[Tensor, ...]:
            features = _resample(self, super().forward(image), self.resampled)
            maps = tuple(getattr(self, key)(features) for key in HEADS)
            if self.training and self.halvings:
                maps += (self.cls_layer(F.max_pool2d(features, 2**self.halvings)),)
            return maps

        def load_imagenet(self) -> None:
            """Load the trunk's ImageNet weights.

            Raises:
                CheckpointError: No package carries them, or it is not installed.
            """
            self.load_state_dict(imagenet_weights(trunk), strict=False)

    PIPNet.__name__ = PIPNet.__qualname__ = f"PIPNet{trunk.__name__}"
    return PIPNet


def _add_resampling(network: nn.Module, channels: int, stride: int) -> None:
    """Give a network the published layers between stride 32 and another one (COMPAT 1.1)."""
    if stride < TRUNK_STRIDE:
        network.deconv1 = nn.ConvTranspose2d(channels, channels, 4, 2, 1, bias=False)
        network.bn_deconv1 = nn.BatchNorm2d(channels)
    if stride > TRUNK_STRIDE:
        network.layer5 = nn.Conv2d(channels, channels, 3, 2, 1)
        network.bn5 = nn.BatchNorm2d(channels)
    if stride > 2 * TRUNK_STRIDE:
        network.layer6 = nn.Conv2d(channels, channels, 3, 2, 1)
        network.bn6 = nn.BatchNorm2d(channels)


def _resample(network: nn.Module, x: Tensor, stride: int) -> Tensor:
    """Features of stride 32 as features of another stride, through the layers added above."""
    if stride < TRUNK_STRIDE:
        x = F.relu(network.bn_deconv1(network.deconv1(x)))
    if stride > TRUNK_STRIDE:
        x = F.relu(network.bn5(network.layer5(x)))
    if stride > 2 * TRUNK_STRIDE:
        x = F.relu(network.bn6(network.layer6(x)))
    return x


ARCHITECTURES: dict[str, type] = {name: _with_heads(name) for name in TRUNKS}


def build_pipnet(
    architecture: str, landmarks: int, neighbours: int, stride: int = TRUNK_STRIDE
) -> nn.Module:
    """A PIPNet with fresh weights.

    Args:
        architecture: A key of `ARCHITECTURES`.
        landmarks: L.
        neighbours: C, at least 1 and less than L.
        stride: Pixels a cell of the grid; 16, 64 and 128 are for ResNet-18, 16 for
            EfficientNet-Lite0 too.

    Raises:
        ModelError: Unknown architecture, or numbers out of range.
    """
    if architecture not in ARCHITECTURES:
        raise ModelError(
            f"unknown PIPNet architecture {architecture!r}; known: {', '.join(ARCHITECTURES)}"
        )
    if not 1 <= neighbours < landmarks:
        raise ModelError(f"PIPNet needs 1 <= neighbours < landmarks, got {neighbours}, {landmarks}")
    strides = ARCHITECTURES[architecture].possible_strides
    if stride not in strides:
        others = [name for name, kind in ARCHITECTURES.items() if stride in kind.possible_strides]
        raise ModelError(
            f"PIPNet on {architecture} has stride {' or '.join(map(str, strides))}, got {stride}"
            + (f", which {' and '.join(others)} can have" if others else "")
        )
    network: nn.Module = ARCHITECTURES[architecture](landmarks, neighbours, stride)
    return network
