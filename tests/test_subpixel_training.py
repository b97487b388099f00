"""Training subpixel heatmap regression: encoding, local soft-argmax, Siamese warps, rivals."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from by_heart import STILL, nme_by_heart
from heatmap_samples import cells_of
from hypothesis import given, settings
from hypothesis import strategies as st
from test_heatmap_targets import loop_maps, loop_rounded
from test_pipnet_training import drawn_face, write_folder

from facemark_export import checkpoint
from facemark_export.export import export_checkpoint
from facemark_export.networks import trunks
from facemark_export.networks.architecture import Architecture, build
from facemark_export.networks.corrected import CorrectedNetwork, peak_cells
from facemark_export.networks.mapnet import build_mapnet
from facemark_export.networks.stages import last_stage
from facemark_export.networks.trunks import TRUNKS
from facemark_export.training.augment import (
    Augmentation,
    Placement,
    augmented_crop,
    change_pixels,
    crop_matrix,
    cut,
    drawn_placement,
    into_crop,
    square_around,
)
from facemark_export.training.heatmap_targets import continuous_maps
from facemark_export.training.heatmaps import ORIGIN, HeatmapTask
from facemark_export.training.loop import Run
from facemark_export.training.loop_recipe import TrainingError
from facemark_export.training.recipes.subpixel import SubpixelRecipe
from facemark_export.training.subpixel import (
    ORIGINS,
    CorrectionTask,
    Reversal,
    SiameseTask,
    SubpixelLoss,
    joined,
    local_soft_argmax,
    true_corrections,
    view_matrix,
)
from facemark_sdk import LandmarkModel
from facemark_sdk.errors import CheckpointError
from facemark_sdk.layouts import get_layout

FLIP = np.array([1, 0, 2])
"""Of three landmarks: left, right, middle."""
SQUARE = (105.0, 80.0, 120.0)
LITE = SubpixelRecipe(
    family="mapnet",
    architecture="mobilenet_v2",
    size=64,
    epochs=1,
    schedule="cosine",
    milestones=(),
    batch_size=8,
    workers=0,
    threads=1,
    device="cpu",
    precision="float32",
)
PLAIN = {"siamese": False, "window": 0}
"""Section 4.1's rivals of the method."""


@pytest.fixture
def points():
    """Two faces; some landmarks lie outside the crop."""
    return np.random.default_rng(3).uniform(-0.1, 1.1, (2, 3, 2))


def drawn_maps(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


# --- losses ---------------------------------------------------------------------------------


def loop_local_soft_argmax(maps, window, temperature, origin):
    """Equations 4 and 5, one cell at a time; (N, L, 2) fractions."""
    found = np.zeros((*maps.shape[:2], 2))
    side = maps.shape[-1]
    for n, i in np.ndindex(maps.shape[:2]):
        row, column = divmod(int(maps[n, i].argmax()), side)
        total = x = y = 0.0
        for r in range(row - window // 2, row + window // 2 + 1):
            for c in range(column - window // 2, column + window // 2 + 1):
                if 0 <= r < side and 0 <= c < side:
                    weight = math.exp(temperature * maps[n, i, r, c])
                    total, x, y = total + weight, x + weight * c, y + weight * r
        found[n, i] = (x / total + origin) / side, (y / total + origin) / side
    return found


@pytest.mark.parametrize("window", [3, 5, 7])
@pytest.mark.parametrize("origin", [0.0, 0.5])
def test_the_local_soft_argmax_equals_the_plain_loop_and_the_decoder(window, origin):
    maps = drawn_maps(4, 3, 9, 9) / 4
    maps[0, 0, 0, 0] = maps[0, 1, 8, 8] = maps[0, 2, 3, 8] = 2.0  # corners and an edge
    found = local_soft_argmax(maps, window, 10.0, origin=origin).numpy()
    np.testing.assert_allclose(found, loop_local_soft_argmax(maps.numpy(), window, 10.0, origin))
    decoded = cells_of("local_soft_argmax", maps, window=window, temperature=10.0, origin=origin)
    np.testing.assert_allclose(9 * found, decoded, atol=1e-5)


@pytest.mark.parametrize("encoding", ["continuous", "rounded"])
@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_the_loss_equals_the_plain_loop(points, encoding, weight):
    maps = drawn_maps(2, 3, 12, 12)
    truth = (
        loop_maps(points, 12, 1.5, 0.5)
        if encoding == "continuous"
        else loop_rounded(points, 12, 1.5, "round")
    )
    origin = 0.5 if encoding == "continuous" else 0.0
    read = loop_local_soft_argmax(maps.numpy(), 5, 10.0, origin)
    expected = ((maps.numpy() - truth) ** 2).mean()
    expected += weight * np.abs(read - points).sum(-1).mean()
    loss = SubpixelLoss(encoding=encoding, sigma=1.5, coordinate_weight=weight)
    assert loss(maps, torch.from_numpy(points)).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("encoding", ["continuous", "rounded"])
def test_perfect_maps_are_read_with_the_specs_origin(encoding):
    """A tenth of a cell from continuous maps; rounding leaves half a cell."""
    rng = np.random.default_rng(0)
    points = rng.uniform(4 / 16, 12 / 16, (3, 68, 2)).astype(np.float32)
    recipe = replace(LITE, encoding=encoding)
    loss = SubpixelLoss(encoding=encoding, sigma=recipe.sigma)
    maps = (
        continuous_maps(torch.from_numpy(points), 16, 1.5, origin=ORIGIN)
        if encoding == "continuous"
        else torch.from_numpy(loop_rounded(points, 16, 1.5, "round")).float()
    )
    assert loss(maps, torch.from_numpy(points)) < 1e-10
    spec = recipe.model_spec()
    params = {k: spec.decoder_params[k] for k in ("origin", "window", "temperature")}
    worst = np.abs(cells_of(spec.decoder, maps, **params) - 16 * points).max()
    assert worst < (0.1 if encoding == "continuous" else 0.5 + 1e-4)
    assert encoding == "continuous" or worst > 0.45


def test_the_gradient_of_the_loss_is_right(points):
    """Against finite differences, in float64."""
    truth = torch.from_numpy(points)
    loss = SubpixelLoss(encoding="continuous", sigma=1.5, coordinate_weight=0.3, temperature=2.0)
    maps = drawn_maps(2, 3, 6, 6).requires_grad_()
    assert torch.autograd.gradcheck(lambda values: loss(values, truth), maps)


# --- Siamese training -----------------------------------------------------------------------


def augmented_points(points, square, placement):
    """Fractions of the plain crop as fractions of an augmented one, by way of the image."""
    plain = crop_matrix(square, 1)
    in_image = points @ plain[:, :2].T + plain[:, 2]
    return into_crop(in_image, placement.matrix(1))


def reversal_of(placements, side, origin=ORIGIN, flip=FLIP, dtype=torch.float64):
    matrices = np.stack([view_matrix(SQUARE, p) for p in placements])
    return Reversal.of(
        torch.from_numpy(matrices).to(dtype),
        torch.tensor([p.mirror for p in placements]),
        torch.from_numpy(flip),
        side,
        origin,
    )


def loop_reversed(maps, placement, origin):
    """One crop's maps (L, G, G) in the plain crop, one cell at a time; NaN where it ends."""
    side = maps.shape[-1]
    source = maps[FLIP] if placement.mirror else maps
    warped = np.full(maps.shape, np.nan)
    for r in range(side):
        for c in range(side):
            place = np.array([[c + origin, r + origin]]) / side
            x, y = augmented_points(place, SQUARE, placement)[0] * side - origin
            if not (-0.5 <= x <= side - 0.5 and -0.5 <= y <= side - 0.5):
                continue
            x, y = np.clip([x, y], 0, side - 1)
            x0, y0 = min(math.floor(x), side - 2), min(math.floor(y), side - 2)
            fx, fy = x - x0, y - y0
            warped[:, r, c] = (1 - fy) * (
                (1 - fx) * source[:, y0, x0] + fx * source[:, y0, x0 + 1]
            ) + fy * ((1 - fx) * source[:, y0 + 1, x0] + fx * source[:, y0 + 1, x0 + 1])
    return warped


TURNED = Placement((100.0, 86.0, 110.0), 20.0, False)
MIRRORED = Placement((112.0, 77.0, 131.0), -13.0, True)


@pytest.mark.parametrize("origin", [0.0, 0.5])
def test_reversed_and_joined_maps_equal_the_plain_loop(origin):
    maps = drawn_maps(4, 3, 8, 8)
    placements = [TURNED, MIRRORED, MIRRORED, Placement(SQUARE, 0.0, True)]
    reversal = reversal_of(placements, 8, origin)
    expected = np.stack(
        [loop_reversed(m.numpy(), p, origin) for m, p in zip(maps, placements, strict=True)]
    )
    seen = ~np.isnan(expected)
    assert 0.5 < seen[:2].mean() < 0.95
    np.testing.assert_array_equal(reversal.seen.expand(-1, 3, -1, -1).numpy(), seen)
    np.testing.assert_allclose(reversal(maps).numpy()[seen], expected[seen], atol=1e-5)
    together, either = joined(maps, reversal)
    count = seen[:2].astype(int) + seen[2:]
    mean = (np.nan_to_num(expected[:2]) + np.nan_to_num(expected[2:])) / np.maximum(count, 1)
    np.testing.assert_allclose(together.numpy(), mean, atol=1e-5)
    np.testing.assert_array_equal(either.expand(-1, 3, -1, -1).numpy(), count > 0)


def test_an_undisturbed_crop_keeps_its_maps_and_a_mirrored_one_gets_them_back():
    maps = drawn_maps(1, 3, 8, 8)
    still = reversal_of([Placement(SQUARE, 0.0, False)], 8)
    torch.testing.assert_close(still(maps), maps)
    mirrored = reversal_of([Placement(SQUARE, 0.0, True)], 8)
    torch.testing.assert_close(mirrored(maps.flip(-1)[:, FLIP]), maps)
    assert still.seen.all()
    assert mirrored.seen.all()


placements = st.builds(
    lambda dx, dy, scale, angle, mirror: Placement(
        (SQUARE[0] + dx * SQUARE[2], SQUARE[1] + dy * SQUARE[2], scale * SQUARE[2]), angle, mirror
    ),
    st.floats(-0.12, 0.12),
    st.floats(-0.12, 0.12),
    st.floats(0.85, 1.15),
    st.floats(-30, 30),
    st.booleans(),
)


@settings(max_examples=60, deadline=None)
@given(placements, st.sampled_from([0.0, 0.5]), st.integers(0, 2**32 - 1))
def test_a_map_of_a_point_lands_where_the_point_is(placement, origin, seed):
    """Through the augmentation and back, to a twentieth of a cell of the barycentre."""
    points = np.random.default_rng(seed).uniform(0.35, 0.65, (1, 3, 2))
    there = augmented_points(points[0], SQUARE, placement)
    assert np.allclose(
        there, points[0] @ (matrix := view_matrix(SQUARE, placement))[:, :2].T + matrix[:, 2]
    )
    there = there[FLIP] if placement.mirror else there
    side = 32
    maps = continuous_maps(torch.from_numpy(there)[None].double(), side, 1.5, origin=origin)
    reversal = reversal_of([placement], side, origin)
    back = reversal(maps) * reversal.seen  # what lies outside repeats the border, and never counts
    cells = torch.arange(side) + origin
    mass = back.sum((2, 3))
    x, y = (back.sum(2) * cells).sum(2) / mass, (back.sum(3) * cells).sum(2) / mass
    np.testing.assert_allclose(torch.stack((x, y), -1).numpy(), points * side, atol=0.05)


def test_both_crops_of_a_perfect_network_agree_and_their_mean_is_the_target():
    points = np.random.default_rng(1).uniform(0.35, 0.65, (1, 3, 2))
    maps = []
    for placement in (TURNED, MIRRORED):
        there = augmented_points(points[0], SQUARE, placement)
        there = there[FLIP] if placement.mirror else there
        maps.append(continuous_maps(torch.from_numpy(there)[None].double(), 64, 2.0, origin=0.5))
    reversal = reversal_of([TURNED, MIRRORED], 64)
    first, second = reversal(torch.cat(maps))
    # They are wider and narrower by the crops' sizes: 110 and 131 of 120 pixels.
    assert (first - second).abs().max() < 0.15
    together, _ = joined(torch.cat(maps), reversal)
    target = continuous_maps(torch.from_numpy(points), 64, 2.0, origin=0.5)
    assert (together - target).abs().max() < 0.1
    found = local_soft_argmax(together, 5, 10.0)
    assert (found - torch.from_numpy(points)).abs().max() * 64 < 0.15
    # The same maps of other landmarks would not do:
    wrong = Reversal.of(
        torch.from_numpy(np.stack([view_matrix(SQUARE, p) for p in (TURNED, MIRRORED)])),
        torch.tensor([False, False]),
        torch.from_numpy(FLIP),
        64,
        0.5,
    )
    assert (joined(torch.cat(maps), wrong)[0] - target).abs().max() > 0.4


def test_the_gradient_through_the_warps_is_right(points):
    """Against finite differences, in float64; cells that no crop shows have none."""
    reversal = reversal_of([TURNED, MIRRORED, MIRRORED, TURNED], 6)
    loss = SubpixelLoss(encoding="continuous", sigma=1.5, coordinate_weight=0.3, temperature=2.0)
    truth = torch.from_numpy(points)

    def total(maps):
        together, seen = joined(maps, reversal)
        return loss(together, truth, seen)

    assert torch.autograd.gradcheck(total, drawn_maps(4, 3, 6, 6).requires_grad_())


# --- crops ----------------------------------------------------------------------------------


def test_augmented_crops_are_a_placement_and_then_a_change_of_pixels():
    rng = np.random.default_rng(0)
    image, points = drawn_face(rng)
    square, flip = square_around(points, 1.3), get_layout("ibug68").flip_index
    mirrored = set()
    for seed in range(6):
        crop, placed = augmented_crop(
            image, points, flip, square, 64, Augmentation(), np.random.default_rng(seed)
        )
        chance = np.random.default_rng(seed)
        placement = drawn_placement(square, Augmentation(), chance)
        expected = change_pixels(cut(image, placement.matrix(64), 64), Augmentation(), chance)
        np.testing.assert_array_equal(crop, expected)
        there = into_crop(points, placement.matrix(64))
        np.testing.assert_array_equal(placed, there[flip] if placement.mirror else there)
        mirrored.add(placement.mirror)
    assert mirrored == {False, True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Forty drawn faces."""
    return write_folder(tmp_path_factory.mktemp("data") / "set", [f"{n}_1.png" for n in range(40)])


def test_a_batch_has_two_different_crops_of_each_face_and_the_way_back(folder):
    how = Augmentation(occlude=0, blur=0, colour=0, grey=0)
    task = replace(LITE, augmentation=how).build([folder])
    assert isinstance(task, SiameseTask)
    batch = task.make_batch(np.arange(4), np.random.default_rng(0))
    assert {k: tuple(v.shape) for k, v in batch.items()} == {
        "image": (8, 64, 64, 3),
        "matrices": (8, 2, 3),
        "mirrored": (8,),
        "points": (4, 68, 2),
    }
    assert batch["image"].dtype == torch.uint8
    faces = zip(task.faces[:4], task.squares[:4], strict=True)
    plain = np.stack([into_crop(face.points, crop_matrix(square, 1)) for face, square in faces])
    np.testing.assert_allclose(batch["points"].numpy(), plain, atol=1e-6)
    assert all(not torch.equal(batch["image"][n], batch["image"][n + 4]) for n in range(4))
    # The drawn dots are where the matrices say, in either crop.
    for n in range(8):
        matrix = batch["matrices"][n].numpy()
        there = 64 * (plain[n % 4] @ matrix[:, :2].T + matrix[:, 2])
        columns, rows = np.clip(np.round(there), 0, 63).astype(int).T
        assert np.median(batch["image"][n].numpy()[rows, columns, 0]) > 120
    again = task.make_batch(np.arange(4), np.random.default_rng(0))
    assert all(torch.equal(batch[k], again[k]) for k in batch)


def test_the_siamese_loss_is_of_all_stages_and_vanishes_for_perfect_still_maps(folder):
    task = replace(LITE, augmentation=replace(STILL, flip=0.5)).build([folder])
    batch = task.make_batch(np.arange(4), np.random.default_rng(1))
    assert batch["mirrored"].any()
    assert not batch["mirrored"].all()
    flip = get_layout("ibug68").flip_index.copy()
    perfect = []
    for n in range(8):
        points = batch["points"][n % 4].clone()
        if batch["mirrored"][n]:
            points[:, 0] = 1 - points[:, 0]
            points = points[flip]
        perfect.append(points)
    maps = continuous_maps(torch.stack(perfect), 16, LITE.sigma, origin=ORIGIN)
    assert task.losses(maps, batch)["heatmap"] < 1e-9
    noise = maps + 0.1
    one = task.losses(noise, batch)["heatmap"].item()
    assert one == pytest.approx(0.01, rel=1e-3)
    both = task.losses(torch.stack((noise, maps), 1), batch)["heatmap"].item()
    assert both == pytest.approx(one, rel=1e-3)


# --- coordinate correction ------------------------------------------------------------------


def test_corrections_are_the_errors_of_the_encoding_or_of_the_maps(points):
    maps = drawn_maps(2, 3, 8, 8)
    static, dynamic = (
        true_corrections(maps, torch.from_numpy(points), kind).numpy()
        for kind in ("static", "dynamic")
    )
    for n, i in np.ndindex(2, 3):
        row, column = divmod(int(maps[n, i].argmax()), 8)
        for axis, peak in enumerate((column, row)):
            position = 8 * points[n, i, axis]
            rounded = min(max(round(position), 0), 7)
            assert static[n, i, axis] == pytest.approx(position - rounded)
            assert dynamic[n, i, axis] == pytest.approx(position - peak)


def test_a_corrected_network_adds_its_corrections_to_the_highest_cells():
    torch.manual_seed(0)
    network = CorrectedNetwork(build_mapnet("mobilenet_v2", 3, 4), 3)
    torch.nn.init.normal_(network.correction.weight)
    image = torch.randn(2, 3, 32, 32)
    network.eval()
    with torch.inference_mode():
        found = network(image)
        inner = network.network
        features = inner.upsampling(inner.trunk(image))
        maps = inner.heatmap_layer(features)
        corrections = network.correction(features.mean((2, 3))).view(2, 3, 2)
    torch.testing.assert_close(found.view(2, 3, 2), (peak_cells(maps) + corrections) / 8)
    trained = network.train()(image)
    assert [tuple(o.shape) for o in trained] == [(2, 3, 8, 8), (2, 3, 2)]
    trained[1].sum().backward()
    assert all("heatmap_layer" in k or p.grad is not None for k, p in network.named_parameters())
    names = list(network.state_dict())
    assert len(names) == len(set(names))
    assert not any("_head" in name for name in names)


@pytest.mark.parametrize("kind", ["static", "dynamic"])
def test_the_gradient_of_the_corrections_is_right(folder, points, kind):
    """Against finite differences, in float64."""
    recipe = replace(LITE, **PLAIN, encoding="rounded", correction=kind)
    task = recipe.build([folder])
    truth = {"points": torch.from_numpy(points)}

    def total(*outputs):
        return torch.stack([*task.losses(outputs, truth).values()]).sum()

    outputs = drawn_maps(2, 3, 5, 5), drawn_maps(2, 3, 2, seed=1)
    assert torch.autograd.gradcheck(total, [o.requires_grad_() for o in outputs])


@pytest.mark.parametrize("kind", ["static", "dynamic"])
def test_the_correction_task_trains_and_validates(folder, tmp_path, kind):
    recipe = replace(LITE, **PLAIN, encoding="rounded", correction=kind)
    task = recipe.build([folder])
    assert isinstance(task, CorrectionTask)
    maps, corrections = drawn_maps(2, 68, 16, 16), drawn_maps(2, 68, 2, seed=1)
    points = torch.from_numpy(np.random.default_rng(0).uniform(0, 1, (2, 68, 2)))
    losses = task.losses((maps, corrections), {"points": points})
    truth = true_corrections(maps, points, kind)
    assert losses["correction"].item() == pytest.approx(
        (((corrections - truth) / 16) ** 2).sum(-1).mean().item()
    )
    figures = Run(task, recipe, "test", tmp_path / "run", resume=False).train()
    assert np.isfinite(figures["nme"])


def test_a_corrected_network_takes_imagenet_weights(monkeypatch):
    """With a package's weights replaced by known ones, so that the test needs no package."""
    torch.manual_seed(1)
    weights = TRUNKS["mobilenet_v2"].network().state_dict()
    monkeypatch.setattr(trunks, "imagenet_weights", lambda trunk: weights)
    for name in ("mobilenet_v2", "mobilenet_v2_coordconv"):
        network = CorrectedNetwork(build(Architecture("mapnet", name, 3, stride=4)), 3)
        network.load_imagenet()
        loaded = network.network.trunk.state_dict()
        for key, tensor in weights.items():
            found = loaded[key][:, : tensor.shape[1]] if tensor.dim() == 4 else loaded[key]
            assert torch.equal(found, tensor), key


def test_a_corrected_network_without_a_trunk_says_that_there_are_no_imagenet_weights():
    with torch.device("meta"):
        network = CorrectedNetwork(build(Architecture("hrnet", "hrnetv2_w18", 7)), 7)
    with pytest.raises(CheckpointError, match=r"HighResolutionNet; use --no-imagenet"):
        network.load_imagenet()


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("hrnet", "hrnetv2_w18"),
        ("mapnet", "mobilenet_v2"),
        ("hourglass", "hourglass2"),
        ("cpn", "resnet18"),
    ],
)
def test_networks_that_see_coordinates_are_corrected_too(family, name):
    torch.manual_seed(0)
    stride = 4 if family == "mapnet" else 0
    inner = build(Architecture(family, f"{name}_coordconv", 7, stride=stride))
    network = CorrectedNetwork(inner, 7).eval()
    image = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        # corrections start at 0
        peaks = peak_cells(last_stage(inner(image)))
        torch.testing.assert_close(network(image).view(2, 7, 2), peaks.float() / 16)
        maps, corrections = network.train()(image)
    assert maps.shape[-3:] == (7, 16, 16)
    assert corrections.shape == (2, 7, 2)


def test_a_static_correction_exports_with_parity_and_runs(folder, tmp_path):
    recipe = replace(LITE, **PLAIN, encoding="rounded", correction="static")
    out = tmp_path / "run"
    Run(recipe.build([folder]), recipe, "test", out, resume=False).train()
    spec = checkpoint.read(out / "best.safetensors").spec
    assert (spec.family, spec.decoder) == ("mapnet", "regression")
    report = export_checkpoint(out / "best.safetensors", tmp_path / "model.onnx")
    assert report.checks["fp32"].passed
    crops = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    found = LandmarkModel(tmp_path / "model.onnx", backend="cpu").predict_crops(crops)
    assert found.points.shape == (3, 68, 2)
    assert np.isfinite(found.points).all()
    assert (np.abs(found.points - 32) < 64).all()


# --- recipes --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "task", "decoder"),
    [
        ({}, SiameseTask, "local_soft_argmax"),
        ({"siamese": False}, HeatmapTask, "local_soft_argmax"),
        ({"siamese": False, "encoding": "rounded", "window": 0}, HeatmapTask, "quarter_shift"),
        ({"window": 0}, SiameseTask, "quarter_shift"),
        ({"window": 0, "decoder": "argmax"}, SiameseTask, "argmax"),
        ({**PLAIN, "loss": "soft_argmax"}, HeatmapTask, "barycentre"),
        ({**PLAIN, "encoding": "rounded", "correction": "static"}, CorrectionTask, "regression"),
    ],
)
def test_what_recipes_build_and_how_their_outputs_are_read(folder, changes, task, decoder):
    recipe = replace(LITE, **changes)
    spec = recipe.model_spec()
    assert spec.decoder == decoder
    assert spec.decoder_params["origin"] == ORIGINS[recipe.encoding]
    if decoder == "local_soft_argmax":
        assert (spec.decoder_params["window"], spec.decoder_params["temperature"]) == (5, 10.0)
    assert type(recipe.build([folder])) is task


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": 4}, "window"),
        ({"window": 9}, "window"),
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"coordinate_weight": -1.0}, "coordinate_weight"),
        ({"coordinate_weight": 0.1, "window": 0}, "coordinate_weight has no use with window 0"),
        ({"decoder": "argmax"}, "decoder argmax goes with window 0"),
        ({"loss": "soft_argmax"}, "siamese off"),
        ({"loss": "soft_argmax", "siamese": False}, "window to 0"),
        ({**PLAIN, "loss": "soft_argmax", "encoding": "rounded"}, "encoding continuous"),
        ({"correction": "static", "encoding": "rounded"}, "siamese off"),
        ({**PLAIN, "correction": "static"}, "rounded"),
        ({**PLAIN, "correction": "dynamic", "encoding": "rounded", "loss": "soft_argmax"}, "l2"),
        ({"sigma": 0.0}, "sigma"),
        ({"architecture": "vgg"}, "vgg"),
        ({"size": 100}, "size"),
    ],
)
def test_impossible_recipes_are_refused_by_name(changes, message):
    with pytest.raises(TrainingError, match=message):
        replace(LITE, **changes)


def test_a_siamese_recipe_trains_exports_with_parity_and_detects(tmp_path, folder):
    out = tmp_path / "run"
    figures = Run(LITE.build([folder]), LITE, "test", out, resume=False).train()
    assert np.isfinite([figures["nme"], figures["heatmap"]]).all()
    spec = checkpoint.read(out / "best.safetensors").spec
    assert (spec.family, spec.decoder) == ("mapnet", "local_soft_argmax")
    report = export_checkpoint(out / "best.safetensors", tmp_path / "model.onnx")
    assert report.checks["fp32"].passed
    crops = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    found = LandmarkModel(tmp_path / "model.onnx", backend="cpu").predict_crops(crops)
    assert found.points.shape == (3, 68, 2)


@pytest.mark.shared
def test_eight_real_faces_are_learned_by_heart(monkeypatch):
    """Both crops of a face are alike here: the same two for ever would teach their mean alone."""
    recipe = replace(LITE, architecture="resnet18", growth=1.1, augmentation=STILL)
    assert nme_by_heart(monkeypatch, recipe, rate=1e-3, steps=100) < 1.0
