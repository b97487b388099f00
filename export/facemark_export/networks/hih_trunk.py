"""HIH's heads on any trunk, and the two other heads for offsets of its appendix.

``hih`` has decimal maps, ``wov`` (with offset value) two numbers a landmark, ``wom`` (with offset
map) two maps for all landmarks. All read the fusion of features and heatmaps, as the hourglasses
make it (COMPAT 3.1; HIH, section III-D and appendix). A trunk's features are MapNet's; any side
that is a multiple of the trunk's stride does.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from torch import Tensor, nn

from facemark_export.networks.hourglass import (
    MAX_STACKS,
    OFFSET_SIZES,
    OFFSET_WIDTH,
    WIDTH,
    HeatmapInHeatmap,
    OffsetHead,
    Residual,
    Stacks,
    Unit,
)
from facemark_export.networks.mapnet import MapNet
from facemark_export.networks.stages import HEATMAP_STRIDE
from facemark_export.networks.trunks import TRUNKS
from facemark_sdk.errors import ModelError

PUBLISHED_SIDE = 256
"""Side of the input for which an offset head's size is stated; a head halves its features equally
often whatever the input, so that half the side gives half the offset maps' side."""
VALUE_SIDE = 4
"""Cells a side to which the offset values' features are averaged; the paper leaves it open."""


class OffsetValueHead(OffsetHead):
    """(N, 256, G, G) to offsets (N, L, 2): HIH's head with a fully connected last layer."""

    def __init__(self, landmarks: int, offset_size: int) -> None:
        super().__init__(landmarks, offset_size)
        self.head = nn.Sequential(
            Unit(OFFSET_WIDTH, OFFSET_WIDTH),
            nn.AdaptiveAvgPool2d(VALUE_SIDE),
            nn.Flatten(),
            nn.Linear(OFFSET_WIDTH * VALUE_SIDE**2, 2 * landmarks),
            nn.Unflatten(1, (landmarks, 2)),
        )


class OffsetMapHead(nn.Module):
    """(N, 256, G, G) to offset maps (N, 2, G, G): HIH's head without its halvings."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = Unit(WIDTH, OFFSET_WIDTH)
        self.head = nn.Sequential(Unit(OFFSET_WIDTH, OFFSET_WIDTH), nn.Conv2d(OFFSET_WIDTH, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.head(self.conv1(x))
        return maps


class TrunkWithOffsets(MapNet):
    """(N, 3, S, S) to heatmaps (N, 1, L, S / 4, S / 4) and what its head makes of the fusion.

    Args:
        trunk: A key of `TRUNKS`.
        landmarks: L.
        offset_head: Takes (N, 256, S / 4, S / 4).
    """

    def __init__(self, trunk: str, landmarks: int, offset_head: nn.Module) -> None:
        super().__init__(trunk, landmarks, HEATMAP_STRIDE)
        self.conv1, self.conv2 = Unit(WIDTH, WIDTH), Unit(landmarks, WIDTH)
        self.offset_head = offset_head

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        feature = self.upsampling(self.trunk(image))
        heatmaps = self.heatmap_layer(feature)
        fused = feature + self.conv1(feature) + self.conv2(heatmaps)
        return heatmaps[:, None], _staged(self.offset_head(fused))


class HourglassWithOffsets(Stacks):
    """HIH's hourglasses with another head: heatmaps (N, stacks, L, S / 4, S / 4) and its output.

    Args:
        landmarks: L.
        stacks: As of `HeatmapInHeatmap`.
        offset_head: Takes (N, 256, S / 4, S / 4).
    """

    def __init__(self, landmarks: int, stacks: int, offset_head: nn.Module) -> None:
        super().__init__(landmarks, stacks, Residual, beyond=True)
        self.offset_head = offset_head

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        heatmaps, fused = self.stacked(image)
        return heatmaps, _staged(self.offset_head(fused))


OFFSET_HEADS: dict[str, Callable[[int, int], nn.Module]] = {
    "hih": OffsetHead,
    "wov": OffsetValueHead,
    "wom": lambda landmarks, offset_size: OffsetMapHead(),
}
"""Takes landmarks and the offset maps' side at an input of 256 pixels, by family."""
SIZES = {"hih": OFFSET_SIZES, "wov": OFFSET_SIZES[1:], "wom": (0,)}
"""The sides that a family can have; `VALUE_SIDE` divides an offset value's."""


def stacks_of(name: str) -> int:
    """How many hourglasses the architecture ``hourglassN`` has; 0 for a trunk.

    Raises:
        ModelError: It is neither.
    """
    found = re.fullmatch(r"hourglass([1-9]\d?)", name)
    if found is None and name not in TRUNKS:
        raise ModelError(
            f"unknown HIH architecture {name!r}; known: hourglass1 to hourglass{MAX_STACKS}, "
            f"{', '.join(TRUNKS)}"
        )
    return int(found[1]) if found else 0


def published_size(offset_size: int, side: int) -> int:
    """The side of offset maps at an input of 256 pixels, from that at another, 0 for none.

    Raises:
        ModelError: No network has such maps at this size.
    """
    size, rest = divmod(offset_size * PUBLISHED_SIDE, side) if side else (0, 1)
    if rest:
        raise ModelError(f"offset maps of side {offset_size} do not fit an input of {side} pixels")
    return size


def build_with_offsets(family: str, name: str, landmarks: int, offset_size: int) -> nn.Module:
    """A heatmap network with an offset head and fresh weights.

    Args:
        family: A key of `OFFSET_HEADS`.
        name: ``hourglass1`` to ``hourglass16``, or a key of `TRUNKS`.
        landmarks: L.
        offset_size: The offset maps' side at an input of 256 pixels: 2, 4, 8 or 16; for ``wov``
            the side before averaging, not 2; 0 for ``wom``, which has none.

    Raises:
        ModelError: Unknown architecture, or numbers out of range.
    """
    stacks = stacks_of(name)
    if landmarks < 1 or stacks > MAX_STACKS or offset_size not in SIZES[family]:
        raise ModelError(
            f"{family} needs landmarks >= 1, stacks in 1..{MAX_STACKS} and offset_size among "
            f"{SIZES[family]} at {PUBLISHED_SIDE} pixels, got {landmarks}, {stacks}, {offset_size}"
        )
    if family == "hih" and stacks:
        return HeatmapInHeatmap(landmarks, stacks, offset_size)
    head = OFFSET_HEADS[family](landmarks, offset_size)
    if stacks:
        return HourglassWithOffsets(landmarks, stacks, head)
    return TrunkWithOffsets(name, landmarks, head)


def _staged(offsets: Tensor) -> Tensor:
    """Maps as the one stage that they are, (N, 1, maps, h, w)."""
    return offsets[:, None] if offsets.dim() == 4 else offsets
