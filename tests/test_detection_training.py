"""Training a detector: the network's names, targets, losses, augmentation, and that it learns."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from facemark_export.networks.retinaface import RetinaFace  # noqa: E402
from facemark_export.training import detection_data as data  # noqa: E402
from facemark_export.training import detection_loss as loss  # noqa: E402
from facemark_export.training import detection_warp as geometry  # noqa: E402
from facemark_export.training.detection import DetectionTask, detect, pad  # noqa: E402
from facemark_export.training.detection_colour import hue_rotation, jitter_colour, saturation_matrix  # noqa: E402
from facemark_export.training.detection_scenes import (  # noqa: E402
    Scene,
    halvings,
    hashed,
    read_scenes,
    split_scenes,
)
from facemark_export.training.recipes.retinaface_mnet025 import RetinaFaceMnet025  # noqa: E402
from facemark_sdk.detect.retinaface import MEAN_BGR, decode_boxes, decode_points, iou, priors  # noqa: E402
from facemark_sdk.errors import DataError  # noqa: E402

KEYS = Path(__file__).parents[2] / "shared" / "compat" / "keys" / "retinaface_mnet025.txt"
KPS = np.array([[0.32, 0.42], [0.68, 0.42], [0.5, 0.62], [0.36, 0.78], [0.64, 0.78]], np.float32)
"""Five points of an upright face in its box."""

seeds = st.integers(0, 2**32 - 1)


def make_scene(
    boxes: list[tuple[float, float, float, float]], image: NDArray[np.uint8], name: str = "a.jpg"
) -> Scene:
    """A scene with upright faces in the given boxes."""
    corners = np.array(boxes, np.float32).reshape(-1, 4)
    kps = corners[:, None, :2] + KPS * (corners[:, 2:] - corners[:, :2])[:, None]
    return Scene(
        name,
        halvings(image),
        corners,
        kps,
        np.ones(len(corners), bool),
        np.zeros(len(corners), bool),
    )


def draw_scene(
    boxes: list[tuple[float, float, float, float]], seed: int, name: str = "a.jpg"
) -> Scene:
    """A noisy photo with cartoon faces."""
    rng = np.random.default_rng(seed)
    small = rng.integers(40, 140, (15, 20, 3)).astype(np.uint8)
    image = cv2.resize(small, (320, 240), interpolation=cv2.INTER_CUBIC)
    scene = make_scene(boxes, image, name)
    for (x1, y1, x2, y2), kps in zip(scene.boxes.tolist(), scene.kps, strict=True):
        centre, axes = (
            (round((x1 + x2) / 2), round((y1 + y2) / 2)),
            (round((x2 - x1) / 2), round((y2 - y1) / 2)),
        )
        cv2.ellipse(image, centre, axes, 0, 0, 360, (150, 180, 230), -1)
        for point in kps:
            cv2.circle(
                image,
                tuple(np.rint(point).astype(int).tolist()),
                max(2, axes[0] // 8),
                (20, 20, 60),
                -1,
            )
    return make_scene(boxes, image, name)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [
        draw_scene([(60, 50, 150, 170)], 0),
        draw_scene([(20, 30, 80, 110), (200, 100, 270, 190)], 1),
        draw_scene([(100, 20, 240, 210)], 2),
        draw_scene([], 3),
    ]


def read_keys() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the published checkpoint."""
    rows = [line.split("\t") for line in KEYS.read_text().splitlines() if "\t" in line]
    return {
        row[0]: tuple(int(side) for side in row[1].strip("()").split(",") if side.strip())
        for row in rows
    }


@pytest.mark.skipif(not KEYS.exists(), reason="the key lists lie beside the repository")
def test_network_has_the_published_names_and_shapes() -> None:
    ours = {key: tuple(value.shape) for key, value in RetinaFace().state_dict().items()}
    assert list(ours.items()) == list(read_keys().items())


def test_network_has_300_tensors() -> None:
    assert len(RetinaFace().state_dict()) == 300


@pytest.mark.parametrize(("height", "width"), [(64, 64), (96, 160)])
def test_network_gives_a_row_a_prior(height: int, width: int) -> None:
    with torch.no_grad():
        outputs = RetinaFace().eval()(torch.zeros(2, 3, height, width))
    anchors = len(priors(height, width))
    assert [tuple(output.shape) for output in outputs] == [
        (2, anchors, 4),
        (2, anchors, 2),
        (2, anchors, 10),
    ]


def test_network_orders_its_rows_as_the_priors_are() -> None:
    network = RetinaFace().eval()
    heads = network.BboxHead
    with torch.no_grad():
        for level, head in enumerate(heads):
            head.conv1x1.weight.zero_()
            head.conv1x1.bias.copy_(torch.arange(8.0) + 100 * level)
        loc = network(torch.zeros(1, 3, 64, 96))[0][0]
    levels = np.repeat([0, 1, 2], [2 * 8 * 12, 2 * 4 * 6, 2 * 2 * 3])
    np.testing.assert_array_equal(
        loc[:, 0].numpy(), 100 * levels + 4 * (np.arange(len(levels)) % 2)
    )
    sizes = priors(64, 96)[:, 2]
    np.testing.assert_array_equal(
        sizes, np.array([(16, 32), (64, 128), (256, 512)])[levels, np.arange(len(levels)) % 2]
    )


@given(seed=seeds)
@settings(max_examples=30, deadline=None)
def test_decoding_inverts_encoding(seed: int) -> None:
    rng = np.random.default_rng(seed)
    anchors = rng.permutation(priors(128, 96))[:20]
    corners = rng.uniform(-50, 150, (20, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(5, 300, (20, 2))], axis=1).astype(
        np.float32
    )
    kps = rng.uniform(-50, 200, (20, 5, 2)).astype(np.float32)
    loc = loss.encode_boxes(torch.from_numpy(boxes), torch.from_numpy(anchors)).numpy()
    landms = loss.encode_points(torch.from_numpy(kps), torch.from_numpy(anchors)).numpy()
    np.testing.assert_allclose(decode_boxes(loc, anchors), boxes, atol=0.01)
    np.testing.assert_allclose(decode_points(landms, anchors), kps, atol=0.01)


@given(seed=seeds)
@settings(max_examples=30, deadline=None)
def test_assignment_obeys_its_thresholds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    anchors = priors(160, 160)
    centres, sizes = (
        rng.uniform(10, 150, (5, 2)),
        np.exp(rng.uniform(np.log(12), np.log(150), (5, 2))),
    )
    boxes = np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=1).astype(np.float32)
    kinds = np.array([loss.FACE, loss.FACE, loss.FACE, loss.IGNORED, loss.PADDING])
    result = loss.assign(
        torch.from_numpy(boxes)[None], torch.from_numpy(kinds)[None], torch.tensor(anchors)
    )
    positive, negative, truth = (
        part[0].numpy() for part in (result.positive, result.negative, result.truth)
    )
    corners = np.concatenate(
        [anchors[:, :2] - anchors[:, 2:] / 2, anchors[:, :2] + anchors[:, 2:] / 2], axis=1
    )
    overlaps = iou(boxes[:3], corners)
    best = overlaps.max(axis=0)
    assert not (positive & negative).any()
    assert positive[best >= loss.POSITIVE_IOU].all()
    assert not negative[best >= loss.NEGATIVE_IOU].any()
    assert set(truth[positive]) <= {0, 1, 2}
    forced = positive & (best < loss.POSITIVE_IOU)
    assert forced.sum() <= 3
    for face, overlap in enumerate(overlaps):
        rivals = overlaps[:, overlap.argmax()]
        if overlap.max() >= loss.FORCED_IOU and rivals.argmax() == face:
            assert (truth[positive] == face).any()


def test_a_small_face_gets_its_best_prior_though_it_overlaps_little() -> None:
    anchors = torch.tensor(priors(64, 64))
    tall = torch.tensor([[[20.0, 16.0, 27.0, 30.0]]])
    result = loss.assign(tall, torch.tensor([[loss.FACE]]), anchors)
    assert result.positive.sum() == 1


def test_an_ignored_face_is_not_background() -> None:
    anchors = torch.tensor(priors(64, 64))
    face = torch.tensor([[[21.0, 20.0, 27.0, 28.0]]])
    result = loss.assign(face, torch.tensor([[loss.IGNORED]]), anchors)
    assert not result.positive.any()
    spared = anchors[~result.negative[0]]
    assert len(spared) > 0
    assert (spared[:, 2] <= 32).all()
    assert torch.allclose(spared[:, :2].mean(dim=0), torch.tensor([24.0, 24.0]), atol=4)


def loss_of(
    kinds: list[int], *, conf: float = 0.0, pointed: bool = True
) -> dict[str, torch.Tensor]:
    """Losses of one frame with one truth of each kind, for constant outputs."""
    anchors = torch.tensor(priors(64, 64))
    outputs = [torch.zeros(1, len(anchors), width) for width in (4, 2, 10)]
    outputs[1][..., 1] = conf
    boxes = torch.tensor([[[16.0, 16.0, 48.0, 48.0]]]).repeat(1, len(kinds), 1)
    kps = torch.full((1, len(kinds), 5, 2), 30.0)
    known = torch.full((1, len(kinds)), pointed)
    return loss.detection_losses(*outputs, boxes, kps, torch.tensor([kinds]), known, anchors)


def test_losses_are_finite_without_faces_and_without_points() -> None:
    empty = loss_of([loss.PADDING])
    assert (empty["box"], empty["points"]) == (0, 0)
    assert 0 < empty["face"] < float("inf")
    pointless = loss_of([loss.FACE], pointed=False)
    assert pointless["points"] == 0
    assert pointless["box"] > 0


def test_face_loss_counts_seven_hard_negatives_a_positive() -> None:
    positives = loss_of([loss.FACE])["face"]
    assert positives.item() == pytest.approx((1 + loss.NEGATIVES) * np.log(2), rel=1e-5)


def test_padding_changes_no_loss() -> None:
    alone, padded = (
        loss_of([loss.FACE], conf=0.3),
        loss_of([loss.FACE, loss.PADDING, loss.PADDING], conf=0.3),
    )
    for name, value in alone.items():
        torch.testing.assert_close(value, padded[name])


MIRROR = np.array([[-1.0, 0, 99], [0, 1, 0]])


@given(seed=seeds)
@settings(max_examples=20, deadline=None)
def test_flipping_twice_changes_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    kps = rng.uniform(0, 100, (3, 5, 2)).astype(np.float32)
    corners = rng.uniform(0, 50, (3, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(1, 50, (3, 2))], axis=1).astype(
        np.float32
    )
    once = geometry.move_points(kps, MIRROR)
    np.testing.assert_allclose(once[:, 0], kps[:, 1] * (-1, 1) + (99, 0), atol=1e-4)
    np.testing.assert_allclose(geometry.move_points(once, MIRROR), kps, atol=1e-4)
    np.testing.assert_allclose(
        geometry.move_boxes(geometry.move_boxes(boxes, MIRROR), MIRROR), boxes, atol=1e-4
    )


@given(angle=st.floats(-np.pi, np.pi), scale=st.floats(0.1, 4))
@settings(max_examples=40, deadline=None)
def test_a_turned_box_is_around_the_turned_ellipse(angle: float, scale: float) -> None:
    boxes = np.array([[10, 20, 70, 110]], np.float32)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    affine = np.column_stack([turn, [5, -7]])
    around = np.linspace(0, 2 * np.pi, 2000)
    ellipse = np.array([40, 65]) + np.column_stack([30 * np.cos(around), 45 * np.sin(around)])
    moved = ellipse @ turn.T + affine[:, 2]
    expected = np.concatenate([moved.min(axis=0), moved.max(axis=0)])
    np.testing.assert_allclose(
        geometry.move_boxes(boxes, affine)[0], expected, atol=0.02 * scale + 1e-3
    )


@given(seed=seeds)
@settings(max_examples=40, deadline=None)
def test_pixels_and_points_move_alike(seed: int) -> None:
    """The photo's colours are its coordinates, so that every tile says where it was taken from."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices((200, 250))
    scene = make_scene(
        [(80, 60, 150, 150)], np.dstack([columns, rows, np.zeros_like(rows)]).astype(np.uint8)
    )
    affine = data.around_face(scene, 160, 120, rng)
    tile = np.empty((120, 160, 3), np.uint8)
    geometry.warp(scene, affine, tile)
    scale = np.sqrt(abs(np.linalg.det(affine[:, :2])))
    faces = data.place(scene, affine, 160, 120)
    sources = (
        scene.kps[0][list(geometry.FLIP_KPS)] if np.linalg.det(affine[:, :2]) < 0 else scene.kps[0]
    )
    for kps in faces.kps:
        for (x, y), source in zip(np.rint(kps).astype(int).tolist(), sources, strict=True):
            if 2 <= x < 158 and 2 <= y < 118:
                np.testing.assert_allclose(tile[y, x, :2], source, atol=1.5 + 1.5 / scale)


@given(seed=seeds, side=st.sampled_from([128, 256]))
@settings(max_examples=30, deadline=None)
def test_composed_frames_keep_their_promises(scenes: list[Scene], seed: int, side: int) -> None:
    frame, faces = data.compose(scenes, seed % len(scenes), side, np.random.default_rng(seed))
    assert frame.shape == (side, side, 3)
    assert frame.dtype == np.uint8
    counted = faces.boxes[faces.kinds == loss.FACE]
    centres = (counted[:, :2] + counted[:, 2:]) / 2
    assert ((centres >= 0) & (centres < side)).all()
    assert ((counted[:, 2:] - counted[:, :2]).max(axis=1, initial=0) >= data.IGNORED_SIDE).all()
    inner = (faces.kps >= faces.boxes[:, None, :2]) & (faces.kps <= faces.boxes[:, None, 2:])
    assert inner.all()


def test_the_same_generator_composes_the_same_frame(scenes: list[Scene]) -> None:
    first, again = (data.compose(scenes, 1, 128, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1].boxes, again[1].boxes)


def test_frames_have_small_and_large_faces(scenes: list[Scene]) -> None:
    rng = np.random.default_rng(0)
    faces = [data.compose(scenes, n % len(scenes), 256, rng)[1] for n in range(150)]
    sides = np.concatenate(
        [(f.boxes[:, 2:] - f.boxes[:, :2]).max(axis=1)[f.kinds == loss.FACE] for f in faces]
    )
    assert (sides < 24).sum() > 5
    assert (sides > 230).sum() > 2


def test_a_crop_beside_faces_shows_none(scenes: list[Scene]) -> None:
    rng = np.random.default_rng(0)
    affines = [data.beside_faces(scenes[0], 96, 96, rng) for _ in range(20)]
    found = [affine for affine in affines if affine is not None]
    assert found
    assert all(len(data.place(scenes[0], affine, 96, 96).boxes) == 0 for affine in found)


def test_faces_a_teacher_doubted_are_ignored(scenes: list[Scene]) -> None:
    scene = scenes[0]
    doubted = Scene(
        scene.name, scene.levels, scene.boxes, scene.kps, scene.pointed, np.array([True])
    )
    identity = np.array([[1.0, 0, 0], [0, 1, 0]])
    assert data.place(doubted, identity, 320, 240).kinds.tolist() == [loss.IGNORED]
    assert data.place(scene, identity, 320, 240).kinds.tolist() == [loss.FACE]


def test_colour_matrices() -> None:
    grey = np.full(3, 90.0)
    np.testing.assert_allclose(saturation_matrix(0.3) @ grey, grey)
    np.testing.assert_allclose(hue_rotation(0.4) @ grey, grey)
    np.testing.assert_allclose(hue_rotation(0.4) @ hue_rotation(-0.4), np.eye(3), atol=1e-12)
    assert np.ptp(saturation_matrix(0) @ (10, 200, 30)) < 1e-9
    image = np.random.default_rng(0).integers(0, 256, (8, 9, 3)).astype(np.uint8)
    assert jitter_colour(image, np.random.default_rng(1)).shape == image.shape


def test_padding_of_a_batch(scenes: list[Scene]) -> None:
    rng = np.random.default_rng(0)
    faces = [data.compose(scenes, n, 128, rng)[1] for n in range(4)]
    batch = pad(faces)
    assert batch["boxes"].shape[:2] == batch["kinds"].shape
    counts = (batch["kinds"] != loss.PADDING).sum(dim=1).tolist()
    assert counts == [len(frame.boxes) for frame in faces]


def write_scenes(folder: Path, count: int) -> None:
    """A folder of photos with one face each, as ../shared/data/scenes is laid out."""
    (folder / "images").mkdir(parents=True)
    lines = []
    for n in range(count):
        scene = draw_scene([(60, 50, 150, 170)], n)
        name = f"images/{n:04d}.png"
        cv2.imwrite(str(folder / name), scene.image)
        face = {
            "box": scene.boxes[0].tolist(),
            "kps": scene.kps[0].tolist(),
            "score": 1.0 if n else 0.5,
        }
        lines.append(
            json.dumps({"image": name, "size": [320, 240], "faces": [face] if n != 1 else []})
        )
    (folder / "annotations.jsonl").write_text("\n".join(lines), encoding="utf-8")


def test_scenes_are_read_and_split(tmp_path: Path) -> None:
    write_scenes(tmp_path / "scenes", 6)
    read = read_scenes([tmp_path / "scenes"])
    assert [len(scene.boxes) for scene in read] == [1, 0, 1, 1, 1, 1]
    assert read[0].doubtful.tolist() == [True]
    assert read[2].doubtful.tolist() == [False]
    names = tmp_path / "val.txt"
    names.write_text("images/0003.png\nimages/0005.png\n")
    train, validation = split_scenes(read, names)
    assert [scene.name for scene in validation] == ["images/0003.png", "images/0005.png"]
    assert len(train) == 4


def test_the_split_by_hash_does_not_depend_on_the_other_photos() -> None:
    image = np.zeros((16, 16, 3), np.uint8)
    many = [make_scene([], image, f"images/{n}.jpg") for n in range(300)]
    chosen = hashed(many)
    assert 10 < len(chosen) < 60
    assert hashed(many[:150]) == chosen & {scene.name for scene in many[:150]}


def test_missing_scenes_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"annotations\.jsonl"):
        read_scenes([tmp_path])
    (tmp_path / "annotations.jsonl").write_text(json.dumps({"image": "gone.jpg", "faces": []}))
    with pytest.raises(DataError, match=r"gone\.jpg"):
        read_scenes([tmp_path])


def test_training_finds_drawn_faces(scenes: list[Scene]) -> None:
    """A few dozen steps on drawings: the losses fall, and the faces are found where they are."""
    torch.manual_seed(0)
    spec = RetinaFaceMnet025(det_size=320).spec()
    task = DetectionTask(scenes[:2], scenes[:2], spec=spec, sides=(320,), repeats=1)
    network, mean = task.network, torch.tensor(MEAN_BGR).float().view(1, 3, 1, 1)
    canvases = [scene.image for scene in task.train]
    image = torch.from_numpy(
        np.stack([cv2.copyMakeBorder(c, 0, 16, 0, 0, cv2.BORDER_REPLICATE) for c in canvases])
    )
    identity = np.array([[1.0, 0, 0], [0, 1, 0]])
    batch = {"image": image, **pad([data.place(scene, identity, 320, 256) for scene in task.train])}
    optimizer = torch.optim.Adam(network.parameters(), lr=4e-3)

    def forward(images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return network(images.permute(0, 3, 1, 2).float() - mean)

    history = []
    for _ in range(80):
        total = sum(task.losses(forward(batch["image"]), batch).values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        history.append(total.item())
    network.eval()
    with torch.no_grad():
        boxes, _ = detect(forward, scenes[0].image, 320)
        figures = task.validate(forward)
    assert history[-1] < 0.2 * history[0]
    assert iou(boxes[:1], scenes[0].boxes)[0, 0] > 0.6
    assert figures["recall"] == 1
    assert figures["ap"] > 0.9
