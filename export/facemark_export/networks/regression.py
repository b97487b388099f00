"""Direct regression of coordinates: a trunk, the mean of its features, fully connected layers.

``regression`` has one such layer, as the ResNets of the anisotropic paper's experiments have;
``coordnet`` has three of 512, 512 and 2L channels (PIPNet paper, section 4.3.1).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facemark_export.networks.trunks import TRUNKS, imagenet_weights
from facemark_sdk.errors import ModelError

HIDDEN: dict[str, tuple[int, ...]] = {"regression": (), "coordnet": (512, 512)}
"""Channels of the layers between the pooled features and the coordinates, by family."""


class CoordinateRegression(nn.Module):
    """(N, 3, S, S) to displacements (N, 2L), fractions of the crop's side: x0 y0 x1 y1 ...

    Args:
        trunk: A key of `TRUNKS`.
        landmarks: L.
        hidden: Channels of the fully connected layers before the last.
    """

    def __init__(self, trunk: str, landmarks: int, hidden: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.trunk = TRUNKS[trunk].network()
        widths = (self.trunk.channels, *hidden)
        self.hidden = nn.ModuleList(map(nn.Linear, widths, widths[1:]))
        self.regressor = nn.Linear(widths[-1], 2 * landmarks)
        # as PIPNet's heads (COMPAT 1.5): training starts from the mean shape
        nn.init.normal_(self.regressor.weight, std=0.001)
        nn.init.zeros_(self.regressor.bias)

    def forward(self, image: Tensor) -> Tensor:
        x = self.trunk(image).mean((2, 3))
        for layer in self.hidden:
            x = F.relu(layer(x))
        # bfloat16 would round coordinates to 1 part in 256: whole pixels of a usual crop
        with torch.autocast(x.device.type, enabled=False):
            displacement: Tensor = self.regressor(x.float())
        return displacement

    def load_imagenet(self) -> None:
        """Load the trunk's ImageNet weights.

        Raises:
            CheckpointError: No package carries them, or it is not installed.
        """
        self.trunk.load_state_dict(imagenet_weights(type(self.trunk)))


def build_regression(family: str, trunk: str, landmarks: int) -> CoordinateRegression:
    """A network of direct regression with fresh weights.

    Args:
        family: A key of `HIDDEN`.
        trunk: A key of `TRUNKS`.
        landmarks: L.

    Raises:
        ModelError: Unknown trunk, or no landmarks.
    """
    if trunk not in TRUNKS:
        raise ModelError(f"unknown {family} architecture {trunk!r}; known: {', '.join(TRUNKS)}")
    if landmarks < 1:
        raise ModelError(f"{family} needs at least one landmark, got {landmarks}")
    return CoordinateRegression(trunk, landmarks, HIDDEN[family])
