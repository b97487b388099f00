"""PIPNet: a trunk and five 1x1 convolutions (paper section 3.1-3.2, COMPAT 1.1)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from facemark_export.networks.efficientnet_lite import MEAN as LITE_MEAN
from facemark_export.networks.efficientnet_lite import STD as LITE_STD
from facemark_export.networks.efficientnet_lite import EfficientNetLite0
from facemark_export.networks.mobilenet_v2 import MobileNetV2
from facemark_export.networks.mobilenet_v3 import MobileNetV3Large
from facemark_export.networks.normalise import IMAGENET_MEAN, IMAGENET_STD
from facemark_export.networks.resnet import ResNet18, ResNet50, ResNet101
from facemark_sdk.errors import CheckpointError, ModelError

HEADS = ("cls_layer", "x_layer", "y_layer", "nb_x_layer", "nb_y_layer")
TRUNK_STRIDE = 32
"""Pixels a cell of every trunk's features."""
RESNET18_STRIDES = (16, 32, 64, 128)
"""Strides that published networks have, all on ResNet-18 (COMPAT 1.1); other trunks have 32."""


def _with_heads(
    trunk: type[nn.Module],
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
    strides: tuple[int, ...] = (TRUNK_STRIDE,),
) -> type:
    """A PIPNet class on this trunk. It inherits, so that the trunk's keys have no prefix."""

    class PIPNet(trunk):  # type: ignore[misc, valid-type]
        """Raw maps of the grid: cls, x, y (N, L, G, G); nb_x, nb_y (N, L * C, G, G)."""

        input_mean = mean
        input_std = std
        possible_strides = strides

        def __init__(self, landmarks: int, neighbours: int, stride: int = TRUNK_STRIDE) -> None:
            super().__init__()
            self.stride = stride
            _add_resampling(self, self.channels, stride)
            for name in HEADS:
                rows = landmarks * (neighbours if name.startswith("nb_") else 1)
                head = nn.Conv2d(self.channels, rows, 1)
                nn.init.normal_(head.weight, std=0.001)  # COMPAT 1.5
                nn.init.zeros_(head.bias)
                setattr(self, name, head)

        def forward(self, image: Tensor) -> tuple[Tensor, ...]:
            features = _resample(self, super().forward(image), self.stride)
            return tuple(getattr(self, name)(features) for name in HEADS)

        def load_imagenet(self) -> None:
            """Load the trunk's ImageNet weights.

            Raises:
                CheckpointError: No package carries them, or it is not installed.
            """
            if not hasattr(trunk, "load_imagenet"):
                raise CheckpointError(
                    f"no package carries ImageNet weights for {trunk.__name__}; use --no-imagenet"
                )
            pretrained = trunk()
            pretrained.load_imagenet()
            self.load_state_dict(pretrained.state_dict(), strict=False)

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


ARCHITECTURES: dict[str, type] = {
    "efficientnet_lite0": _with_heads(EfficientNetLite0, LITE_MEAN, LITE_STD),
    "resnet18": _with_heads(ResNet18, strides=RESNET18_STRIDES),
    "resnet50": _with_heads(ResNet50),
    "resnet101": _with_heads(ResNet101),
    "mobilenet_v2": _with_heads(MobileNetV2),
    "mobilenet_v3_large": _with_heads(MobileNetV3Large),
}


def build_pipnet(
    architecture: str, landmarks: int, neighbours: int, stride: int = TRUNK_STRIDE
) -> nn.Module:
    """A PIPNet with fresh weights.

    Args:
        architecture: A key of `ARCHITECTURES`.
        landmarks: L.
        neighbours: C, at least 1 and less than L.
        stride: Pixels a cell of the grid; 16, 64 and 128 are for ResNet-18 only.

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
        raise ModelError(
            f"PIPNet on {architecture} has stride {' or '.join(map(str, strides))}, got {stride}"
            + ("" if len(strides) > 1 else "; other strides are for resnet18 only")
        )
    network: nn.Module = ARCHITECTURES[architecture](landmarks, neighbours, stride)
    return network
