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

import numpy as np
import torch
from onnx import ModelProto, numpy_helper
from torch import Tensor, nn

from facemark_export import checkpoint
from facemark_export.networks.architecture import name_of
from facemark_export.networks.normalise import Normalise
from facemark_export.networks.retinaface import RELU
from facemark_export.networks.weights import COUNTER, load_weights
from facemark_export.onnx_file import load, source_file
from facemark_export.training.task import Task
from facemark_sdk.errors import CheckpointError
from facemark_sdk.spec import ModelSpec

_PREFIX = "network."
"""Of the network's tensors in what `facemark-export` writes."""
_SAMPLES, _BATCH = 128, 16
"""Training samples on which means and variances are taken."""
UNSTATED = "unstated"
"""What a recipe's training data and licence are until the user states them."""
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
Norm = nn.BatchNorm1d | nn.BatchNorm2d


def start_spec(start: Path, wanted: ModelSpec) -> ModelSpec:
    """What the start says of itself, if a recipe's network can start from it.

    Args:
        start: A checkpoint that facemark-train wrote, an fp32 ONNX file of facemark-export's whose
            decoder is outside the graph, or a bundled model's name.
        wanted: What the recipe's network says of itself.

    Raises:
        CheckpointError: It cannot be read, or is of another network.
        ModelError: Its spec is unusable.
    """
    spec = _spec_of(source_file(start))
    if spec.precision != "fp32" or spec.decoder == "graph":
        raise CheckpointError(
            f"--init {start} is {spec.precision}, read by {spec.decoder!r}: start from an fp32 "
            "file without a decoder in the graph"
        )
    # Networks that only leak differently have the same tensors.
    names = [
        (each.family, name_of(each).removesuffix(RELU), each.layout) for each in (spec, wanted)
    ]
    if names[0] != names[1]:
        theirs, ours = (f"{kind} on {trunk} for {layout}" for kind, trunk, layout in names)
        raise CheckpointError(f"--init {start} is a {theirs}, the recipe trains a {ours}")
    return spec


def inherited_terms(start: Path, training_data: str, licence: str) -> tuple[str, str]:
    """Training data and licence of what is fine-tuned: the start's hold, too.

    Args:
        start: As for `start_spec`.
        training_data: Of the fine-tuning.
        licence: As the user states it.

    Raises:
        CheckpointError: The start cannot be read.
        ModelError: Its spec is unusable.
    """
    spec = _spec_of(source_file(start))
    before = spec.training_data
    if not before.startswith(training_data):  # as a run's own checkpoint does, when it goes on
        before = f"{training_data}; fine-tuned from a network trained on: {before}"
    return before, spec.licence if licence == UNSTATED else licence


def start_from(task: Task, start: Path) -> None:
    """Give a task's network the weights of a checkpoint or of an exported file.

    Args:
        task: Its network gets them; its samples show what an exported file does not keep.
        start: As for `start_spec`.

    Raises:
        CheckpointError: It cannot be read, or is of another network.
        ModelError: Its spec is unusable.
    """
    path = source_file(start)
    start_spec(start, task.spec)
    weights = None if _is_onnx(path) else checkpoint.read(path).weights
    try:
        if weights is not None:
            load_weights(task.network, weights)
        else:
            model = load(path)[0]
            _unfold(task, _tensors(model), _biases(model))
    except CheckpointError as error:
        remedy = (
            ""
            if weights is not None
            else (
                "; a file of networks whose normalisations come before their convolutions, as an "
                "hourglass's do, does not keep them: start from the checkpoint"
            )
        )
        raise CheckpointError(f"--init {start} is of another network: {error}{remedy}") from None


def _spec_of(path: Path) -> ModelSpec:
    return load(path)[1] if _is_onnx(path) else checkpoint.read(path).spec


def _is_onnx(path: Path) -> bool:
    return path.suffix.lower() == ".onnx"


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
        norm: layer
        for norm, layer in _folds(network, images[0][:1]).items()
        if f"{norm}.weight" not in tensors and f"{layer}.weight" in biases
    }
    weights = {name: tensor for name, tensor in tensors.items() if name in state}
    for weight, bias in biases.items():  # the graph may call them otherwise
        own = f"{weight.removesuffix('.weight')}.bias"
        if own in state:
            weights[own] = tensors[bias]
    for norm, layer in folded.items():
        shift = tensors[biases[f"{layer}.weight"]]
        weights |= _nothing_but(norm, shift, _norm(network, norm).eps)
        if f"{layer}.bias" in state:  # it is in the shift
            weights[f"{layer}.bias"] = torch.zeros_like(shift)
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
