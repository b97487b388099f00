"""The trunks that landmark networks stand on, by name."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from facemark_export.networks.coordconv import plain_name, widened
from facemark_export.networks.efficientnet_lite import MEAN as LITE_MEAN
from facemark_export.networks.efficientnet_lite import STD as LITE_STD
from facemark_export.networks.efficientnet_lite import EfficientNetLite0
from facemark_export.networks.mobilenet_v2 import MobileNetV2
from facemark_export.networks.mobilenet_v3 import MobileNetV3Large
from facemark_export.networks.normalise import IMAGENET_MEAN, IMAGENET_STD
from facemark_export.networks.resnet import ResNet18, ResNet50, ResNet101
from facemark_sdk.errors import CheckpointError

TRUNK_STRIDE = 32
"""Pixels a cell of every trunk's features."""


@dataclass(frozen=True, slots=True)
class Trunk:
    """Images (N, 3, S, S) to features (N, `network.channels`, S / 32, S / 32).

    Attributes:
        network: The class; networks inherit from it, so that the trunk's keys have no prefix.
        mean: Of its input, RGB in units of the 0..255 image.
        std: Likewise.
    """

    network: type[nn.Module]
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


TRUNKS: dict[str, Trunk] = {
    "efficientnet_lite0": Trunk(EfficientNetLite0, LITE_MEAN, LITE_STD),
    "resnet18": Trunk(ResNet18),
    "resnet50": Trunk(ResNet50),
    "resnet101": Trunk(ResNet101),
    "mobilenet_v2": Trunk(MobileNetV2),
    "mobilenet_v3_large": Trunk(MobileNetV3Large),
}


def input_statistics(
    architecture: str,
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and standard deviation of a network's input, by its architecture's name.

    Its trunk's; ImageNet's for networks that stand on none.
    """
    trunk = TRUNKS.get(plain_name(architecture))
    return (trunk.mean, trunk.std) if trunk else (IMAGENET_MEAN, IMAGENET_STD)


def imagenet_weights(trunk: type[nn.Module]) -> dict[str, Tensor]:
    """ImageNet weights of a trunk, by its keys.

    Raises:
        CheckpointError: No package carries them, or it is not installed.
    """
    if not hasattr(trunk, "load_imagenet"):
        raise CheckpointError(
            f"no package carries ImageNet weights for {trunk.__name__}; use --no-imagenet"
        )
    network = trunk()
    network.load_imagenet()
    return network.state_dict()


def load_imagenet(trunk: nn.Module) -> None:
    """Load a trunk's ImageNet weights; coordinates that it sees (CoordConv) start without effect.

    Raises:
        CheckpointError: No package carries them, or it is not installed.
    """
    trunk.load_state_dict(widened(imagenet_weights(type(trunk)), trunk))
