"""Where fine-tuning starts: a checkpoint's weights, or those of an exported file.

An exported file has its batch normalisations folded into the convolutions before them. They are
taken out again: each gets the mean and the variance that its input has on training samples, and
the scale and the shift that undo them, so that the network computes what the file does and its
normalisations train as they would have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from google.protobuf.message import DecodeError
from onnx import ModelProto, numpy_helper
from torch import Tensor, nn

from facemark_export import checkpoint
from facemark_export.networks.normalise import Normalise
from facemark_export.networks.weights import COUNTER, load_weights
from facemark_export.training.task import Task
from facemark_sdk.errors import CheckpointError
from facemark_sdk.spec import METADATA_KEY, ModelSpec

_PREFIX = "network."
"""Of the network's tensors in what `facemark-export` writes."""
_SAMPLES, _BATCH = 128, 16
"""Training samples on which means and variances are taken."""
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
Norm = nn.BatchNorm1d | nn.BatchNorm2d


def stated_params(path: Path, decoder: str) -> dict[str, Any]:
    """What the start says of its decoder: tables and shapes that its weights belong to.

    Args:
        path: A checkpoint that facemark-train wrote, or an ONNX file of facemark-export's.
        decoder: What it must be read by.

    Raises:
        CheckpointError: It cannot be read, has no spec, or is read otherwise.
        ModelError: Its spec is unusable.
    """
    spec = _read_onnx(path)[1] if _is_onnx(path) else checkpoint.read(path).spec
    if spec.decoder != decoder:
        raise CheckpointError(f"{path} is read by {spec.decoder!r}, the recipe's by {decoder!r}")
    return dict(spec.decoder_params)


def start_from(task: Task, path: Path) -> None:
    """Give a task's network the weights of a checkpoint or of an exported file.

    Args:
        task: Its network gets them; its samples show what an exported file does not keep.
        path: What facemark-train wrote, or an fp32 ONNX file of facemark-export's whose decoder is
            outside the graph.

    Raises:
        CheckpointError: It is unreadable, or of another network.
    """
    if not _is_onnx(path):
        try:
            load_weights(task.network, checkpoint.read(path).weights)
        except CheckpointError as error:
            raise CheckpointError(f"{path} is of another network: {error}") from None
        return
    model, spec = _read_onnx(path)
    if spec.precision != "fp32" or spec.decoder == "graph":
        raise CheckpointError(
            f"{path} is {spec.precision}, read by {spec.decoder!r}: start from an fp32 file "
            "without a decoder in the graph"
        )
    wanted = task.spec.family, task.spec.architecture, task.spec.layout
    if (spec.family, spec.architecture, spec.layout) != wanted:
        raise CheckpointError(
            f"{path} is a {spec.family} on {spec.architecture} for {spec.layout}, the recipe "
            f"trains a {' '.join(wanted[:2])} for {wanted[2]}"
        )
    try:
        _unfold(task, _tensors(model), _biases(model))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _is_onnx(path: Path) -> bool:
    return path.suffix.lower() == ".onnx"


def _read_onnx(path: Path) -> tuple[ModelProto, ModelSpec]:
    try:
        model = onnx.load(path)
    except (OSError, DecodeError) as error:
        raise CheckpointError(f"{path} is no readable ONNX file: {error}") from None
    stated = {entry.key: entry.value for entry in model.metadata_props}.get(METADATA_KEY)
    if stated is None:
        raise CheckpointError(f"{path} carries no facemark spec: facemark-export did not write it")
    return model, ModelSpec.from_json(stated)


def _tensors(model: ModelProto) -> dict[str, Tensor]:
    """The constants, those of the network by their names in it."""
    return {
        entry.name.removeprefix(_PREFIX): torch.from_numpy(numpy_helper.to_array(entry).copy())
        for entry in model.graph.initializer
    }


def _biases(model: ModelProto) -> dict[str, str]:
    """By a weight's name that of the bias of the operator that takes it."""
    return {
        node.input[1].removeprefix(_PREFIX): node.input[2].removeprefix(_PREFIX)
        for node in model.graph.node
        if len(node.input) == 3 and node.input[1].startswith(_PREFIX)
    }


def _unfold(task: Task, tensors: Mapping[str, Tensor], biases: Mapping[str, str]) -> None:
    """Load constants, in which normalisations may be folded.

    Raises:
        CheckpointError: They are not this network's.
    """
    network = task.network
    state = network.state_dict()
    images = _images(task)
    folded = {
        norm: f"{layer}.weight"
        for norm, layer in _folds(network, images[0][:1]).items()
        if f"{norm}.weight" not in tensors and f"{layer}.weight" in biases
    }
    weights = {name: tensor for name, tensor in tensors.items() if name in state}
    for weight, bias in biases.items():  # the graph may call them otherwise
        own = f"{weight.removesuffix('.weight')}.bias"
        if own in state:
            weights[own] = tensors[bias]
    for norm, weight in folded.items():
        weights |= _nothing_but(norm, tensors[biases[weight]], _norm(network, norm).eps)
    weights |= {name: tensor for name, tensor in state.items() if name.endswith(COUNTER)}
    load_weights(network, weights)
    _normalise_anew(network, [*folded], images)


def _nothing_but(norm: str, shift: Tensor, eps: float) -> dict[str, Tensor]:
    """The tensors of a normalisation that only shifts, until the statistics are known."""
    ones, zeros = torch.ones_like(shift), torch.zeros_like(shift)
    values = {"weight": ones, "bias": shift, "running_mean": zeros, "running_var": ones - eps}
    return {f"{norm}.{part}": tensor for part, tensor in values.items()}


def _normalise_anew(network: nn.Module, names: list[str], images: list[Tensor]) -> None:
    """Give normalisations that do nothing the statistics of their inputs, and undo them."""
    sums = {name: [torch.zeros(2, _norm(network, name).num_features).double(), 0] for name in names}

    def see(name: str) -> Callable[[nn.Module, tuple[Tensor]], None]:
        def hook(_: nn.Module, inputs: tuple[Tensor]) -> None:
            x = inputs[0].transpose(0, 1).flatten(1).double()
            sums[name][0] += torch.stack([x.sum(1), x.square().sum(1)])
            sums[name][1] += x.shape[1]

        return hook

    with _hooked({name: see(name) for name in names}, network, before=True), torch.no_grad():
        for batch in images:
            network(batch)
        for name, (total, count) in sums.items():
            norm = _norm(network, name)
            mean, square = total / count
            variance = (square - mean.square()).clamp(min=0)
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(variance)
            norm.weight.copy_((variance + norm.eps).sqrt())
            norm.bias.add_(norm.running_mean)


def _folds(network: nn.Module, image: Tensor) -> dict[str, str]:
    """By a normalisation's name that of the layer whose output it takes."""
    made: dict[int, tuple[str, Tensor]] = {}  # keeps the tensors, so that ids stay theirs
    after: dict[str, str] = {}

    def note(name: str) -> Callable[[nn.Module, tuple[Tensor], Tensor], None]:
        def hook(_: nn.Module, __: tuple[Tensor], output: Tensor) -> None:
            made[id(output)] = name, output

        return hook

    def ask(name: str) -> Callable[[nn.Module, tuple[Tensor]], None]:
        def hook(_: nn.Module, inputs: tuple[Tensor]) -> None:
            if id(inputs[0]) in made:
                after[name] = made[id(inputs[0])][0]

        return hook

    modules = dict(network.named_modules())
    norms = {n: ask(n) for n, m in modules.items() if isinstance(m, _NORMS)}
    layers = {n: note(n) for n, m in modules.items() if hasattr(m, "weight") and n not in norms}
    with _hooked(layers, network), _hooked(norms, network, before=True), torch.no_grad():
        network(image)
    return after


@contextmanager
def _hooked(
    hooks: Mapping[str, Callable[..., None]], network: nn.Module, *, before: bool = False
) -> Iterator[None]:
    """Within it the modules call their hooks, and the network is in evaluation mode."""
    training = network.training
    network.eval()
    modules = {name: network.get_submodule(name) for name in hooks}
    handles = [
        modules[name].register_forward_pre_hook(hook)
        if before
        else modules[name].register_forward_hook(hook)
        for name, hook in hooks.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        network.train(training)


def _images(task: Task) -> list[Tensor]:
    """Training samples as the network takes them, in batches."""
    rng = np.random.default_rng(0)
    indices = task.epoch_indices(rng)[:_SAMPLES]
    normalise = Normalise(task.spec.input)
    return [
        normalise(task.make_batch(indices[start : start + _BATCH], rng)["image"])
        for start in range(0, len(indices), _BATCH)
    ]


def _norm(network: nn.Module, name: str) -> Norm:
    module = network.get_submodule(name)
    assert isinstance(module, _NORMS)
    return module
