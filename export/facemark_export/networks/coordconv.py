"""CoordConv: convolutions that see where they are (Liu et al., NeurIPS 2018, arXiv 1807.03247).

Two channels are appended to the input of every convolution, at its own resolution: the column's
place and the row's place, -1 at the first and 1 at the last. The Wasserstein paper replaces all
convolutions of a network by such ones (its ablation study of section 5).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SUFFIX = "_coordconv"
"""Ends the names of architectures whose convolutions see coordinates."""
COORDINATES = 2
"""Channels that are appended: x, then y."""


class CoordConv2d(nn.Conv2d):
    """A convolution of its input and the coordinates; `in_channels` counts both.

    Where the convolution pads, coordinates are padded like any channel.
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(append_coordinates(x))


class CoordConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution of its input and the coordinates of the input's cells."""

    def forward(self, x: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        return super().forward(append_coordinates(x), output_size)


def append_coordinates(x: Tensor) -> Tensor:
    """(N, C, h, w) to (N, C + 2, h, w) of the same dtype, device and memory format.

    A side of one cell has no first and last; its coordinate is 0, the middle.
    """
    count, _, height, width = x.shape
    shape = count, 1, height, width
    columns = _places(width, x)[None, None, None, :].expand(shape)
    rows = _places(height, x)[None, None, :, None].expand(shape)
    coordinates = torch.cat([columns, rows], dim=1)
    if x.is_contiguous(memory_format=torch.channels_last):
        # else the whole result would be laid out anew
        coordinates = coordinates.contiguous(memory_format=torch.channels_last)
    return torch.cat([x, coordinates], dim=1)


def add_coordinates(network: nn.Module) -> nn.Module:
    """Replace a network's convolutions by such that see coordinates, in place.

    Names of tensors stay. The weights of the coordinates start at 0, so that the network computes
    what it did before, until it is trained. Depthwise and other grouped convolutions stay as they
    are: each of their filters belongs to channels of its own, and the pointwise convolutions beside
    them see the coordinates. Transposed convolutions are replaced like ordinary ones.

    Args:
        network: May be on any device, "meta" as well.

    Returns:
        The same network.
    """
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Conv2d | nn.ConvTranspose2d) and child.groups == 1:
                setattr(module, name, _seeing(child))
    return network


def widened(weights: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Weights of the same network without coordinates, as `network` can load them.

    Those of the coordinates are 0; networks without coordinates get the weights as they are.

    Args:
        weights: A state_dict; every convolution of the network must be in it.
        network: What shall load them.
    """
    changed = {
        f"{name}.weight": _widened(module, weights[f"{name}.weight"])
        for name, module in network.named_modules()
        if isinstance(module, CoordConv2d | CoordConvTranspose2d)
    }
    return {**weights, **changed}


def plain_name(architecture: str) -> str:
    """An architecture's name without the suffix that says that it sees coordinates."""
    return architecture.removesuffix(SUFFIX)


def _places(side: int, like: Tensor) -> Tensor:
    """(side,) from -1 to 1."""
    if side == 1:
        return torch.zeros(1, dtype=like.dtype, device=like.device)
    return torch.linspace(-1, 1, side, dtype=like.dtype, device=like.device)


def _seeing(plain: nn.Conv2d | nn.ConvTranspose2d) -> CoordConv2d | CoordConvTranspose2d:
    """The convolution with coordinates that computes what a plain one does."""
    transposed = isinstance(plain, nn.ConvTranspose2d)
    settings = {
        name: getattr(plain, name)
        for name in ("out_channels", "kernel_size", "stride", "padding", "dilation", "padding_mode")
    }
    if transposed:
        settings["output_padding"] = plain.output_padding
    seeing = (CoordConvTranspose2d if transposed else CoordConv2d)(
        plain.in_channels + COORDINATES,
        **settings,
        bias=plain.bias is not None,
        device="meta",  # its own weights would be thrown away
    )
    seeing.weight = nn.Parameter(
        _widened(plain, plain.weight.detach()), requires_grad=plain.weight.requires_grad
    )
    seeing.bias = plain.bias
    return seeing.train(plain.training)


def _widened(convolution: nn.Module, weight: Tensor) -> Tensor:
    """Weights with zeros for the coordinates; inputs are axis 1, of transposed ones axis 0."""
    after = (0, 0) * (3 if isinstance(convolution, nn.ConvTranspose2d) else 2)
    return F.pad(weight, (*after, 0, COORDINATES))
