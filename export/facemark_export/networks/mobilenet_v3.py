"""MobileNetV3-large trunk as published PIPNets have it, which is not torchvision's (COMPAT 1.1).

Squeeze-excite comes before the second activation of a block, and the layers of a block are
numbered with gaps where others would have a module.
"""

from __future__ import annotations

from torch import Tensor, nn

from facemark_export.networks.depthwise import DepthwiseConv

# kernel, expansion, channels, squeeze-excite, hard-swish, stride of the blocks (COMPAT 1.1)
_BLOCKS = (
    (3, 1, 16, False, False, 1),
    (3, 4, 24, False, False, 2),
    (3, 3, 24, False, False, 1),
    (5, 3, 40, True, False, 2),
    (5, 3, 40, True, False, 1),
    (5, 3, 40, True, False, 1),
    (3, 6, 80, False, True, 2),
    (3, 2.5, 80, False, True, 1),
    (3, 2.3, 80, False, True, 1),
    (3, 2.3, 80, False, True, 1),
    (3, 6, 112, True, True, 1),
    (3, 6, 112, True, True, 1),
    (5, 6, 160, True, True, 2),
    (5, 6, 160, True, True, 1),
    (5, 6, 160, True, True, 1),
)


def multiple_of_8(width: float) -> int:
    """The nearest multiple of 8, and the next one where that loses more than a tenth."""
    rounded = max(8, int(width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * width else rounded


class SqueezeExcite(nn.Module):
    """Channels weighted by what a small network makes of their means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = multiple_of_8(channels // 4)
        self.fc = nn.Sequential(
            nn.Linear(channels, squeezed),
            nn.ReLU(),
            nn.Linear(squeezed, channels),
            nn.Hardsigmoid(),  # relu6(x + 3) / 6
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc(x.mean((2, 3)))[:, :, None, None]


class InvertedResidual(nn.Module):
    """Expand 1x1, depthwise, squeeze-excite, activation, project 1x1; added where shapes agree."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        kernel: int,
        expansion: float,
        excites: bool,
        swishes: bool,
        stride: int,
    ) -> None:
        super().__init__()
        width = multiple_of_8(inputs * expansion)
        activation = nn.Hardswish if swishes else nn.ReLU
        layers: list[nn.Module] = []
        if expansion > 1:
            layers += [nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width), activation()]
            middle = [SqueezeExcite(width) if excites else nn.Identity(), activation()]
        else:  # COMPAT 1.1: the block without expansion has the two in the other order
            middle = [activation(), SqueezeExcite(width) if excites else nn.Identity()]
        self.conv = nn.Sequential(
            *layers,
            DepthwiseConv(width, kernel, stride),
            nn.BatchNorm2d(width),
            *middle,
            nn.Conv2d(width, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.adds else self.conv(x)


class MobileNetV3Large(nn.Module):
    """(N, 3, S, S) to (N, 960, S / 32, S / 32)."""

    channels = 960
    stride = 32

    def __init__(self) -> None:
        super().__init__()
        inputs = 16
        layers: list[nn.Module] = [_swish_unit(nn.Conv2d(3, inputs, 3, 2, 1, bias=False))]
        for kernel, expansion, outputs, excites, swishes, stride in _BLOCKS:
            layers.append(
                InvertedResidual(
                    inputs,
                    outputs,
                    kernel=kernel,
                    expansion=expansion,
                    excites=excites,
                    swishes=swishes,
                    stride=stride,
                )
            )
            inputs = outputs
        self.features = nn.Sequential(*layers)
        self.conv = _swish_unit(nn.Conv2d(inputs, self.channels, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.features(x))


def _swish_unit(conv: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels), nn.Hardswish())
