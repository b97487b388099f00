"""Do these tensors fit that network? And if so, load them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from facemark_sdk.errors import CheckpointError

Shapes = Mapping[str, tuple[int, ...]]
"""Shapes of tensors by their names."""

COUNTER = "num_batches_tracked"
"""Batch norm's counter of training steps, which very old torch did not write."""
_SHOWN = 5


def shapes_of(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Shapes of a state_dict's tensors."""
    return {name: tuple(tensor.shape) for name, tensor in weights.items()}


def differences(found: Shapes, expected: Shapes) -> str:
    """What is missing, unexpected or of another shape, at most five names each; empty if nothing.

    Files of very old torch have no counters at all: if none is found, none is expected.
    """
    if not any(_is_counter(name) for name in found):
        expected = {name: shape for name, shape in expected.items() if not _is_counter(name)}
    missing = [f"{name} {shape}" for name, shape in expected.items() if name not in found]
    unexpected = [f"{name} {shape}" for name, shape in found.items() if name not in expected]
    reshaped = [
        f"{name} {found[name]} instead of {shape}"
        for name, shape in expected.items()
        if name in found and tuple(found[name]) != shape
    ]
    lists = (("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped))
    return "; ".join(f"{len(names)} {what}: {some(names)}" for what, names in lists if names)


def load_weights(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load a whole state_dict, strictly; counters of training steps may all be absent.

    Raises:
        CheckpointError: A tensor is missing, unexpected, of another shape or no floating-point
            numbers where such are needed. The network is unchanged then.
    """
    state = network.state_dict()
    odd = [name for name, value in weights.items() if not isinstance(value, Tensor)]
    if odd:
        raise CheckpointError(f"{len(odd)} weights are not tensors: {some(odd)}")
    problem = differences(shapes_of(weights), shapes_of(state))
    if problem:
        raise CheckpointError(f"the weights do not fit {type(network).__name__}: {problem}")
    odd = [
        f"{name} {value.dtype}"
        for name, value in weights.items()
        if state[name].is_floating_point() and not value.is_floating_point()
    ]
    if odd:
        raise CheckpointError(f"{len(odd)} weights are not floating-point numbers: {some(odd)}")
    with torch.no_grad():
        network.load_state_dict(dict(weights), strict=False)  # names are checked above


def some(names: Iterable[str]) -> str:
    """The first five of them."""
    names = list(names)
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def _is_counter(name: str) -> bool:
    return name.rpartition(".")[2] == COUNTER
