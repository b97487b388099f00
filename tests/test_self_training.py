"""Self-training: the curriculum's tasks, pseudo-labels, rounds (paper section 3.3; COMPAT 1.5)."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from by_heart import FACES, HELEN, STILL, learn_by_heart, nme_of
from conftest import SHARED
from test_pip_decode import loop_decode
from test_pipnet_training import as_tensors, drawn_face, loop_losses, write_folder

from facemark_export import checkpoint
from facemark_export.export import export_checkpoint
from facemark_export.networks.pipnet import build_pipnet
from facemark_export.training import cli, pseudo_labels, self_training
from facemark_export.training.augment import square_around
from facemark_export.training.landmark_data import read_faces
from facemark_export.training.loop_recipe import TrainingError
from facemark_export.training.pipnet import SCORE_WEIGHT, PipnetTask, pip_targets
from facemark_export.training.pseudo_labels import (
    fitted_rule,
    predict_points,
    read_labels,
    read_unlabelled,
    write_labels,
)
from facemark_export.training.recipes import landmarks
from facemark_export.training.recipes.self_training import SelfTrainingRecipe
from facemark_export.training.self_training import (
    coarse_cells,
    curriculum_losses,
    round_seed,
)
from facemark_sdk import Detector, LandmarkModel
from facemark_sdk.decode.pip import OUTPUT_NAMES, nearest_neighbours
from facemark_sdk.errors import DataError
from facemark_sdk.spec import CropRule

WEIGHTS = {"offset_weight": 1.0, "neighbour_weight": 1.0}
GRID, LANDMARKS, NEIGHBOURS = 8, 3, 2


# --- tasks ----------------------------------------------------------------------------------


@pytest.fixture
def points():
    """Four faces; some landmarks lie outside the crop."""
    return np.random.default_rng(3).uniform(-0.1, 1.1, (4, LANDMARKS, 2)).astype(np.float32)


@pytest.fixture
def batch(points):
    neighbours = nearest_neighbours(points[0], NEIGHBOURS)
    labelled = torch.tensor([True, False, True, False])
    return {**as_tensors(pip_targets(points, neighbours, GRID)), "labelled": labelled}


def raw_maps(halvings, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    rows = (LANDMARKS,) * 3 + (LANDMARKS * NEIGHBOURS,) * 2
    sides = [(n, GRID) for n in rows] + [(LANDMARKS, GRID >> halvings)]
    return [torch.randn(4, n, g, g, generator=generator, dtype=dtype) for n, g in sides]


@pytest.mark.parametrize("halvings", [0, 1, 2])
def test_coarse_cells_are_those_of_the_points_on_the_coarse_grid(points, batch, halvings):
    found = coarse_cells(batch["cell"], GRID, halvings)
    side = GRID >> halvings
    for n, face in enumerate(points):
        for i, (x, y) in enumerate(face):
            column, row = (min(max(int(np.floor(v * side)), 0), side - 1) for v in (x, y))
            assert found[n, i] == row * side + column


@pytest.mark.parametrize("halvings", [1, 2])
def test_losses_are_sums_over_what_counts_divided_by_how_much_counts(points, batch, halvings):
    maps = raw_maps(halvings)
    losses = curriculum_losses(maps, batch, halvings, WEIGHTS)
    marked = torch.tensor([0, 2])
    expected = loop_losses([m[marked] for m in maps[:5]], {k: v[marked] for k, v in batch.items()})
    side = GRID >> halvings
    total, count = 0.0, 0
    for n in (1, 3):
        for i, (x, y) in enumerate(points[n]):
            column, row = (min(max(int(np.floor(v * side)), 0), side - 1) for v in (x, y))
            for r in range(side):
                for c in range(side):
                    truth = float((r, c) == (row, column))
                    total += (maps[5][n, i, r, c].item() - truth) ** 2
                    count += 1
    expected["coarse_score"] = SCORE_WEIGHT * total / count
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(float(value), rel=1e-5), name


@pytest.mark.parametrize("marked", [True, False])
def test_what_a_batch_does_not_hold_costs_nothing(batch, marked):
    batch["labelled"] = torch.full((4,), marked)
    losses = curriculum_losses(raw_maps(2), batch, 2, WEIGHTS)
    silent = {"coarse_score"} if marked else {"score", "offset", "neighbour"}
    assert {name for name, value in losses.items() if value == 0} == silent


def test_gradients_of_the_masked_losses_are_right(batch):
    """Against finite differences, in float64."""
    maps = [m[:2].clone().requires_grad_() for m in raw_maps(2, torch.float64)]
    targets = {k: v[:2].double() if v.is_floating_point() else v[:2] for k, v in batch.items()}
    weights = {"offset_weight": 0.2, "neighbour_weight": 0.7}

    def total(*outputs):
        return torch.stack([*curriculum_losses(outputs, targets, 2, weights).values()]).sum()

    assert torch.autograd.gradcheck(total, maps)


def test_unlabelled_faces_reach_the_coarse_maps_only(batch):
    maps = [m.requires_grad_() for m in raw_maps(1)]
    torch.stack([*curriculum_losses(maps, batch, 1, WEIGHTS).values()]).sum().backward()
    for own in maps[:5]:
        assert torch.count_nonzero(own.grad[[1, 3]]) == 0
        assert torch.count_nonzero(own.grad[[0, 2]]) > 0
    assert torch.count_nonzero(maps[5].grad[[0, 2]]) == 0
    assert torch.count_nonzero(maps[5].grad[[1, 3]]) > 0


def test_the_same_layer_reads_features_pooled_twice():
    torch.manual_seed(0)
    network = build_pipnet("resnet18", LANDMARKS, NEIGHBOURS)
    network.halvings = 2
    seen = []
    network.cls_layer.register_forward_hook(
        lambda _, inputs, output: seen.append((*inputs, output))
    )
    outputs = network.train()(torch.randn(2, 3, 256, 256))
    (features, _), (pooled, coarse) = seen
    assert features.shape[2:] == (8, 8)
    plain = features
    for _ in range(2):
        n, c, h, w = plain.shape
        plain = plain.reshape(n, c, h // 2, 2, w // 2, 2).amax(dim=(3, 5))
    assert torch.equal(pooled, plain)
    assert len(outputs) == 6
    assert outputs[5] is coarse
    assert coarse.shape == (2, LANDMARKS, 2, 2)
    with torch.inference_mode():
        assert len(network.eval()(torch.zeros(1, 3, 64, 64))) == 5


@pytest.mark.shared
def test_labelled_faces_are_learned_by_heart_beside_coarsely_labelled_ones(monkeypatch):
    """Task 2 on eight real faces, half of which count on the coarse grid alone."""
    unlabelled = []

    def halves(faces):
        unlabelled.extend(faces[FACES // 2 : FACES])
        return faces[: FACES // 2], faces[: FACES // 2]

    monkeypatch.setattr(landmarks, "split_by_photo", halves)
    recipe = SelfTrainingRecipe(
        architecture="resnet18", imagenet=False, size=128, curriculum=False, augmentation=STILL
    )
    torch.manual_seed(0)
    faces = recipe.read([HELEN])
    squares = [square_around(face.points, recipe.growth) for face in unlabelled]
    task = recipe.round_task(faces, unlabelled, squares, halvings=1)
    losses = learn_by_heart(task, rate=1e-3, steps=50)
    assert nme_of(task) < 1.0
    assert losses["coarse_score"] < 0.01  # zeros in all of a map's four cells would cost 2.5
    others = recipe.task(replace(faces, held_out=unlabelled))
    others.network = task.network
    assert nme_of(others) > 5.0  # their points are not given away


# --- pseudo-labels --------------------------------------------------------------------------


def unlabelled_folder(folder, count):
    """Drawn faces with the box of their points, not the points."""
    folder.mkdir(parents=True)
    rng, lines = np.random.default_rng(9), []
    for number in range(count):
        image, points = drawn_face(rng)
        cv2.imwrite(str(folder / f"u{number}.png"), image)
        box = [*points.min(axis=0).tolist(), *points.max(axis=0).tolist()]
        lines.append(json.dumps({"image": f"u{number}.png", "box": box}))
    (folder / "annotations.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def test_pseudo_labels_are_the_merged_predictions(tmp_path):
    folder = unlabelled_folder(tmp_path / "u", 3)
    rule = CropRule(0.1, 0.3, 0.2, 0.0, square=True)
    recipe = SelfTrainingRecipe(architecture="mobilenet_v2", imagenet=False, neighbours=3)
    spec = recipe.model_spec(np.random.default_rng(0).random((68, 2)))
    torch.manual_seed(1)
    network = recipe.network()
    for name, weight in network.named_parameters():
        if "_layer.weight" in name:
            torch.nn.init.normal_(weight, std=0.5)
    faces = read_unlabelled([folder])
    found = predict_points(network, spec, rule, faces, torch.device("cpu"))
    for face, label in zip(faces, found, strict=True):
        x1, y1, x2, y2 = face.box
        w, h = x2 - x1, y2 - y1
        x1, y1, x2 = x1 - 0.1 * w, y1 - 0.3 * h, x2 + 0.2 * w
        side = max(x2 - x1, y2 - y1)
        left, top = (x1 + x2 - side) / 2, (y1 + y2 - side) / 2
        step = side / 256
        crop = cv2.warpAffine(
            cv2.imread(str(face.path)),
            np.array([[step, 0, left], [0, step, top]]),
            (256, 256),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        )
        x = (crop[..., ::-1] - np.float32(spec.input.mean)) / np.float32(spec.input.std)
        with torch.inference_mode():
            maps = network(torch.from_numpy(x.transpose(2, 0, 1)[None].astype(np.float32)))
        outputs = {name: m.numpy() for name, m in zip(OUTPUT_NAMES, maps, strict=True)}
        merged, _ = loop_decode(outputs, spec.decoder_params["neighbours"])
        np.testing.assert_allclose(label, merged[0] * side + (left, top), atol=0.02)


def test_stored_labels_come_back_with_the_squares_they_were_made_in(tmp_path):
    faces = read_unlabelled([unlabelled_folder(tmp_path / "u", 2)])
    points = np.random.default_rng(0).random((2, 68, 2)).astype(np.float32) * 160
    rule = CropRule(0.5, 0.0, 0.5, 0.25, square=True)
    write_labels(tmp_path / "round1", faces, rule, points, "ibug68")
    stored, squares = read_labels(tmp_path / "round1", "ibug68")
    for face, (x, y, side), label, read in zip(faces, squares, points, stored, strict=True):
        np.testing.assert_array_equal(read.points, label)
        assert read.path == face.path
        x1, y1, x2, y2 = face.box
        assert side == pytest.approx(max(2 * (x2 - x1), 1.25 * (y2 - y1)))
        assert (x, y) == pytest.approx(((x1 + x2) / 2, (y1 + y2) / 2 + 0.125 * (y2 - y1)))


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"image": "a.png"}, "needs image and box"),
        ({"image": "a.png", "box": [3, 3, 1, 9]}, "x2 > x1"),
        ({"image": "a.png", "box": [1, 2, 3]}, r"\(N, 4\)"),
        ({"image": "gone.png", "box": [1, 2, 3, 4]}, "no image .*gone.png"),
    ],
)
def test_bad_records_name_file_and_line(tmp_path, record, message):
    (tmp_path / "annotations.jsonl").write_text(json.dumps(record) + "\n")
    with pytest.raises(DataError, match=f"line 1: .*{message}"):
        read_unlabelled([tmp_path])


@pytest.mark.shared
def test_boxes_of_a_detector_give_the_crops_that_faces_are_trained_in():
    faces = read_faces(SHARED / "data" / "landmarks68" / "helen_train", "ibug68", 68)[:300:20]
    rule = fitted_rule(faces, 1.3)
    boxes = [pseudo_labels.FaceDetector()(face.image()).boxes[0] for face in faces]
    for face, box in zip(faces, boxes, strict=True):
        x, y, side = square_around(face.points, 1.3)
        low, high = box[:2], box[2:]
        grown = (high - low) * (1 + rule.left + rule.right, 1 + rule.top + rule.bottom)
        middle = (low + high) / 2 + (high - low) * (0, (rule.bottom - rule.top) / 2)
        assert max(grown) == pytest.approx(side, rel=0.25)
        assert np.abs(middle - (x, y)).max() < 0.15 * side


# --- rounds ---------------------------------------------------------------------------------

SETTINGS = [
    *("--architecture", "mobilenet_v2", "--no-imagenet", "--neighbours", "3"),
    *("--epochs", "2", "--batch-size", "5", "--full-rounds", "1", "--validate-every", "2"),
    *("--precision", "float32", "--threads", "1", "--workers", "0", "--device", "cpu"),
    *("--box-growth", "0.15", "0.15", "0.15", "0.15"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    # Of these photos 16 and 17 are held out.
    labelled = write_folder(folder / "labelled", [f"{n}_1.png" for n in range(12, 22)])
    return labelled, unlabelled_folder(folder / "unlabelled", 8)


def train(monkeypatch, data, out, *more):
    labelled, unlabelled = map(str, data)
    argv = ["pipnet_stc", "--data", labelled, "--unlabelled", unlabelled, "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["facemark-train", *argv, *SETTINGS, *more])
    cli.main()


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A supervised training and three rounds: tasks 1, 2 and 3."""
    out = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        train(patch, data, out)
    return out


def weights_in(path):
    return checkpoint.read(path).weights


def test_rounds_follow_each_other_from_fresh_weights(whole, data):
    assert sorted(p.name for p in whole.iterdir()) == [
        *("best.safetensors", "round0", "round1", "round2", "round3"),
    ]
    assert not (whole / "round0" / "annotations.jsonl").exists()
    unlabelled = read_unlabelled([data[1]])
    for number in (1, 2, 3):
        teacher = whole / f"round{number - 1}" / "best.safetensors"
        stored = checkpoint.read(teacher)
        recipe = SelfTrainingRecipe(architecture="mobilenet_v2", imagenet=False, neighbours=3)
        network = recipe.network()
        network.load_state_dict(dict(stored.weights))
        rule = CropRule(*(0.15,) * 4, square=True)
        points = predict_points(network, stored.spec, rule, unlabelled, torch.device("cpu"))
        faces, _ = read_labels(whole / f"round{number}", "ibug68")
        np.testing.assert_array_equal(np.stack([face.points for face in faces]), points)
    logs = [(whole / f"round{n}" / "log.csv").read_text().splitlines()[0] for n in range(4)]
    assert ["coarse_score" in line for line in logs] == [False, True, True, False]
    last = weights_in(whole / "round3" / "best.safetensors")
    for name, value in weights_in(whole / "best.safetensors").items():
        assert torch.equal(value, last[name])


class _Killed(BaseException):
    """Nothing of ours catches it."""


def _killing(function, at):
    calls = iter(range(at))

    def call(*args, **kwargs):
        if next(calls, None) is None:
            raise _Killed
        return function(*args, **kwargs)

    return call


def test_killed_rounds_go_on_to_the_same_end(whole, data, tmp_path, monkeypatch):
    """Killed in round 0, when round 2 needs its labels, in round 2, and when all is trained."""
    for attempt, (where, name, at) in enumerate(
        (
            (PipnetTask, "losses", 3),
            (self_training, "predict_points", 1),
            (self_training, "curriculum_losses", 5),
            (self_training, "replace_file", 0),
        )
    ):
        with monkeypatch.context() as patch:
            patch.setattr(where, name, _killing(getattr(where, name), at))
            with pytest.raises(_Killed):
                train(patch, data, tmp_path, *["--resume"][:attempt])
    assert not (tmp_path / "best.safetensors").exists()
    train(monkeypatch, data, tmp_path, "--resume")
    for number in range(1, 4):
        labels = [out / f"round{number}" / "annotations.jsonl" for out in (whole, tmp_path)]
        assert labels[0].read_text() == labels[1].read_text()
    expected, found = (weights_in(out / "best.safetensors") for out in (whole, tmp_path))
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        assert torch.equal(value, found[key]), key


def test_the_last_round_exports_with_parity(whole, tmp_path, photo):
    report = export_checkpoint(whole / "best.safetensors", tmp_path / "stc.onnx")
    assert report.checks["fp32"].passed
    crops = np.zeros((2, 256, 256, 3), np.uint8)
    assert LandmarkModel(tmp_path / "stc.onnx").predict_crops(crops).points.shape == (2, 68, 2)
    (face,) = Detector(landmarks=tmp_path / "stc.onnx", backend="cpu")(photo)
    assert face.landmarks.shape == (68, 2)


def test_a_run_is_neither_overwritten_nor_gone_on_with_other_epochs(
    whole, data, monkeypatch, capsys
):
    for more, message in (
        ((), "already holds a run; add --resume"),
        (("--resume", "--epochs", "3"), "begun with --epochs 2, got 3"),
        (("--resume", "--no-curriculum"), "curriculum was True, is False"),
    ):
        with pytest.raises(SystemExit) as stopped:
            train(monkeypatch, data, whole, *more)
        assert stopped.value.code == 1
        assert message in capsys.readouterr().err


def test_without_unlabelled_faces_there_is_nothing_to_train_oneself_on(
    data, tmp_path, monkeypatch, capsys
):
    argv = ["facemark-train", "pipnet_stc", "--data", str(data[0]), "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit):
        cli.main()
    assert "--unlabelled" in capsys.readouterr().err


def test_tasks_grow_harder_only_with_curriculum():
    assert SelfTrainingRecipe().rounds == (2, 1, 0, 0, 0)
    assert SelfTrainingRecipe(curriculum=False).rounds == (0, 0, 0)
    assert SelfTrainingRecipe(curriculum=False, size=64).rounds == (0, 0, 0)


@pytest.mark.parametrize(
    "setting",
    [{"full_rounds": 0}, {"unlabelled_weight": 0.0}, {"size": 128}, {"size": 320}],
)
def test_impossible_recipes_are_refused_by_name(setting):
    with pytest.raises(TrainingError, match=next(iter(setting))):
        SelfTrainingRecipe(**setting)


def test_every_round_of_every_seed_has_its_own_chance():
    seeds = [
        seed if number == 0 else round_seed(seed, number)
        for seed in range(9)
        for number in range(6)
    ]
    assert len(set(seeds)) == len(seeds)
