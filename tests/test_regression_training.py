"""Training direct regression: anisotropic paper; CoordNet, PIPNet paper section 4.3.1."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import numpy as np
import pytest
import torch
from by_heart import STILL, nme_by_heart
from test_pipnet_training import write_folder

from facemark_export import checkpoint
from facemark_export.export import export_checkpoint
from facemark_export.making import Form
from facemark_export.networks.architecture import Architecture, architecture_of, build
from facemark_export.networks.identify import identify
from facemark_export.networks.normalise import Normalise
from facemark_export.networks.regression import build_regression
from facemark_export.networks.trunks import TRUNKS
from facemark_export.networks.weights import shapes_of
from facemark_export.source import Choices, read_source
from facemark_export.training.anisotropic import weight_matrices
from facemark_export.training.augment import crop_matrix, into_crop, square_around
from facemark_export.training.loop import Run
from facemark_export.training.loop_recipe import TrainingError
from facemark_export.training.pose_balance import mean_of_bin_means, pose_bins
from facemark_export.training.recipes import RECIPES
from facemark_export.training.recipes.regression import RegressionRecipe
from facemark_sdk import Detector, LandmarkModel
from facemark_sdk.errors import CheckpointError, ModelError

ANISOTROPIC = RECIPES["anisotropic_lite0_68"][1]
COORDNET = RECIPES["coordnet_r18_68"][1]
SMALL = RegressionRecipe(
    epochs=2,
    batch_size=8,
    imagenet=False,
    size=32,
    precision="float32",
    workers=0,
    threads=1,
    device="cpu",
    checkpoint_minutes=0.0,  # saves after every batch
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Forty drawn faces."""
    return write_folder(tmp_path_factory.mktemp("data") / "set", [f"{n}_1.png" for n in range(40)])


def shapes_in_crops(faces, growth=1.3):
    return np.stack(
        [into_crop(f.points, crop_matrix(square_around(f.points, growth), 1)) for f in faces]
    )


# --- networks -------------------------------------------------------------------------------


@pytest.mark.parametrize("trunk", sorted(TRUNKS))
@pytest.mark.parametrize("family", ["regression", "coordnet"])
def test_networks_give_two_numbers_a_landmark_and_are_told_from_their_tensors(family, trunk):
    architecture = Architecture(family, trunk, 7)
    network = build(architecture).eval()
    with torch.inference_mode():
        assert network(torch.zeros(2, 3, 64, 64)).shape == (2, 14)
    assert identify(shapes_of(network.state_dict())) == architecture


def test_coordnet_has_the_papers_three_layers():
    network = build_regression("coordnet", "resnet18", 68)
    layers = [*network.hidden, network.regressor]
    assert [layer.out_features for layer in layers] == [512, 512, 2 * 68]
    assert layers[0].in_features == 512  # ResNet-18's pooled features
    direct = build_regression("regression", "resnet18", 68)
    assert len(direct.hidden) == 0


def test_fresh_networks_are_near_their_mean_shape():
    torch.manual_seed(0)
    for family in ("regression", "coordnet"):
        network = build_regression(family, "resnet18", 68).eval()
        with torch.inference_mode():
            assert network(torch.randn(4, 3, 64, 64)).abs().max() < 0.2


def test_coordinates_are_not_rounded_to_bfloat16():
    torch.manual_seed(0)
    network = build_regression("coordnet", "efficientnet_lite0", 68).eval()
    torch.nn.init.constant_(network.regressor.bias, 0.501)
    torch.nn.init.zeros_(network.regressor.weight)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        found = network(torch.randn(1, 3, 32, 32))
    torch.testing.assert_close(found, torch.full_like(found, 0.501))


@pytest.mark.parametrize(
    ("trunk", "landmarks", "message"), [("vgg", 68, "resnet18"), ("resnet18", 0, "landmark")]
)
def test_impossible_networks_are_refused(trunk, landmarks, message):
    with pytest.raises(ModelError, match=message):
        build_regression("regression", trunk, landmarks)


@pytest.mark.parametrize("rows", [0, 1, 135, 10**9])
def test_a_head_of_no_landmarks_is_refused(rows):
    shapes = {"trunk.layer1.0.conv1.weight": (64, 64, 3, 3), "regressor.weight": (rows, 512)}
    with pytest.raises(CheckpointError, match="regressor"):
        identify(shapes)


def test_bare_weights_are_refused_for_what_they_do_not_say(tmp_path):
    path = tmp_path / "weights.pt"
    torch.save(build_regression("regression", "resnet18", 68).state_dict(), path)
    with pytest.raises(CheckpointError, match=r"best\.safetensors"):
        read_source(path, Choices())


# --- the task -------------------------------------------------------------------------------


def test_a_batch_holds_displacements_and_matrices_of_the_augmented_points(folder):
    task = replace(SMALL, augmentation=STILL).build([folder])
    batch = task.make_batch(np.array([3, 1]), np.random.default_rng(0))
    mean = np.float32(task.spec.decoder_params["mean_shape"])
    shapes = shapes_in_crops(task.faces)[[3, 1]]
    np.testing.assert_allclose(batch["displacement"].numpy(), shapes - mean, atol=1e-5)
    expected = weight_matrices(shapes, "ibug68")
    np.testing.assert_allclose(batch["weights"].numpy(), expected, atol=1e-4)
    turned = replace(SMALL, augmentation=replace(STILL, rotate=30.0)).build([folder])
    batch = turned.make_batch(np.arange(8), np.random.default_rng(0))
    assert batch["weights"].shape == (8, 68, 2, 2)
    points = batch["displacement"].numpy() + mean
    np.testing.assert_allclose(
        batch["weights"].numpy(), weight_matrices(points, "ibug68"), atol=1e-4
    )


def test_other_losses_carry_no_matrices(folder):
    task = replace(SMALL, loss="wing").build([folder])
    assert set(task.make_batch(np.arange(2), np.random.default_rng(0))) == {"image", "displacement"}


def test_the_loss_is_of_the_errors_in_the_crop(folder):
    task = replace(SMALL, loss="l2").build([folder])
    batch = task.make_batch(np.arange(4), np.random.default_rng(0))
    outputs = torch.randn(4, 136, generator=torch.Generator().manual_seed(0))
    points = batch["displacement"] + torch.tensor(task.mean_shape)
    total = 0.0
    for n in range(4):
        for i in range(68):
            found = outputs[n, 2 * i : 2 * i + 2].numpy() + task.mean_shape[i]
            total += float(((found - points[n, i].numpy()) ** 2).sum())
    losses = task.losses(outputs.bfloat16().float(), batch)
    assert losses.keys() == {"l2"}
    assert losses["l2"].item() == pytest.approx(total / (4 * 68), rel=1e-2)


def test_a_perfect_network_validates_at_zero(folder):
    task = replace(SMALL, loss="l1").build([folder])
    truths = shapes_in_crops(task.held_out) - task.mean_shape
    figures = task.validate(lambda images: torch.from_numpy(truths.reshape(len(images), -1)))
    assert figures["nme"] == pytest.approx(0, abs=1e-3)


def test_pose_bins_balance_the_epoch_and_make_the_mean_shape(folder):
    task = SMALL.build([folder])
    shapes = shapes_in_crops(task.faces)
    bins = pose_bins(shapes, 9)
    mean = task.spec.decoder_params["mean_shape"]
    np.testing.assert_allclose(mean, mean_of_bin_means(shapes, bins), atol=1e-6)
    counts = np.bincount(bins[task.epoch_indices(np.random.default_rng(0))], minlength=9)
    assert len(set(counts[np.bincount(bins, minlength=9) > 0].tolist())) == 1
    assert len(task) == counts.sum()


def test_without_bins_every_face_is_seen_once_about_the_mean_of_all(folder):
    task = replace(SMALL, pose_bins=0).build([folder])
    mean = shapes_in_crops(task.faces).mean(axis=0, dtype=np.float64)
    np.testing.assert_allclose(task.spec.decoder_params["mean_shape"], mean, atol=1e-6)
    order = task.epoch_indices(np.random.default_rng(0))
    assert sorted(order.tolist()) == list(range(len(task.faces)))


def test_without_displacement_the_coordinates_themselves_are_regressed(folder):
    task = replace(SMALL, displacement=False, augmentation=STILL).build([folder])
    assert not np.any(task.spec.decoder_params["mean_shape"])
    batch = task.make_batch(np.array([2]), np.random.default_rng(0))
    np.testing.assert_allclose(batch["displacement"][0], shapes_in_crops(task.faces)[2], atol=1e-5)


# --- the recipes as a whole -----------------------------------------------------------------


@pytest.mark.shared
@pytest.mark.parametrize("recipe", [ANISOTROPIC, COORDNET], ids=lambda recipe: recipe.head)
def test_eight_real_faces_are_learned_by_heart(monkeypatch, recipe):
    small = replace(
        recipe, architecture="resnet18", imagenet=False, size=64, pose_bins=0, augmentation=STILL
    )
    assert nme_by_heart(monkeypatch, small, rate=1e-3, steps=60) < 1.0


class Cut(Exception):
    """As if the process were killed."""


def fresh(folder):
    torch.manual_seed(0)
    return SMALL.build([folder])


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    Run(fresh(folder), SMALL, "anisotropic_lite0_68", out, resume=False).train()
    return out


@pytest.mark.parametrize("stop_at", [3, 7])
def test_a_killed_and_resumed_run_ends_like_an_uninterrupted_one(
    folder, trained, tmp_path, stop_at
):
    task, calls = fresh(folder), 0
    losses = task.losses

    def failing(outputs, batch):
        nonlocal calls
        calls += 1
        if calls == stop_at:
            raise Cut
        return losses(outputs, batch)

    task.losses = failing
    with pytest.raises(Cut):
        Run(task, SMALL, "anisotropic_lite0_68", tmp_path / "run", resume=False).train()
    torch.manual_seed(9)  # what is drawn now must not matter
    task = SMALL.build([folder])
    Run(task, SMALL, "anisotropic_lite0_68", tmp_path / "run", resume=True).train()
    whole = checkpoint.read(trained / "last.safetensors").weights
    cut = checkpoint.read(tmp_path / "run" / "last.safetensors").weights
    assert whole.keys() == cut.keys()
    for key, value in whole.items():
        assert torch.equal(value, cut[key]), key


@pytest.mark.parametrize("decode", ["numpy", "graph"])
def test_a_trained_network_exports_with_parity_and_runs_in_the_detector(
    trained, tmp_path, photo, decode
):
    out = tmp_path / "model.onnx"
    report = export_checkpoint(trained / "best.safetensors", out, form=Form(decode=decode))
    assert report.to_dict()["passed"]
    stored = checkpoint.read(trained / "best.safetensors")
    network = build(architecture_of(stored.spec)).eval()
    network.load_state_dict(dict(stored.weights))
    crops = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    with torch.inference_mode():
        moved = network(Normalise(stored.spec.input)(torch.from_numpy(crops))).numpy()
    expected = (np.float32(stored.spec.decoder_params["mean_shape"]) + moved.reshape(3, 68, 2)) * 32
    model = LandmarkModel(out, backend="cpu", threads=1)
    found = model.predict_crops(crops)
    np.testing.assert_allclose(found.points, expected, atol=1e-3)
    assert (found.scores == 1).all()
    (face,) = Detector(landmarks=out, backend="cpu", threads=1)(photo)
    assert face.landmarks.shape == (68, 2)
    again = model.predict(photo, face.bbox[None])
    np.testing.assert_allclose(face.landmarks, again.points[0], atol=0.05)


@pytest.mark.parametrize("head", ["regression", "coordnet"])
def test_the_spec_tells_the_network(head):
    recipe = RegressionRecipe(head=head, architecture="resnet18")
    spec = recipe.model_spec(np.full((68, 2), 0.5))
    assert architecture_of(spec) == Architecture(head, "resnet18", 68)
    assert spec.decoder == "regression"
    assert dataclasses.asdict(spec.crop)["left"] == pytest.approx(0.15)


@pytest.mark.parametrize(
    "setting",
    [
        {"across": 0.0},
        {"across": 6.0},
        {"along": float("inf")},
        {"along": float("nan")},
        {"pose_bins": -1},
        {"weights": (1.0, 0.5)},
        {"layout": "kps5"},
        {"architecture": "vgg"},
    ],
)
def test_impossible_recipes_are_refused_by_name(setting):
    with pytest.raises(TrainingError, match=next(iter(setting))):
        RegressionRecipe(**setting)


def test_weights_and_layouts_without_curves_are_for_other_settings():
    RegressionRecipe(weights=(1.0, 0.5), pose_bins=0)
    RegressionRecipe(layout="kps5", loss="wing")
