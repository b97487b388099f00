"""MobileNetV2 trunk with torchvision's key names, without the classifier (COMPAT 1.1)."""

from __future__ import annotations

from torch import Tensor, nn

from facemark_export.networks.depthwise import DepthwiseConv

# expansion, channels, repeats, stride of the stages (MobileNetV2 paper, table 2)
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def _unit(conv: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU6())


class InvertedResidual(nn.Module):
    """Expand 1x1, depthwise 3x3, project 1x1; added to the input where shapes agree."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        width = inputs * expansion
        layers: list[nn.Module] = []
        if expansion > 1:
            layers.append(_unit(nn.Conv2d(inputs, width, 1, bias=False)))
        self.conv = nn.Sequential(
            *layers,
            _unit(DepthwiseConv(width, 3, stride)),
            nn.Conv2d(width, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.adds else self.conv(x)


class MobileNetV2(nn.Module):
    """(N, 3, S, S) to (N, 1280, S / 32, S / 32)."""

    channels = 1280
    stride = 32

    def __init__(self) -> None:
        super().__init__()
        inputs = 32
        layers: list[nn.Module] = [_unit(nn.Conv2d(3, inputs, 3, 2, 1, bias=False))]
        for expansion, outputs, repeats, stride in _STAGES:
            for repeat in range(repeats):
                layers.append(InvertedResidual(inputs, outputs, expansion, 1 if repeat else stride))
                inputs = outputs
        layers.append(_unit(nn.Conv2d(inputs, self.channels, 1, bias=False)))
        self.features = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x)
