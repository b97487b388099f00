"""PFLD and YuNet as their papers describe them, with random weights, which cost the same time.

No package carries their weights (OpenCV's wheel has the class FaceDetectorYN, not its model file),
so that only the networks' time can be told here: no decode, no NMS, no accuracy.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

PFLD_SIZE = 112
YUNET_WIDTH = 64


def _conv(before: int, after: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Module:
    padding = 0 if kernel == 7 else kernel // 2  # PFLD's last one sees its whole 7 x 7 input
    return nn.Sequential(
        nn.Conv2d(before, after, kernel, stride, padding, groups=groups, bias=False),
        nn.BatchNorm2d(after),
    )


class Bottleneck(nn.Module):
    """MobileNetV2's: wider by `factor`, filtered channel by channel, narrower again."""

    def __init__(self, before: int, after: int, factor: int, stride: int) -> None:
        super().__init__()
        wide = before * factor
        self.layers = nn.Sequential(
            _conv(before, wide, 1),
            nn.ReLU(),
            _conv(wide, wide, 3, stride, wide),
            nn.ReLU(),
            _conv(wide, after, 1),
        )
        self.adds = stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, before, H, W) to (N, after, H / stride, W / stride)."""
        return x + self.layers(x) if self.adds else self.layers(x)


class PFLD(nn.Module):
    """PFLD's backbone (Guo et al. 2019, arXiv 1902.10859, table 1), `width` times as wide."""

    def __init__(self, landmarks: int, width: float = 1.0) -> None:
        super().__init__()
        c16, c32, c64, c128 = (max(1, round(width * each)) for each in (16, 32, 64, 128))
        self.stem = nn.Sequential(
            _conv(3, c64, 3, 2), nn.ReLU(), _conv(c64, c64, 3, 1, c64), nn.ReLU()
        )
        self.body = nn.Sequential(
            Bottleneck(c64, c64, 2, 2),
            *(Bottleneck(c64, c64, 2, 1) for _ in range(4)),
            Bottleneck(c64, c128, 2, 2),
            *(Bottleneck(c128, c128, 4, 1) for _ in range(6)),
            Bottleneck(c128, c16, 2, 1),
        )
        self.second = nn.Sequential(_conv(c16, c32, 3, 2), nn.ReLU())
        self.third = nn.Sequential(_conv(c32, c128, 7), nn.ReLU())
        self.points = nn.Linear(c16 + c32 + c128, 2 * landmarks)

    def forward(self, image: Tensor) -> Tensor:
        """Image (N, 3, 112, 112) to coordinates (N, 2L), from features of three scales."""
        first = self.body(self.stem(image))
        second = self.second(first)
        third = self.third(second)
        return self.points(
            torch.cat((first.mean((2, 3)), second.mean((2, 3)), third.flatten(1)), 1)
        )


class _Unit(nn.Sequential):
    """YuNet's unit: 1x1 convolution, then 3x3 channel by channel."""

    def __init__(self, before: int, after: int, last: bool = False) -> None:
        layers = [
            nn.Conv2d(before, after, 1),
            nn.Conv2d(after, after, 3, padding=1, groups=after),
        ]
        super().__init__(*layers, *(() if last else (nn.BatchNorm2d(after), nn.ReLU())))


class YuNet(nn.Module):
    """YuNet (Wu, Peng and Yu 2023): 75,856 weights, strides 8, 16 and 32."""

    def __init__(self) -> None:
        super().__init__()
        wide = YUNET_WIDTH
        self.stem = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), _Unit(16, 16)
        )
        self.early = nn.Sequential(
            nn.MaxPool2d(2), _Unit(16, 16), _Unit(16, wide), _Unit(wide, wide), _Unit(wide, wide)
        )
        self.levels = nn.ModuleList(
            nn.Sequential(nn.MaxPool2d(2), _Unit(wide, wide), _Unit(wide, wide)) for _ in range(3)
        )
        self.neck = nn.ModuleList(_Unit(wide, wide) for _ in range(3))
        self.shared = nn.ModuleList(_Unit(wide, wide) for _ in range(3))
        self.heads = nn.ModuleList(
            nn.ModuleList(_Unit(wide, rows, last=True) for rows in (1, 1, 4, 10)) for _ in range(3)
        )

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Image (N, 3, H, W) to class, object, box and point maps of three levels."""
        x = self.early(self.stem(image))
        features = []
        for level in self.levels:
            x = level(x)
            features.append(x)
        above: Tensor | None = None
        outputs: list[Tensor] = []
        for index in (2, 1, 0):
            x = features[index]
            if above is not None:
                x = x + nn.functional.interpolate(above, scale_factor=2.0, mode="nearest")
            above = self.neck[index](x)
            shared = self.shared[index](above)
            outputs += [head(shared) for head in self.heads[index]]
        return tuple(outputs)


def count_weights(network: nn.Module) -> int:
    """Trainable numbers."""
    return sum(parameter.numel() for parameter in network.parameters())
