"""Fine-tuning from an exported file: batch normalisations are taken out of its convolutions."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import SHARED
from torch import nn

from facemark_export import checkpoint
from facemark_export.export import export_checkpoint
from facemark_export.graph import ExportGraph
from facemark_export.networks.normalise import Normalise
from facemark_export.onnx_file import network_model, save, to_fp16
from facemark_export.training.cli import resumable
from facemark_export.training.loop import Run
from facemark_export.training.recipes.heatmaps import HeatmapRecipe
from facemark_export.training.recipes.hih import HihRecipe
from facemark_export.training.recipes.landmarks import TrainingError
from facemark_export.training.recipes.mapnet import MapnetRecipe
from facemark_export.training.recipes.pipnet import PipnetRecipe
from facemark_export.training.recipes.regression import RegressionRecipe
from facemark_export.training.recipes.retinaface_mnet025 import RetinaFaceMnet025
from facemark_export.training.recipes.subpixel import SubpixelRecipe
from facemark_export.training.start import start_from
from facemark_sdk.backends import create_backend
from facemark_sdk.errors import CheckpointError
from facemark_sdk.models import read_spec, resolve_model

AFW = SHARED / "data" / "landmarks68" / "afw"
LANDMARKS = resolve_model("pipnet_lite0_68")
DETECTOR = resolve_model("retinaface_mnet025")
BEFORE = "fine-tuned from a network trained on:"
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
    task = RetinaFaceMnet025(init=DETECTOR).build([SHARED / "data" / "scenes"])
    start_from(task, DETECTOR)
    task.spec = read_spec(create_backend("cpu", DETECTOR), DETECTOR)  # it moves the scores
    assert same(task, DETECTOR, 256)


def test_a_detector_may_start_from_one_that_leaks(tmp_path):
    """And what is made of it has plain ReLUs alone."""
    scenes = [SHARED / "data" / "scenes"]
    leaky = RetinaFaceMnet025(architecture="mobilenet0.25").build(scenes)
    published, ckpt, out = (tmp_path / name for name in ("leaky.safetensors", "best", "relu.onnx"))
    checkpoint.write(published, leaky.network.state_dict(), leaky.spec, {})
    task = RetinaFaceMnet025(init=published).build(scenes)
    start_from(task, published)
    started = task.network.state_dict()
    for name, tensor in leaky.network.state_dict().items():
        assert torch.equal(started[name], tensor)
    checkpoint.write(ckpt, started, task.spec, {})
    export_checkpoint(ckpt, out)
    operators = {node.op_type for node in onnx.load(out).graph.node}
    assert "Relu" in operators
    assert "LeakyRelu" not in operators


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        (
            PipnetRecipe(architecture="mobilenet_v2", imagenet=False),
            "pipnet on mobilenet_v2",
        ),
        (PipnetRecipe(neighbours=4, imagenet=False), "of another shape"),
        (MapnetRecipe(imagenet=False), r"is a pipnet .* trains a mapnet"),
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
    for start in (half, Path("pipnet_lite0_68_int8")):
        with pytest.raises(CheckpointError, match=r"--init .* fp32"):
            start_from(task, start)
    foreign = tmp_path / "foreign.onnx"
    del model.metadata_props[:]
    onnx.save(model, foreign)
    (tmp_path / "text.onnx").write_text("no graph")
    for name, said in (
        ("foreign.onnx", "no facemark spec"),
        ("text.onnx", "damaged or no ONNX"),
        ("absent.onnx", "cannot be read"),
        ("absent.safetensors", "no checkpoint at"),
    ):
        with pytest.raises(CheckpointError, match=said) as raised:
            start_from(task, tmp_path / name)
        assert "another network" not in str(raised.value)


def test_a_start_of_another_kind_or_layout_is_refused_before_training():
    with pytest.raises(CheckpointError, match="is a retinaface"):
        PipnetRecipe(init=DETECTOR).build([AFW])
    with pytest.raises(CheckpointError, match=r"for ibug68, .* for wflw98"):
        PipnetRecipe(init=LANDMARKS, layout="wflw98").model_spec(np.zeros((98, 2)))
    with pytest.raises(TrainingError, match="displacement"):
        RegressionRecipe(init=LANDMARKS, displacement=False)


def test_terms_of_the_start_hold(task):
    theirs = read_spec(create_backend("cpu", LANDMARKS), LANDMARKS)
    assert task.spec.licence == theirs.licence
    assert task.spec.training_data.startswith(f"unstated; {BEFORE} HELEN")
    stated = PipnetRecipe(init=LANDMARKS, training_data="mine", licence="own")
    spec = stated.model_spec(np.random.default_rng(0).random((68, 2)))
    assert spec.licence == "own"
    assert spec.training_data == f"mine; {BEFORE} {theirs.training_data}"


def test_a_run_goes_on_without_what_it_started_from(tmp_path):
    start, out = tmp_path / "start.onnx", tmp_path / "run"
    shutil.copy(LANDMARKS, start)
    recipe = PipnetRecipe(init=start, size=64, epochs=1, workers=0, batch_size=8, threads=1)
    run = Run(recipe.build([AFW]), recipe, "pipnet", out, resume=False)
    run._save()
    start.unlink()
    again = resumable(recipe, out)
    task = again.build([AFW])
    assert task.spec == run.task.spec
    Run(task, recipe, "pipnet", out, resume=True)


NETWORKS = [
    HeatmapRecipe(size=64, imagenet=False),  # HRNet: convolutions with biases before norms
    HeatmapRecipe(family="mapnet", architecture="resnet18", size=64, imagenet=False),
    HeatmapRecipe(family="cpn", architecture="resnet18", size=64, imagenet=False),
    HeatmapRecipe(family="mapnet", architecture="resnet18_coordconv", size=64, imagenet=False),
    PipnetRecipe(architecture="resnet18", stride=64, size=128, imagenet=False),
    RegressionRecipe(architecture="mobilenet_v2", size=64, imagenet=False),
    HihRecipe(size=128, imagenet=False),
]


@pytest.mark.parametrize(
    "recipe", NETWORKS, ids=lambda recipe: f"{type(recipe).__name__} {recipe.architecture}"
)
def test_every_family_comes_back_from_its_file(recipe, tmp_path):
    torch.manual_seed(0)
    task = recipe.build([AFW])
    with torch.no_grad():  # nothing at its usual start, so that nothing may be mistaken
        for name, tensor in task.network.state_dict().items():
            if name.endswith(("bias", "running_mean")):
                tensor.uniform_(-0.3, 0.3)
            elif name.endswith("running_var"):
                tensor.uniform_(0.5, 2.0)
    path = tmp_path / "network.onnx"
    task.network.eval()
    save(network_model(ExportGraph(task.network, task.spec).eval(), task.spec), task.spec, path)
    fresh = recipe.build([AFW])
    start_from(fresh, path)
    assert same(fresh, path, task.spec.input.width)


def test_normalisations_before_convolutions_are_not_kept_and_that_is_said(tmp_path):
    recipe = SubpixelRecipe(architecture="hourglass1_hierarchical")
    task = recipe.build([AFW])
    path = tmp_path / "network.onnx"
    task.network.eval()
    save(network_model(ExportGraph(task.network, task.spec).eval(), task.spec), task.spec, path)
    with pytest.raises(CheckpointError, match="start from the checkpoint"):
        start_from(task, path)


def same(task, path, side):
    """Whether a network computes what a file does, to rounding."""
    image = np.random.default_rng(0).integers(0, 256, (2, side, side, 3), np.uint8)
    wanted = create_backend("cpu", path).run({"image": image})
    with torch.no_grad():
        found = ExportGraph(task.network, task.spec).eval()(torch.from_numpy(image))
    return all(
        np.abs(maps - ours.numpy()).max() < 1e-4 * np.abs(maps).max()
        for maps, ours in zip(wanted.values(), found, strict=True)
    )
