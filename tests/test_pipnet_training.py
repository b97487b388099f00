"""PIPNet's targets, loss, data and task (paper sections 3.1-3.2, 4.1.2; COMPAT 1.5)."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from by_heart import STILL, nme_by_heart
from conftest import SHARED
from test_pip_decode import loop_neighbours, merging_of, points_and_scores

from facemark_export import checkpoint
from facemark_export.export import export_checkpoint
from facemark_export.networks.architecture import architecture_of
from facemark_export.networks.identify import identify
from facemark_export.networks.pipnet import ARCHITECTURES, build_pipnet
from facemark_export.networks.weights import shapes_of
from facemark_export.training.annotations import is_held_out, photo_of
from facemark_export.training.augment import (
    Augmentation,
    augmented_crop,
    crop_matrix,
    cut,
    into_crop,
    square_around,
)
from facemark_export.training.landmark_data import (
    read_faces,
    split_by_photo,
    weighted_order,
)
from facemark_export.training.loop import Run, TrainingError
from facemark_export.training.pipnet import (
    OFFSET_WEIGHTS,
    offset_weight_of,
    pip_losses,
    pip_targets,
)
from facemark_export.training.recipes.pipnet import PipnetRecipe
from facemark_sdk import Detector
from facemark_sdk.decode.pip import (
    OUTPUT_NAMES,
    decode_pip,
    nearest_neighbours,
    padded_opinions,
)
from facemark_sdk.errors import CheckpointError, DataError, ModelError
from facemark_sdk.layouts import get_layout

IBUG68 = get_layout("ibug68")


def as_tensors(targets):
    return {key: torch.from_numpy(value) for key, value in targets.items()}


@pytest.fixture
def points():
    """Two faces; some landmarks lie on cell borders, some outside the crop."""
    rng = np.random.default_rng(3)
    points = rng.uniform(-0.1, 1.1, (2, 12, 2)).astype(np.float32)
    points[0, 0], points[0, 1], points[0, 2] = (0.0, 0.0), (1.0, 1.0), (0.5, 0.25)
    return points


def test_decoding_the_targets_gives_the_points_back(points):
    neighbours = nearest_neighbours(points[0], 4)
    targets = pip_targets(points, neighbours, 8)
    faces, landmarks = targets["cell"].shape
    maps = {name: np.zeros((faces, landmarks, 64), np.float32) for name in ("cls", "x", "y")}
    n, i = np.ogrid[:faces, :landmarks]
    maps["cls"][n, i, targets["cell"]] = 1
    maps["x"][n, i, targets["cell"]] = targets["offset"][..., 0]
    maps["y"][n, i, targets["cell"]] = targets["offset"][..., 1]
    for axis, name in enumerate(("nb_x", "nb_y")):
        maps[name] = np.zeros((faces, landmarks, 4, 64), np.float32)
        maps[name][n, i, :, targets["cell"]] = targets["neighbour_offset"][..., axis]
    outputs = {name: m.reshape(faces, -1, 8, 8) for name, m in maps.items()}
    decoded = decode_pip(outputs, merging_of(neighbours)).points
    np.testing.assert_allclose(decoded, points, atol=1e-6)


def test_targets_of_known_points():
    points = np.array([[[0.30, 0.70], [1.20, -0.10]]], np.float32)
    targets = pip_targets(points, np.array([[1], [0]]), 8)
    assert targets["cell"].tolist() == [[5 * 8 + 2, 0 * 8 + 7]]
    np.testing.assert_allclose(targets["offset"][0], [[0.4, 0.6], [2.6, -0.8]], atol=1e-5)
    np.testing.assert_allclose(
        targets["neighbour_offset"][0, :, 0], [[7.6, -5.8], [-4.6, 5.6]], atol=1e-5
    )


def loop_losses(outputs, targets):
    """Equations 1-4 of the paper, one landmark at a time."""
    scores, x, y, nb_x, nb_y = (o.double() for o in outputs)
    faces, landmarks, grid, _ = scores.shape
    each = targets["neighbour_offset"].shape[2]
    score, offset, neighbour = 0.0, 0.0, 0.0
    for n in range(faces):
        for i in range(landmarks):
            r, c = divmod(int(targets["cell"][n, i]), grid)
            for row in range(grid):
                for column in range(grid):
                    truth = float((row, column) == (r, c))
                    score += (scores[n, i, row, column] - truth) ** 2
            own = targets["offset"][n, i].double()
            offset += abs(x[n, i, r, c] - own[0]) + abs(y[n, i, r, c] - own[1])
            for j in range(each):
                other = targets["neighbour_offset"][n, i, j].double()
                neighbour += abs(nb_x[n, i * each + j, r, c] - other[0])
                neighbour += abs(nb_y[n, i * each + j, r, c] - other[1])
    count = faces * landmarks
    return {
        "score": 10 * score / (count * grid * grid),
        "offset": offset / count,
        "neighbour": neighbour / (count * each),
    }


@pytest.fixture
def raw_maps():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, rows, 8, 8, generator=generator) for rows in (12, 12, 12, 48, 48)]


def test_losses_equal_the_plain_loop(points, raw_maps):
    targets = as_tensors(pip_targets(points, nearest_neighbours(points[0], 4), 8))
    losses = pip_losses(raw_maps, targets)
    expected = loop_losses(raw_maps, targets)
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(float(value), rel=1e-5)


@pytest.mark.parametrize("counted", [(True, False), (False, True), (True, True)])
def test_only_the_faces_that_count_are_averaged(points, raw_maps, counted):
    mask = torch.tensor(counted)
    targets = as_tensors(pip_targets(points, nearest_neighbours(points[0], 4), 8))
    losses = pip_losses(raw_maps, targets, counted=mask)
    expected = loop_losses([m[mask] for m in raw_maps], {k: v[mask] for k, v in targets.items()})
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(float(value), rel=1e-5)


def test_gradients_of_the_losses_are_right(points, raw_maps):
    """Against finite differences, in float64."""
    targets = as_tensors(pip_targets(points[:, :5], nearest_neighbours(points[0, :5], 2), 4))
    targets = {k: v.double() if v.is_floating_point() else v for k, v in targets.items()}
    rows = (5, 5, 5, 10, 10)
    maps = [m[:, :n, :4, :4].double().requires_grad_() for n, m in zip(rows, raw_maps, strict=True)]

    def total(*outputs):
        losses = pip_losses(outputs, targets, offset_weight=0.2, neighbour_weight=0.7)
        return torch.stack([*losses.values()]).sum()

    assert torch.autograd.gradcheck(total, maps)


def test_losses_reach_only_the_true_cells_of_the_offset_maps(points, raw_maps):
    targets = as_tensors(pip_targets(points, nearest_neighbours(points[0], 4), 8))
    for maps in raw_maps:
        maps.requires_grad_()
    torch.stack(list(pip_losses(raw_maps, targets).values())).sum().backward()
    assert torch.count_nonzero(raw_maps[0].grad) == raw_maps[0].numel()
    for maps in raw_maps[1:]:
        assert torch.count_nonzero(maps.grad) == maps.grad.flatten(2).shape[:2].numel()


# --- networks -------------------------------------------------------------------------------


@pytest.mark.shared
@pytest.mark.parametrize("landmarks", [68, 98])
def test_resnet18_has_the_published_tensors(landmarks):
    names = {68: "pip_resnet18_300W68_s32_nb10_legacyzip", 98: "pip_resnet18_WFLW98_s32_nb10"}
    published = {}
    for line in (SHARED / "compat" / "keys" / f"{names[landmarks]}.txt").read_text().splitlines():
        if not line.startswith("#"):
            key, shape, _ = line.split("\t")
            published[key] = tuple(int(n) for n in shape.strip("()").split(",") if n.strip())
    ours = build_pipnet("resnet18", landmarks, 10).state_dict()
    assert {key: tuple(value.shape) for key, value in ours.items()} == published


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_maps_have_one_cell_per_32_pixels(architecture):
    network = build_pipnet(architecture, 19, 3).eval()
    with torch.inference_mode():
        maps = network(torch.zeros(2, 3, 96, 96))
    assert [tuple(m.shape) for m in maps] == [(2, n, 3, 3) for n in (19, 19, 19, 57, 57)]


@pytest.mark.parametrize(("landmarks", "neighbours"), [(5, 5), (5, 0)])
def test_impossible_numbers_of_neighbours_are_refused(landmarks, neighbours):
    with pytest.raises(ModelError, match="neighbours"):
        build_pipnet("resnet18", landmarks, neighbours)


def test_an_unknown_architecture_is_refused_with_the_known_ones():
    with pytest.raises(ModelError, match="resnet18"):
        build_pipnet("vgg", 68, 10)


# --- data and augmentation ------------------------------------------------------------------


def drawn_face(rng, side=160):
    """A picture with a bright dot at each of 68 scattered landmarks."""
    points = rng.uniform(0.3, 0.7, (68, 2)).astype(np.float32) * side
    image = np.full((side, side, 3), 30, np.uint8)
    for x, y in points:
        cv2.circle(image, (round(x * 16), round(y * 16)), 32, (255, 255, 255), -1, cv2.LINE_AA, 4)
    return image, points


def test_points_follow_the_pixels_through_rotation_mirroring_and_scale():
    side = 200
    image = np.zeros((side, side, 3), np.uint8)
    spot = np.array([[120.0, 70.0]], np.float32)
    cv2.circle(image, (120, 70), 4, (255, 255, 255), -1)
    for angle in (-30, 0, 25):
        for mirror in (False, True):
            matrix = crop_matrix((105.0, 80.0, 120.0), 256, angle, mirror)
            crop = cut(image, matrix, 256)[..., 0].astype(np.float64)
            ys, xs = np.mgrid[:256, :256]
            seen = np.array([(crop * xs).sum(), (crop * ys).sum()]) / crop.sum()
            np.testing.assert_allclose(into_crop(spot, matrix)[0], seen, atol=0.15)


def test_mirrored_crops_swap_left_and_right():
    rng = np.random.default_rng(0)
    image, points = drawn_face(rng)
    how = Augmentation(
        translate=0, rotate=0, scale=0, flip=1.0, occlude=0, blur=0, colour=0, grey=0
    )
    square = square_around(points, 1.3)
    crop, placed = augmented_crop(image, points, IBUG68.flip_index, square, 128, how, rng)
    plain = into_crop(points, crop_matrix(square, 128))
    np.testing.assert_allclose(placed[:, 0], 128 - plain[IBUG68.flip_index, 0], atol=1e-3)
    np.testing.assert_allclose(placed[:, 1], plain[IBUG68.flip_index, 1], atol=1e-3)
    bright = [crop[int(y), int(x), 0] for x, y in np.clip(np.round(placed), 0, 127)]
    assert np.mean(bright) > 150


def test_chance_comes_only_from_the_generator():
    image, points = drawn_face(np.random.default_rng(1))
    square = square_around(points, 1.3)

    def draw(seed):
        rng = np.random.default_rng(seed)
        return augmented_crop(image, points, IBUG68.flip_index, square, 64, Augmentation(), rng)

    first, again, other = draw(1), draw(1), draw(2)
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert not np.array_equal(first[1], other[1])


def test_weights_say_how_often_a_folder_is_seen():
    order = weighted_order([10, 100], [2.0, 0.25], np.random.default_rng(0))
    counts = np.bincount(order, minlength=110)
    assert (counts[:10] == 2).all()
    assert counts[10:].sum() == 25
    assert counts[10:].max() == 1
    other = weighted_order([10, 100], [2.0, 0.25], np.random.default_rng(1))
    assert set(order[order >= 10]) != set(other[other >= 10])


def test_all_faces_of_a_photo_are_on_one_side(tmp_path):
    folder = write_folder(
        tmp_path / "set", [f"{photo}_{n}.png" for photo in range(60) for n in (1, 2)]
    )
    train, held_out = split_by_photo(read_faces(folder, "ibug68", 68))
    photos = [{face.photo for face in part} for part in (train, held_out)]
    assert photos[0] | photos[1] == {str(n) for n in range(60)}
    assert not photos[0] & photos[1]
    assert all(is_held_out(photo) for photo in photos[1])
    assert 1 <= len(photos[1]) <= 15


def write_folder(folder: Path, names: list[str]) -> Path:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    lines = []
    for name in names:
        image, points = drawn_face(rng)
        cv2.imwrite(str(folder / name), image)
        lines.append(json.dumps({"image": name, "points": points.tolist(), "layout": "ibug68"}))
    (folder / "annotations.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("not json", "line 1"),
        ('{"image": "a.png", "points": [[1, 2]], "layout": "ibug68"}', "68 finite pairs"),
        ('{"image": "a.png", "points": [], "layout": "wflw98"}', "wflw98"),
        (json.dumps({"image": "gone.png", "points": [[0, 0]] * 68}), "gone.png"),
    ],
)
def test_bad_annotations_name_file_and_line(tmp_path, line, message):
    (tmp_path / "annotations.jsonl").write_text(line + "\n")
    with pytest.raises(DataError, match=message):
        read_faces(tmp_path, "ibug68", 68)


def test_a_folder_without_annotations_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"annotations\.jsonl"):
        read_faces(tmp_path, "ibug68", 68)


# --- the recipe as a whole ------------------------------------------------------------------


def test_a_pipnet_learns_eight_faces_by_heart(tmp_path):
    """Eight drawn faces, no augmentation: under 1 % of the crop's side in a few dozen steps."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    neighbours = nearest_neighbours(rng.random((8, 2)), 3)
    faces = [drawn_landmarks(rng) for _ in range(8)]
    images = torch.stack([torch.from_numpy(image) for image, _ in faces])
    images = images.permute(0, 3, 1, 2).float() / 255 - 0.5
    points = np.stack([p for _, p in faces])
    targets = as_tensors(pip_targets(points, neighbours, 2))
    network = build_pipnet("resnet18", 8, 3)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    for step in range(60):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * (1 - step / 60)
        optimizer.zero_grad()
        torch.stack(list(pip_losses(network(images), targets).values())).sum().backward()
        optimizer.step()
    with torch.inference_mode():
        outputs = {n: m.numpy() for n, m in zip(OUTPUT_NAMES, network(images), strict=True)}
    decoded, scores = points_and_scores(outputs, merging_of(neighbours))
    assert np.linalg.norm(decoded - points, axis=-1).mean() < 0.01
    assert scores.mean() > 0.8


@pytest.mark.shared
@pytest.mark.parametrize("nrm", [True, False], ids=["nrm", "no-nrm"])
def test_eight_real_faces_are_learned_by_heart(monkeypatch, nrm):
    recipe = PipnetRecipe(
        architecture="resnet18", imagenet=False, size=96, nrm=nrm, augmentation=STILL
    )
    assert nme_by_heart(monkeypatch, recipe, rate=1e-3, steps=60) < 1.0


def drawn_landmarks(rng, side=64):
    """Eight differently coloured dots at random places: what a landmark network must tell apart."""
    points = rng.uniform(0.1, 0.9, (8, 2)).astype(np.float32)
    image = np.zeros((side, side, 3), np.uint8)
    for i, (x, y) in enumerate(points * side):
        colour = tuple(255 * (i >> bit & 1) for bit in range(3))
        cv2.circle(image, (round(x * 16), round(y * 16)), 48, colour, -1, cv2.LINE_AA, 4)
    return image, points


def test_the_recipe_states_what_it_trained(tmp_path):
    folder = write_folder(tmp_path / "set", [f"{n}_1.png" for n in range(40)])
    task = PipnetRecipe(imagenet=False, size=64, neighbours=4).build([folder])
    spec = task.spec
    assert (spec.family, spec.layout, spec.input.width) == ("pipnet", "ibug68", 64)
    assert np.shape(spec.decoder_params["neighbours"]) == (68, 4)
    assert len(task) == len(task.faces) == 40 - len(task.held_out)
    batch = task.make_batch(np.arange(3), np.random.default_rng(0))
    assert batch["image"].shape == (3, 64, 64, 3)
    assert batch["neighbour_offset"].shape == (3, 68, 4, 2)


@pytest.mark.parametrize(("stride", "weight"), [(16, 0.02), (32, 0.1), (64, 0.125), (128, 0.25)])
def test_offsets_weigh_as_published_for_inputs_of_256_pixels(stride, weight):
    """Alpha and beta of the paper's section 4.1.2, relative to the score's weight."""
    assert offset_weight_of(256 // stride) == pytest.approx(10 * weight)


@pytest.mark.parametrize(("grid", "like"), [(1, 2), (3, 4), (6, 8), (10, 8), (12, 16), (64, 16)])
def test_offsets_weigh_as_on_the_nearest_published_grid(grid, like):
    assert offset_weight_of(grid) == OFFSET_WEIGHTS[like]


@pytest.mark.parametrize(
    ("architecture", "stride", "weight"),
    [
        ("resnet18", 16, 0.1),
        ("resnet18", 32, 0.125),
        ("resnet18", 64, 0.25),
        ("resnet18", 128, 0.25),
        ("efficientnet_lite0", 16, 0.1),
    ],
)
def test_every_stride_trains_with_its_grids_balance_exports_and_detects(
    tmp_path, photo, architecture, stride, weight
):
    folder = write_folder(tmp_path / "set", [f"{n}_1.png" for n in range(12, 20)])
    recipe = PipnetRecipe(
        architecture=architecture,
        imagenet=False,
        size=128,
        stride=stride,
        neighbours=4,
        epochs=1,
        batch_size=6,
        workers=0,
        device="cpu",
        checkpoint_minutes=60,
    )
    task = recipe.build([folder])
    assert task.loss_weights == {
        "offset_weight": pytest.approx(10 * weight),
        "neighbour_weight": pytest.approx(10 * weight),
    }
    out = tmp_path / "run"
    figures = Run(task, recipe, "test", out, resume=False).train()
    assert np.isfinite(figures["nme"])
    report = export_checkpoint(out / "best.safetensors", tmp_path / "model.onnx")
    assert report.checks["fp32"].passed
    spec = checkpoint.read(out / "best.safetensors").spec
    assert spec.decoder_params["stride"] == stride
    (face,) = Detector(landmarks=tmp_path / "model.onnx", backend="cpu")(photo)
    assert face.landmarks.shape == (68, 2)


def test_without_nrm_neighbours_are_neither_learnt_nor_used(tmp_path):
    folder = write_folder(tmp_path / "set", [f"{n}_1.png" for n in range(12, 20)])
    recipe = PipnetRecipe(architecture="resnet18", imagenet=False, size=64, neighbours=4, nrm=False)
    task = recipe.build([folder])
    batch = task.make_batch(np.arange(2), np.random.default_rng(0))
    torch.manual_seed(0)
    outputs = [torch.randn(2, n, 2, 2, requires_grad=True) for n in (68, 68, 68, 272, 272)]
    torch.stack([*task.losses(outputs, batch).values()]).sum().backward()
    assert [bool(maps.grad.any()) for maps in outputs] == [True, True, True, False, False]
    named = {k: v.detach().numpy() for k, v in zip(OUTPUT_NAMES, outputs, strict=True)}
    points = task.decode(named).points
    for i in range(68):
        r, c = divmod(int(named["cls"][0, i].argmax()), 2)
        own = (c + named["x"][0, i, r, c]) / 2, (r + named["y"][0, i, r, c]) / 2
        np.testing.assert_allclose(points[0, i], own, rtol=1e-5)


def test_the_spec_states_whose_opinions_count(tmp_path):
    folder = write_folder(tmp_path / "set", [f"{n}_1.png" for n in range(12, 20)])
    recipe = PipnetRecipe(architecture="resnet18", imagenet=False, size=64, neighbours=4)
    params = recipe.build([folder]).spec.decoder_params
    assert params["opinions"] == padded_opinions(np.array(params["neighbours"]))
    table = loop_neighbours(np.array(params["mean_face"]), 4)
    assert params["neighbours"] == [[int(j) for j in row] for row in table]


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_recipes_know_every_trunk(architecture):
    recipe = PipnetRecipe(architecture=architecture, imagenet=False, neighbours=1)
    spec = recipe.model_spec(np.random.default_rng(0).random((68, 2)))
    with torch.device("meta"):
        assert architecture_of(spec) == identify(shapes_of(recipe.network().state_dict()))


def test_weights_must_match_the_folders(tmp_path):
    with pytest.raises(DataError, match="2 weights for 1"):
        PipnetRecipe(weights=(1.0, 2.0)).build([tmp_path])


@pytest.mark.parametrize(
    "setting",
    [
        {"size": 100},
        {"architecture": "vgg"},
        {"weights": (0.0,)},
        {"neighbours": 68},
        {"neighbours": 0},
        {"stride": 64},
        {"stride": 128, "architecture": "resnet18", "size": 320},
    ],
)
def test_impossible_recipes_are_refused_by_name(setting):
    with pytest.raises(TrainingError, match=next(iter(setting))):
        PipnetRecipe(**setting)


def test_a_trunk_without_imagenet_weights_says_so():
    with pytest.raises(CheckpointError, match="--no-imagenet"):
        build_pipnet("resnet18", 68, 10).load_imagenet()


@pytest.mark.parametrize(
    ("record", "photo"),
    [
        ({"image": "images/18489332_10.jpg"}, "18489332"),
        ({"image": "IMG_1234.jpg"}, "IMG_1234"),
        ({"image": "frame_000001.png"}, "frame_000001"),
        ({"image": "a_1.jpg", "photo": "holiday/7"}, "holiday/7"),
    ],
)
def test_the_photo_of_an_image(record, photo):
    assert photo_of(record) == photo


def test_large_photos_are_averaged_not_sampled():
    """A fine checkerboard shrinks to its mean, as it does in the SDK's crops."""
    board = (np.indices((800, 800)).sum(axis=0) % 2 * 255).astype(np.uint8)
    image = np.repeat(board[..., None], 3, axis=2)
    crop = cut(image, crop_matrix((400.0, 400.0, 640.0), 64), 64)
    assert abs(crop.astype(int) - 128).max() <= 2
