"""Network architectures, with the published key names."""

from __future__ import annotations

from torch import nn

from facemark_export.networks.pipnet import build_pipnet
from facemark_export.networks.retinaface import RetinaFace
from facemark_sdk.errors import ModelError
from facemark_sdk.layouts import get_layout
from facemark_sdk.spec import ModelSpec


def build_network(spec: ModelSpec) -> nn.Module:
    """The network that a spec describes, with fresh weights.

    Raises:
        ModelError: The family or architecture is unknown.
    """
    if spec.family == "pipnet":
        neighbours = len(spec.decoder_params["neighbours"][0])
        return build_pipnet(spec.architecture, get_layout(spec.layout).num_points, neighbours)
    if spec.family == "retinaface":
        return RetinaFace()
    raise ModelError(f"no network of family {spec.family!r}; known: pipnet, retinaface")
