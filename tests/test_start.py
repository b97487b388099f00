"""Fine-tuning from an exported file: batch normalisations are taken out of its convolutions."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
import torch
from conftest import SHARED
from torch import nn

from facemark_export import checkpoint
from facemark_export.networks.normalise import Normalise
from facemark_export.onnx_file import save, to_fp16
from facemark_export.training.recipes.hih import HihRecipe
from facemark_export.training.recipes.landmarks import TrainingError
from facemark_export.training.recipes.mapnet import MapnetRecipe
from facemark_export.training.recipes.pipnet import PipnetRecipe
from facemark_export.training.recipes.regression import RegressionRecipe
from facemark_export.training.recipes.retinaface_mnet025 import RetinaFaceMnet025
from facemark_export.training.start import start_from
from facemark_sdk.backends import create_backend
from facemark_sdk.errors import CheckpointError
from facemark_sdk.models import read_spec, resolve_model

AFW = SHARED / "data" / "landmarks68" / "afw"
LANDMARKS = resolve_model("pipnet_lite0_68")
DETECTOR = resolve_model("retinaface_mnet025")
pytestmark = pytest.mark.shared


@pytest.fixture(scope="module")
def task():
    return PipnetRecipe(init=LANDMARKS).build([AFW])


def test_the_network_computes_what_the_file_does(task):
    start_from(task, LANDMARKS)
    assert same(task, LANDMARKS, 256)


def test_normalisations_have_the_statistics_of_training_faces(task):
    # as far as 128 faces tell: in training mode other faces come out much as in evaluation mode
    start_from(task, LANDMARKS)
    batch = task.make_batch(np.arange(200, 232), np.random.default_rng(5))
    image = Normalise(task.spec.input)(batch["image"])
    losses = []
    for training in (False, True):
        task.network.train(training)
        with torch.no_grad():
            found = task.losses(task.network(image), batch)
        losses.append(sum(float(value) for value in found.values()))
    assert losses[1] < 1.2 * losses[0]
    norm = task.network.get_submodule("_blocks.3._bn0")
    assert isinstance(norm, nn.BatchNorm2d)
    assert not torch.equal(norm.running_var, torch.ones_like(norm.running_var))


def test_another_input_size_starts_from_the_same_weights():
    task = PipnetRecipe(init=LANDMARKS, size=128).build([AFW])
    start_from(task, LANDMARKS)
    assert task.spec.input.width == 128
    image = Normalise(task.spec.input)(torch.full((1, 128, 128, 3), 99, dtype=torch.uint8))
    assert task.network.eval()(image)[0].shape == (1, 68, 4, 4)


def test_neighbours_are_those_of_the_file_not_of_the_data(task):
    theirs = read_spec(create_backend("cpu", LANDMARKS), LANDMARKS).decoder_params
    assert task.spec.decoder_params["neighbours"] == theirs["neighbours"]
    fresh = PipnetRecipe(imagenet=False).build([AFW])
    assert fresh.spec.decoder_params["neighbours"] != theirs["neighbours"]


def test_without_neighbour_regression_none_is_averaged():
    task = PipnetRecipe(init=LANDMARKS, nrm=False).build([AFW])
    assert not any(task.spec.decoder_params["opinions"])


def test_a_mean_shape_is_the_one_that_displacements_were_learnt_from(tmp_path):
    # another data set has another mean: the same weights would place all points off by the rest
    first = RegressionRecipe(imagenet=False, architecture="mobilenet_v2", pose_bins=0).build([AFW])
    start = tmp_path / "start.safetensors"
    checkpoint.write(start, first.network.state_dict(), first.spec, {})
    recipe = RegressionRecipe(init=start, architecture="mobilenet_v2", pose_bins=0)
    second = recipe.build([SHARED / "data" / "landmarks68" / "helen_train"])
    shapes = [task.spec.decoder_params["mean_shape"] for task in (first, second)]
    assert shapes[0] == shapes[1]


def test_a_detector_too():
    # two of its normalisations are no part of a convolution in the file
    task = RetinaFaceMnet025(init=DETECTOR).build([SHARED / "data" / "scenes"])
    start_from(task, DETECTOR)
    names = {node.op_type for node in onnx.load(DETECTOR).graph.node}
    assert "BatchNormalization" in names
    file = onnx.load(DETECTOR)
    held = {entry.name: onnx.numpy_helper.to_array(entry) for entry in file.graph.initializer}
    state = task.network.state_dict()
    unfolded = [n for n in held if n.endswith("running_var")]
    assert unfolded
    for name in unfolded:
        assert np.array_equal(state[name.removeprefix("network.")].numpy(), held[name])


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        (PipnetRecipe(architecture="mobilenet_v2", imagenet=False), "pipnet on efficientnet_lite0"),
        (PipnetRecipe(neighbours=4, imagenet=False), "of another shape"),
        (MapnetRecipe(imagenet=False), "trains a mapnet"),
        (HihRecipe(imagenet=False, size=128), "trains a hih"),
    ],
)
def test_another_network_is_refused_by_name(recipe, said):
    task = recipe.build([AFW])
    with pytest.raises(CheckpointError, match=said):
        start_from(task, LANDMARKS)


def test_only_fp32_files_of_ours_are_started_from(task, tmp_path):
    model = onnx.load(LANDMARKS)
    spec = read_spec(create_backend("cpu", LANDMARKS), LANDMARKS)
    half = tmp_path / "half.onnx"
    save(to_fp16(model), dataclasses.replace(spec, precision="fp16"), half)
    with pytest.raises(CheckpointError, match="fp32"):
        start_from(task, half)
    with pytest.raises(CheckpointError, match="fp32"):
        start_from(task, resolve_model("pipnet_lite0_68_int8"))
    foreign = tmp_path / "foreign.onnx"
    del model.metadata_props[:]
    onnx.save(model, foreign)
    with pytest.raises(CheckpointError, match="no facemark spec"):
        start_from(task, foreign)
    (tmp_path / "text.onnx").write_text("no graph")
    with pytest.raises(CheckpointError, match="no readable ONNX"):
        start_from(task, tmp_path / "text.onnx")
    with pytest.raises(CheckpointError, match="no readable ONNX"):
        start_from(task, tmp_path / "absent.onnx")


def test_a_start_that_is_no_pipnet_has_no_neighbours():
    with pytest.raises((CheckpointError, TrainingError), match="retinaface"):
        PipnetRecipe(init=DETECTOR).build([AFW])


def same(task, path, side):
    """Whether a network computes what a file does, to rounding."""
    image = np.random.default_rng(0).integers(0, 256, (2, side, side, 3), np.uint8)
    wanted = create_backend("cpu", path).run({"image": image})
    task.network.eval()
    with torch.no_grad():
        found = task.network(Normalise(task.spec.input)(torch.from_numpy(image)))
    return all(
        np.abs(maps - ours.numpy()).max() < 1e-4 * np.abs(maps).max()
        for maps, ours in zip(wanted.values(), found, strict=True)
    )
