"""Coordinate correction beside heatmaps (Subpixel, section 4.1, after DeepCut)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from facemark_export.networks.coordconv import COORDINATES, CoordConv2d
from facemark_export.networks.stages import last_stage
from facemark_sdk.errors import CheckpointError


def peak_cells(maps: Tensor) -> Tensor:
    """Column and row (N, L, 2) int64 of each map's highest cell."""
    cell = maps.detach().flatten(2).argmax(-1)
    width = maps.shape[-1]
    return torch.stack((cell % width, cell // width), -1)


class CorrectedNetwork(nn.Module):
    """A heatmap network with a second branch that corrects the maps' highest cells.

    Section 4.1: global pooling and a fully connected layer; of what they follow, the features that
    the (last) maps are made of is our choice. While training it gives the maps and corrections
    (N, L, 2) in cells; else the corrected coordinates (N, 2 L), as `decode.regression` reads them.

    Args:
        network: Its last convolution to L channels makes the maps.
        landmarks: L.
    """

    def __init__(self, network: nn.Module, landmarks: int) -> None:
        super().__init__()
        self.network = network
        convolutions = (m for m in network.modules() if isinstance(m, nn.Conv2d))
        *_, head = (m for m in convolutions if m.out_channels == landmarks)
        # the features as the hook sees them, before a CoordConv appends its own to them
        features = head.in_channels - COORDINATES * isinstance(head, CoordConv2d)
        self.correction = nn.Linear(features, 2 * landmarks)
        nn.init.zeros_(self.correction.weight)
        nn.init.zeros_(self.correction.bias)
        # In a list, not to be named twice among the weights.
        self._head = [head]

    def forward(self, image: Tensor) -> Any:
        """Maps and corrections, or coordinates."""
        features: list[Tensor] = []
        hook = self._head[0].register_forward_pre_hook(lambda _, inputs: features.extend(inputs))
        try:
            maps = self.network(image)
        finally:
            hook.remove()
        with torch.autocast(maps.device.type, enabled=False):
            corrections = self.correction(features[-1].float().mean((2, 3))).unflatten(1, (-1, 2))
        if self.training:
            return maps, corrections
        answer = last_stage(maps)
        return ((peak_cells(answer) + corrections) / answer.shape[-1]).flatten(1)

    def load_imagenet(self) -> None:
        """Load the trunk's ImageNet weights.

        Raises:
            CheckpointError: No package carries them, or it is not installed.
        """
        if not hasattr(self.network, "load_imagenet"):
            raise CheckpointError(
                f"no package carries ImageNet weights for {type(self.network).__name__}; use "
                "--no-imagenet"
            )
        self.network.load_imagenet()
