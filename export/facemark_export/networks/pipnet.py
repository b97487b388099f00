"""PIPNet: a trunk and five 1x1 convolutions (paper section 3.1-3.2, COMPAT 1.1)."""

from __future__ import annotations

from torch import Tensor, nn

from facemark_export.networks import efficientnet_lite, resnet
from facemark_sdk.errors import CheckpointError, ModelError

_HEADS = ("cls_layer", "x_layer", "y_layer", "nb_x_layer", "nb_y_layer")


def _with_heads(trunk: type[nn.Module], mean: tuple[float, ...], std: tuple[float, ...]) -> type:
    """A PIPNet class on this trunk. It inherits, so that the trunk's keys have no prefix."""

    class PIPNet(trunk):  # type: ignore[misc, valid-type]
        """Raw maps of the grid: cls, x, y (N, L, G, G); nb_x, nb_y (N, L * C, G, G)."""

        input_mean = mean
        input_std = std

        def __init__(self, landmarks: int, neighbours: int) -> None:
            super().__init__()
            for name in _HEADS:
                rows = landmarks * (neighbours if name.startswith("nb_") else 1)
                head = nn.Conv2d(self.features, rows, 1)
                nn.init.normal_(head.weight, std=0.001)  # COMPAT 1.5
                nn.init.zeros_(head.bias)
                setattr(self, name, head)

        def forward(self, image: Tensor) -> tuple[Tensor, ...]:
            features = super().forward(image)
            return tuple(getattr(self, name)(features) for name in _HEADS)

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


ARCHITECTURES: dict[str, type] = {
    "efficientnet_lite0": _with_heads(
        efficientnet_lite.EfficientNetLite0, efficientnet_lite.MEAN, efficientnet_lite.STD
    ),
    "resnet18": _with_heads(resnet.ResNet18, resnet.MEAN, resnet.STD),
}


def build_pipnet(architecture: str, landmarks: int, neighbours: int) -> nn.Module:
    """A PIPNet with fresh weights.

    Args:
        architecture: A key of `ARCHITECTURES`.
        landmarks: L.
        neighbours: C, at least 1 and less than L.

    Raises:
        ModelError: Unknown architecture, or numbers out of range.
    """
    if architecture not in ARCHITECTURES:
        raise ModelError(
            f"unknown PIPNet architecture {architecture!r}; known: {', '.join(ARCHITECTURES)}"
        )
    if not 1 <= neighbours < landmarks:
        raise ModelError(f"PIPNet needs 1 <= neighbours < landmarks, got {neighbours}, {landmarks}")
    network: nn.Module = ARCHITECTURES[architecture](landmarks, neighbours)
    return network
