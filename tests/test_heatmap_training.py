"""The heatmap recipe: what it refuses, what its models say, that it learns, trains and exports."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from by_heart import STILL, nme_by_heart
from test_pipnet_training import write_folder

from facemark_export import checkpoint
from facemark_export.export import export_checkpoint
from facemark_export.training.heatmap_targets import continuous_maps
from facemark_export.training.heatmaps import ORIGIN, named_loss
from facemark_export.training.loop import Run
from facemark_export.training.loop_recipe import TrainingError
from facemark_export.training.recipes.heatmaps import HeatmapRecipe
from facemark_export.training.recipes.hih import HihRecipe
from facemark_export.training.recipes.subpixel import SubpixelRecipe
from facemark_export.training.sinkhorn import SinkhornSettings
from facemark_export.training.wasserstein import log_gaussians
from facemark_sdk import Detector, LandmarkModel

LOSSES = ("l2", "wasserstein", "js", "soft_argmax")
NETWORKS = {
    "hrnet": "hrnetv2_w18",
    "mapnet": "efficientnet_lite0",
    "hourglass": "hourglass1",
    "cpn": "resnet18",
}


# --- settings and specs ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sigma": 0.0}, "sigma must be a positive number of cells, got 0"),
        ({"sigma": -1.0}, "sigma"),
        ({"sigma": float("inf")}, "sigma"),
        ({"sigma": float("nan")}, "sigma"),
        ({"softmax_temperature": 0.0}, "softmax_temperature must be from"),
        ({"softmax_temperature": float("nan")}, "softmax_temperature must be from"),
        ({"family": "hourglass", "architecture": "hourglass1", "size": 96}, "multiple of 64"),
        ({"stride": 2}, "hrnet has stride 4"),
        ({"family": "hourglass", "architecture": "hourglass2", "stride": 2}, "hourglass has"),
        ({"family": "mapnet", "architecture": "resnet18", "stride": 8}, "stride 4 or 2 or 1"),
        ({"family": "mapnet", "architecture": "vgg"}, "vgg"),
        ({"family": "cpn", "architecture": "vgg"}, "vgg"),
        ({"architecture": "hrnetv2_w48"}, "hrnetv2_w48"),
        ({"size": 100}, "size"),
        ({"epochs": 0}, "epochs"),
    ],
)
def test_impossible_recipes_are_refused_by_name(settings, message):
    with pytest.raises(TrainingError, match=message):
        HeatmapRecipe(**settings)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("family", NETWORKS)
def test_a_spec_says_network_decoder_stride_and_origin(family, loss):
    spec = HeatmapRecipe(family=family, architecture=NETWORKS[family], loss=loss).model_spec()
    assert (spec.family, spec.architecture) == (family, NETWORKS[family])
    assert spec.decoder == ("quarter_shift" if loss == "l2" else "barycentre")
    assert spec.decoder_params["stride"] == 4
    assert spec.decoder_params["origin"] == ORIGIN
    assert spec.name == f"{family}_{NETWORKS[family]}_68"
    assert (spec.input.width, spec.crop.square) == (256, True)


FASTER = SinkhornSettings(iterations=5)
RIVAL = {"siamese": False, "window": 0}


@pytest.mark.parametrize(
    ("recipe", "setting", "useful", "useless"),
    [
        (HeatmapRecipe, {"sigma": 1.0}, {"loss": "js"}, {"loss": "soft_argmax"}),
        (HeatmapRecipe, {"softmax_temperature": 10.0}, {"loss": "soft_argmax"}, {"loss": "l2"}),
        (HeatmapRecipe, {"sinkhorn": FASTER}, {"loss": "wasserstein"}, {"loss": "js"}),
        (HeatmapRecipe, {"sinkhorn": FASTER}, {}, {"loss": "l2"}),
        (HihRecipe, {"offset_size": 4}, {"refinement": "wov"}, {"refinement": "wom"}),
        (HihRecipe, {"offset_size": 4}, {}, {"refinement": "argmax"}),
        (HihRecipe, {"loss": "mse"}, {}, {"refinement": "wov"}),
        (HihRecipe, {"labels": "hard"}, {"loss": "mse"}, {"refinement": "dark"}),
        (HihRecipe, {"decimal_sigma": 0.5}, {}, {"refinement": "wov"}),
        (HihRecipe, {"decimal_sigma": 0.5}, {"labels": "soft"}, {"labels": "hard"}),
        (HihRecipe, {"offset_weight": 0.1}, {"refinement": "wom"}, {"refinement": "wsm"}),
        (HihRecipe, {"offset_zeros": False}, {"refinement": "wom"}, {"refinement": "hih"}),
        (SubpixelRecipe, {"coordinate_weight": 0.1}, {"window": 3}, {"window": 0}),
        (SubpixelRecipe, {"temperature": 5.0}, {"window": 7}, {"window": 0}),
        (SubpixelRecipe, {"sigma": 1.0}, RIVAL, {**RIVAL, "loss": "soft_argmax"}),
        (SubpixelRecipe, {"softmax_temperature": 10.0}, {**RIVAL, "loss": "soft_argmax"}, {}),
        (SubpixelRecipe, {"sinkhorn": FASTER}, None, {}),
    ],
)
def test_settings_without_use_are_refused(recipe, setting, useful, useless):
    """They would make two recipes that train alike look different."""
    recipe(**useless)
    with pytest.raises(TrainingError, match=f"^{next(iter(setting))} has no use with "):
        recipe(**useless, **setting)
    if useful is not None:
        recipe(**useful, **setting)


READABLE = {
    "l2": ("argmax", "quarter_shift", "dark", "barycentre_sum"),
    **dict.fromkeys(
        ("wasserstein", "js", "soft_argmax"), ("argmax", "quarter_shift", "barycentre")
    ),
}


@pytest.mark.parametrize(("loss", "decoder"), [(x, d) for x in LOSSES for d in READABLE[x]])
def test_a_decoder_can_be_asked_for(loss, decoder):
    assert HeatmapRecipe(loss=loss, decoder=decoder).model_spec().decoder == decoder


@pytest.mark.parametrize(
    ("loss", "decoder"),
    [("l2", "barycentre"), *((x, d) for x in LOSSES[1:] for d in ("dark", "barycentre_sum"))],
)
def test_a_decoder_that_does_not_fit_the_loss_is_refused(loss, decoder):
    """A softmax of Gaussians' values is next to uniform; logits have no logarithm and no sum."""
    message = f"decoder {decoder} cannot read what loss {loss} makes; .*{READABLE[loss][0]}"
    with pytest.raises(TrainingError, match=message):
        HeatmapRecipe(loss=loss, decoder=decoder)


def test_mapnet_has_finer_maps_on_request():
    spec = HeatmapRecipe(family="mapnet", architecture="resnet18", stride=2).model_spec()
    assert spec.decoder_params["stride"] == 2


@pytest.mark.parametrize("loss", LOSSES)
def test_a_loss_is_least_at_maps_that_decode_to_the_truth(loss):
    """Moved by half a cell, or by a whole one, they cost more: loss and decoder share an origin."""
    points = torch.tensor([[[0.4, 0.55]]])
    cost = named_loss(loss, 1.5)

    def at(moved: float) -> float:
        there = points + moved / 16
        if loss == "l2":
            return cost(continuous_maps(there, 16, 1.5, origin=ORIGIN), points).item()
        return cost(log_gaussians(there, 16, 16, 1.5, origin=ORIGIN), points).item()

    assert at(0) < at(0.5) < at(1.0)
    assert at(0) < at(-0.5) < at(-1.0)
    assert at(0) == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss != "l2"])
def test_the_softmax_temperature_is_that_of_the_loss_and_of_the_decoder(loss):
    maps = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    points = torch.rand(2, 3, 2, generator=torch.Generator().manual_seed(1))
    hot = named_loss(loss, 1.0, temperature=10.0)(maps, points)
    torch.testing.assert_close(hot, named_loss(loss, 1.0)(10 * maps, points))
    spec = HeatmapRecipe(loss=loss, softmax_temperature=10.0).model_spec()
    assert spec.decoder_params["temperature"] == 10.0


# --- the recipe as a whole ------------------------------------------------------------------


@pytest.mark.shared
@pytest.mark.parametrize(("loss", "steps"), [("wasserstein", 100), ("js", 80), ("soft_argmax", 80)])
def test_eight_real_faces_are_learned_by_heart(monkeypatch, loss, steps):
    """The border cuts Gaussians off and moves barycentres: at this growth perfect maps of sigma 1
    are read to 0.1 %, of sigma 1.5 to 0.9 %."""
    recipe = HeatmapRecipe(
        family="hourglass",
        architecture="hourglass1",
        size=64,
        growth=1.3,
        loss=loss,
        softmax_temperature=3.0,
        augmentation=STILL,
        **({} if loss == "soft_argmax" else {"sigma": 1.0}),
    )
    assert nme_by_heart(monkeypatch, recipe, rate=2e-3, steps=steps) < 1.0


@pytest.mark.shared
def test_l2_learns_eight_real_faces_by_heart(monkeypatch):
    """DARK reads between cells, so 16 x 16 are enough; it needs two on all sides of a peak."""
    recipe = HeatmapRecipe(
        family="mapnet",
        architecture="resnet18",
        size=64,
        growth=1.5,
        loss="l2",
        sigma=1.0,
        decoder="dark",
        augmentation=STILL,
    )
    assert nme_by_heart(monkeypatch, recipe, rate=3e-3, steps=120) < 1.0


def test_a_recipe_trains_exports_with_parity_and_detects(tmp_path, photo):
    folder = write_folder(tmp_path / "set", [f"{n}_1.png" for n in range(12, 20)])
    recipe = HeatmapRecipe(
        family="mapnet",
        architecture="mobilenet_v2",
        size=64,
        loss="wasserstein",
        epochs=1,
        batch_size=6,
        workers=0,
        device="cpu",
    )
    out = tmp_path / "run"
    figures = Run(recipe.build([folder]), recipe, "test", out, resume=False).train()
    assert np.isfinite(figures["nme"])
    assert checkpoint.read(out / "best.safetensors").spec.decoder == "barycentre"
    report = export_checkpoint(out / "best.safetensors", tmp_path / "model.onnx")
    assert report.checks["fp32"].passed
    crops = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    found = LandmarkModel(tmp_path / "model.onnx", backend="cpu").predict_crops(crops)
    assert found.points.shape == (3, 68, 2)
    assert found.covariances.shape == (3, 68, 2, 2)
    (face,) = Detector(landmarks=tmp_path / "model.onnx", backend="cpu")(photo)
    assert face.landmarks.shape == (68, 2)
    assert face.landmark_covariances.shape == (68, 2, 2)
