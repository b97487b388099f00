"""HIH: heads on any trunk, losses, recipes; WOV, WOM, WSM and DARK of the paper's appendix."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from by_heart import STILL, nme_by_heart
from heatmap_samples import spec_of
from hypothesis import given, settings
from hypothesis import strategies as st
from test_heatmap_targets import loop_patch
from test_pipnet_training import write_folder

from facemark_export import checkpoint
from facemark_export.export import export_checkpoint
from facemark_export.networks import build_network
from facemark_export.networks.architecture import Architecture, architecture_of, build
from facemark_export.networks.hih_trunk import build_with_offsets
from facemark_export.networks.identify import identify
from facemark_export.networks.weights import shapes_of
from facemark_export.training.heatmap_targets import decimal_maps, rounded_maps
from facemark_export.training.hih import (
    decimal_loss,
    integer_loss,
    named_offset_loss,
    offset_map_loss,
    offset_value_loss,
    places,
)
from facemark_export.training.loop import Run
from facemark_export.training.loop_recipe import TrainingError
from facemark_export.training.recipes import RECIPES
from facemark_export.training.recipes.hih import DECODERS, HihRecipe
from facemark_sdk import Detector, LandmarkModel
from facemark_sdk.decode import make_decoder
from facemark_sdk.errors import ModelError

G, M, SIGMA = 8, 4, 1.5


def drawn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture
def points():
    """Two faces; some landmarks lie outside the crop, two lie in one cell."""
    points = np.random.default_rng(3).uniform(-0.1, 1.1, (2, 5, 2)).astype(np.float32)
    points[:, 1:3] = [[2.25 / G, 5.5 / G], [2.75 / G, 5.125 / G]]
    return points


def loop_cell(x, y):
    """Column and row of the cell that holds a point, at the border for one outside."""
    return [min(max(math.floor(p * G), 0), G - 1) for p in (x, y)]


def loop_place(x, y):
    """Where in that cell it lies, 0 to 1."""
    c, r = loop_cell(x, y)
    return [min(max(x * G - c, 0.0), 1.0), min(max(y * G - r, 0.0), 1.0)]


# --- losses ---------------------------------------------------------------------------------


@pytest.mark.parametrize("stages", [0, 1, 3])
def test_the_integer_loss_is_the_mean_square_error_of_all_stages(points, stages):
    heatmaps = drawn(2, *((stages,) if stages else ()), 5, G, G)
    expected = 0.0
    for maps in heatmaps.unbind(1) if stages else [heatmaps]:
        for n in range(2):
            for k in range(5):
                truth = loop_patch(*loop_cell(*points[n, k].tolist()), G, SIGMA)
                expected += ((maps[n, k].numpy() - truth) ** 2).sum()
    expected /= max(1, stages) * 2 * 5 * G * G
    found = integer_loss(heatmaps, torch.from_numpy(points), SIGMA)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def loop_softmax(values):
    raised = [math.exp(v) for v in values]
    return [v / sum(raised) for v in raised]


@pytest.mark.parametrize("labels", ["soft", "hard"])
@pytest.mark.parametrize("loss", ["mse", "csc"])
def test_the_decimal_loss_is_the_papers(points, loss, labels):
    offsets = drawn(2, 1, 5, M, M)
    expected = 0.0
    for n in range(2):
        for k in range(5):
            place = loop_place(*points[n, k].tolist())
            c, r = (round(p * M) for p in place)
            if labels == "hard":
                truth = np.zeros((M, M))
                truth[min(r, M - 1), min(c, M - 1)] = 1
            else:
                truth = loop_patch(c, r, M, 1.0)
            values, truth = offsets[n, 0, k].double().numpy().ravel(), truth.ravel()
            if loss == "mse":
                expected += ((values - truth) ** 2).sum()
                continue
            p = truth if labels == "hard" else loop_softmax(truth)
            q = loop_softmax(values)
            expected += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a)
    expected /= 2 * 5 * M * M
    truth = torch.from_numpy(points)
    found = decimal_loss(offsets, truth, G, loss=loss, labels=labels, sigma=1.0)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_csc_is_zero_for_the_target_itself_whatever_is_added_to_it(points):
    truth = torch.from_numpy(points)
    maps = decimal_maps(truth, G, M, 1.0) + 7
    assert decimal_loss(maps, truth, G, loss="csc", labels="soft", sigma=1.0).abs() < 1e-7


def test_offset_values_have_a_smooth_l1(points):
    offsets = 2 * drawn(2, 5, 2)
    expected = 0.0
    for n in range(2):
        for k in range(5):
            for value, true in zip(offsets[n, k], loop_place(*points[n, k].tolist()), strict=True):
                error = abs(value.item() - true)
                expected += (0.5 * error**2 if error < 1 else error - 0.5) / (2 * 5 * 2)
    found = offset_value_loss(offsets, torch.from_numpy(points), G)
    assert found.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("zeros", [True, False])
def test_offset_maps_are_taught_the_mean_place_of_a_cells_landmarks(points, zeros):
    offsets = 2 * drawn(2, 1, 2, G, G)
    errors = []
    for n in range(2):
        inside = {}
        for x, y in points[n].tolist():
            inside.setdefault(tuple(loop_cell(x, y)), []).append(loop_place(x, y))
        assert max(map(len, inside.values())) == 2
        for r in range(G):
            for c in range(G):
                if not zeros and (c, r) not in inside:
                    continue
                true = np.mean(inside.get((c, r), [[0.0, 0.0]]), axis=0)
                for axis in range(2):
                    error = abs(offsets[n, 0, axis, r, c].item() - true[axis])
                    errors.append(0.5 * error**2 if error < 1 else error - 0.5)
    found = offset_map_loss(offsets, torch.from_numpy(points), G, zeros=zeros)
    assert found.item() == pytest.approx(np.mean(errors), rel=1e-5)


@pytest.mark.parametrize(
    ("shape", "loss"),
    [
        ((2, 2, 5, G, G), lambda x, p: integer_loss(x, p, SIGMA)),
        *(
            (
                (2, 1, 5, M, M),
                lambda x, p, loss=loss, labels=labels: decimal_loss(
                    x, p, G, loss=loss, labels=labels, sigma=1.0
                ),
            )
            for loss in ("mse", "csc")
            for labels in ("soft", "hard")
        ),
        ((2, 5, 2), lambda x, p: offset_value_loss(x, p, G)),
        ((2, 1, 2, G, G), lambda x, p: offset_map_loss(x, p, G, zeros=True)),
        ((2, 1, 2, G, G), lambda x, p: offset_map_loss(x, p, G, zeros=False)),
    ],
)
def test_gradients_are_right(points, shape, loss):
    """Against finite differences, in float64."""
    truth = torch.from_numpy(points).double()
    outputs = drawn(*shape, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, truth), outputs, fast_mode=True)


def test_bfloat16_outputs_have_losses_in_float32(points):
    truth = torch.from_numpy(points)
    assert integer_loss(drawn(2, 5, G, G).bfloat16(), truth, SIGMA).dtype == torch.float32
    for family, shape in (("hih", (5, M, M)), ("wov", (5, 2)), ("wom", (2, G, G))):
        loss = named_offset_loss(family, loss="csc", labels="soft", sigma=1.0, zeros=True)
        assert loss(drawn(2, *shape).bfloat16(), truth, G).dtype == torch.float32


# --- targets and decoders -------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 4, 8, 16]))
def test_true_maps_are_read_to_within_the_decoders_quantum(seed, inner):
    """Half a cell of the decimal map, a whole one before the next cell, where rounding loses it.

    Arg-max leaves half a cell of the integer map, a regressed value nothing.
    """
    side = 16
    points = torch.from_numpy(np.random.default_rng(seed).uniform(0, 1, (2, 9, 2)).astype("f4"))
    heatmaps = rounded_maps(points, side, SIGMA, quantise="floor")
    outputs = {"heatmaps": heatmaps.numpy(), "offset_values": places(points, side).numpy()}
    outputs["offsets"] = decimal_maps(points, side, inner, 1.0).numpy()
    kept = outputs["offset_values"] * inner < inner - 0.5
    quanta = {
        "hih": np.where(kept, 0.5, 1.0) / inner,
        "argmax": 0.5,
        "offset_value": 0.0,
    }
    for decoder, quantum in quanta.items():
        params = {"origin": 0.5} if decoder == "argmax" else {}
        found = make_decoder(spec_of(decoder, **params))(outputs).points
        assert (np.abs(found - points.numpy()) * side <= quantum + 1e-4).all()


# --- networks -------------------------------------------------------------------------------


def sized(refinement):
    """The offsets' side that fits small inputs, for refinements that have one."""
    return {"offset_size": 4} if refinement in ("hih", "wov") else {}


@pytest.mark.parametrize("name", ["efficientnet_lite0", "hourglass2"])
@pytest.mark.parametrize("refinement", ["hih", "wov", "wom", "argmax"])
def test_every_network_is_known_by_its_tensors_and_by_its_spec(name, refinement):
    recipe = HihRecipe(architecture=name, size=128, refinement=refinement, **sized(refinement))
    architecture = architecture_of(recipe.model_spec())
    with torch.device("meta"):
        network = build(architecture).eval()
        outputs = network(torch.zeros(2, 3, 128, 128))
    assert identify(shapes_of(network.state_dict())) == architecture
    stacks = int(name[-1]) if name.startswith("hourglass") else 1
    if refinement not in ("hih", "wov", "wom"):
        assert outputs.shape[-3:] == (68, 32, 32)
        return
    assert outputs[0].shape == (2, stacks, 68, 32, 32)
    assert (
        outputs[1].shape
        == {
            "hih": (2, 1, 68, 4, 4),
            "wov": (2, 68, 2),
            "wom": (2, 1, 2, 32, 32),
        }[refinement]
    )


@pytest.mark.parametrize(("side", "sizes"), [(128, (2, 4, 8)), (256, (2, 4, 8, 16)), (96, (3, 6))])
def test_decimal_maps_have_the_size_that_the_spec_states(side, sizes):
    for size in sizes:
        spec = HihRecipe(size=side, offset_size=size).model_spec()
        with torch.device("meta"):
            _, offsets = build_network(spec).eval()(torch.zeros(1, 3, side, side))
        assert offsets.shape == (1, 1, 68, size, size)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        (("hih", "vgg", 7, 8), "unknown HIH architecture 'vgg'.*resnet18"),
        (("wov", "hourglass0", 7, 8), "hourglass0"),
        (("hih", "resnet18", 0, 8), "landmarks >= 1"),
        (("hih", "hourglass17", 7, 8), r"stacks in 1\.\.16"),
        (("hih", "resnet18", 7, 32), "offset_size among"),
        (("wov", "resnet18", 7, 2), "offset_size among"),
        (("wom", "resnet18", 7, 8), "offset_size among"),
    ],
)
def test_impossible_networks_are_refused(numbers, message):
    with pytest.raises(ModelError, match=message):
        build_with_offsets(*numbers)


def test_names_and_stacks_must_agree():
    with pytest.raises(ModelError, match="resnet18"):
        build(Architecture("hih", "resnet18", 7, stacks=1, offset_size=8))


def test_a_spec_whose_maps_do_not_fit_its_input_is_refused():
    spec = HihRecipe(size=128, offset_size=4).model_spec()
    for width in (0, 96):
        other = dataclasses.replace(spec.input, width=width, height=width)
        with pytest.raises(ModelError, match="do not fit"):
            architecture_of(dataclasses.replace(spec, input=other))


# --- recipes --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"architecture": "vgg"}, "architecture"),
        ({"architecture": "vgg", "refinement": "dark"}, "architecture"),
        ({"architecture": "hourglass1", "size": 96, "offset_size": 6}, "size must be a multiple"),
        ({"size": 128, "offset_size": 16}, r"offset_size must be among \[2, 4, 8\]"),
        ({"size": 128, "offset_size": 2, "refinement": "wov"}, r"among \[4, 8\]"),
        ({"size": 96, "refinement": "wov"}, "take a size"),
        ({"offset_size": 0}, "offset_size"),
        ({"sigma": 0.0}, "sigma"),
        ({"decimal_sigma": float("nan")}, "decimal_sigma"),
        ({"offset_weight": float("inf")}, "offset_weight"),
        ({"offset_weight": 0.0}, "offset_weight"),
    ],
)
def test_impossible_recipes_are_refused_by_name(setting, message):
    with pytest.raises(TrainingError, match=message):
        HihRecipe(**setting)


@pytest.mark.parametrize(
    ("refinement", "family", "decoder"),
    [
        ("hih", "hih", "hih"),
        ("wov", "wov", "offset_value"),
        ("wom", "wom", "offset_map"),
        ("argmax", "mapnet", "argmax"),
        ("wsm", "mapnet", "quarter_shift"),
        ("dark", "mapnet", "dark"),
    ],
)
def test_the_spec_says_what_refines_the_cell(refinement, family, decoder):
    spec = HihRecipe(refinement=refinement).model_spec()
    assert (spec.family, spec.decoder) == (family, decoder)
    assert spec.decoder_params.get("origin") == (0.5 if family == "mapnet" else None)
    deep = HihRecipe(refinement=refinement, architecture="hourglass2").model_spec()
    assert deep.family == (family if family != "mapnet" else "hourglass")


@pytest.mark.parametrize(
    ("name", "stacks", "millions"), [("tiny", 1, 10.37), ("small", 2, 14.47), ("base", 4, 22.68)]
)
def test_the_papers_recipes(name, stacks, millions):
    """Section IV-A3 and Table I."""
    recipe = RECIPES[f"hih_{name}"][1]
    assert (recipe.architecture, recipe.offset_weight) == (f"hourglass{stacks}", None)
    assert (recipe.layout, recipe.size, recipe.offset_size) == ("wflw98", 256, 8)
    assert (recipe.sigma, recipe.decimal_sigma, recipe.loss) == (1.5, 1.0, "csc")
    assert (recipe.epochs, recipe.milestones, recipe.batch_size) == (60, (30, 50), 16)
    assert recipe.learning_rate == 5e-6
    with torch.device("meta"):
        network = build_network(recipe.model_spec())
    numbers = sum(p.numel() for p in network.parameters())
    assert round(numbers / 1e6, 2) == millions


def tiny(refinement="hih", **changes):
    return HihRecipe(
        **{
            "refinement": refinement,
            "architecture": "mobilenet_v2",
            "imagenet": False,
            "size": 64,
            "epochs": 1,
            "batch_size": 6,
            "workers": 0,
            "device": "cpu",
            **sized(refinement),
            **changes,
        }
    )


@pytest.mark.parametrize(
    ("recipe", "weight"),
    [
        (tiny(), 0.1),
        (tiny(architecture="hourglass1"), 0.1),
        (tiny(architecture="hourglass2"), 0.05),
        (tiny(architecture="hourglass4"), 0.05),
        (tiny(loss="mse"), 0.001),
        (tiny("wov"), 0.001),
        (tiny("wom"), 0.001),
        (tiny(offset_weight=0.3), 0.3),
    ],
)
def test_offsets_weigh_what_the_paper_says_where_nothing_else_is_asked_for(
    tmp_path, recipe, weight
):
    """Section IV-A3, for CSC; the other losses are ours to weigh."""
    folder = write_folder(tmp_path / "set", [f"{n}_1.png" for n in range(12, 20)])
    assert recipe.build([folder]).offset_weight == weight


@pytest.mark.parametrize("refinement", ["hih", "wov", "wom"])
def test_a_recipe_trains_exports_with_parity_and_detects(tmp_path, photo, refinement):
    folder = write_folder(tmp_path / "set", [f"{n}_1.png" for n in range(12, 20)])
    recipe = tiny(refinement)
    task = recipe.build([folder])
    batch = task.make_batch(np.arange(2), np.random.default_rng(0))
    assert set(batch) == {"image", "points"}
    out = tmp_path / "run"
    figures = Run(task, recipe, "test", out, resume=False).train()
    assert np.isfinite(figures["nme"])
    best = checkpoint.read(out / "best.safetensors")
    assert best.spec.decoder == DECODERS[refinement]
    assert build_network(best.spec).state_dict().keys() == best.weights.keys()
    report = export_checkpoint(out / "best.safetensors", tmp_path / "model.onnx")
    assert report.checks["fp32"].passed
    crops = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    found = LandmarkModel(tmp_path / "model.onnx", backend="cpu").predict_crops(crops)
    assert found.points.shape == (3, 68, 2)
    (face,) = Detector(landmarks=tmp_path / "model.onnx", backend="cpu")(photo)
    assert face.landmarks.shape == (68, 2)


def test_hourglasses_train_on_every_stack_and_on_the_offsets(tmp_path):
    folder = write_folder(tmp_path / "set", [f"{n}_1.png" for n in range(12, 20)])
    task = tiny(architecture="hourglass2").build([folder])
    batch = task.make_batch(np.arange(2), np.random.default_rng(0))
    outputs = task.network(batch["image"].permute(0, 3, 1, 2) / 255)
    losses = task.losses(outputs, batch)
    truth = batch["points"]
    heatmaps, offsets = outputs
    alone = decimal_loss(offsets, truth, 16, loss="csc", labels="soft", sigma=1.0)
    assert losses["integer"].item() == pytest.approx(integer_loss(heatmaps, truth, 1.5).item())
    assert losses["offset"].item() == pytest.approx(0.05 * alone.item())
    torch.stack([*losses.values()]).sum().backward()
    unused = [n for n, p in task.network.named_parameters() if p.requires_grad and p.grad is None]
    assert unused == []


@pytest.mark.parametrize("refinement", ["argmax", "wsm", "dark"])
def test_without_offsets_there_is_the_integer_loss_alone(tmp_path, refinement):
    folder = write_folder(tmp_path / "set", [f"{n}_1.png" for n in range(12, 20)])
    task = tiny(refinement).build([folder])
    batch = task.make_batch(np.arange(2), np.random.default_rng(0))
    heatmaps = drawn(2, 68, 16, 16)
    found = task.losses(heatmaps, batch)
    assert {name: loss.item() for name, loss in found.items()} == {
        "integer": pytest.approx(integer_loss(heatmaps, batch["points"], 1.5).item())
    }


@pytest.mark.parametrize(("loss", "start"), [("csc", 1.0), ("mse", 0.0)])
def test_logits_start_where_the_decoder_sees_them(tmp_path, loss, start):
    """CSC leaves their mean open; a map without a positive value would be cell (0, 0)."""
    folder = write_folder(tmp_path / "set", [f"{n}_1.png" for n in range(12, 20)])
    network = tiny(loss=loss).build([folder]).network
    _, offsets = network(drawn(2, 3, 64, 64))
    assert offsets.mean().item() == pytest.approx(start, abs=0.2)


@pytest.mark.shared
def test_eight_real_faces_are_learned_by_heart(monkeypatch):
    """At 24 cells the arg-max alone leaves five times as much (2.7 %)."""
    recipe = HihRecipe(
        architecture="resnet18",
        imagenet=False,
        size=96,
        offset_size=6,
        growth=1.0,
        augmentation=STILL,
    )
    assert nme_by_heart(monkeypatch, recipe, rate=1e-3, steps=80) < 1.0
