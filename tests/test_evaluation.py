"""Annotated faces in, boxes, predictions and figures out; nothing malformed, nothing lost."""

from __future__ import annotations

import dataclasses
import json
import math

import cv2
import numpy as np
import pytest
from conftest import landmark_graph, landmark_spec, save

from facemark_sdk import DataError, FacemarkError, LandmarkModel, LayoutError, get_layout
from facemark_sdk.evaluation import (
    Norm,
    Prediction,
    annotated_boxes,
    check_norm,
    common_layout,
    detected_boxes,
    figures,
    fitting_box,
    judge,
    mean_shape,
    parts,
    predict_faces,
    read_faces,
    seed_of,
    tight_boxes,
    with_subset,
)
from facemark_sdk.evaluation.boxes import LEAST_IOU
from facemark_sdk.evaluation.figures import WFLW_SUBSETS
from facemark_sdk.evaluation.sheet import BAND, POINT_COLOUR, SIDE, TRUTH_COLOUR, Tile, draw_sheet
from facemark_sdk.layouts import convert
from facemark_sdk.metrics import NORMALISERS, scales
from facemark_sdk.robustness import perturb

FIVE = [[10.0, 20.0], [40.0, 20.0], [25.0, 35.0], [12.0, 50.0], [38.0, 50.0]]


def line(**changes):
    return {"image": "a.png", "points": FIVE, "layout": "kps5", **changes}


@pytest.fixture
def write(tmp_path):
    """Write a data folder of these lines."""

    def make(*records, name="data"):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        lines = [entry if isinstance(entry, str) else json.dumps(entry) for entry in records]
        (folder / "annotations.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return folder

    return make


# --- reading ---


def test_a_line_says_all_of_a_face(write):
    folder = write(line(box=[1, 2, 30, 40], subsets=["blur"]), "", line(image="ü b.png"))
    first, second = read_faces(folder)
    assert first.points.dtype == np.float32
    np.testing.assert_array_equal(first.points, np.float32(FIVE))
    np.testing.assert_array_equal(first.box, [1, 2, 30, 40])
    assert (first.set_name, first.image, first.subsets) == ("data", "a.png", ("blur",))
    assert first.path == folder / "a.png"
    assert first.layout is get_layout("kps5")
    assert (second.box, second.subsets) == (None, ())
    assert second.where.endswith("annotations.jsonl, line 3")
    assert read_faces(folder, "mine")[0].set_name == "mine"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{", "line 2: not a JSON object"),
        ("[1]", "line 2: not a JSON object"),
        (line(image=7), "line 2: 'image' must name a photo, got 7"),
        (line(image=""), "'image' must name"),
        (line(points=FIVE[:4]), "line 2: 'points' must be 5 pairs of pixels"),
        (line(points=[[1, math.nan]] * 5), "'points' must be"),
        (line(points=[[1, 1e9]] * 5), "'points' must be"),
        (line(points=[[1], [2, 3]]), "'points' must be"),
        (line(points=None), "'points' must be"),
        (line(points=[[1, 2]] * 5), "all lie on one line"),
        (line(layout="moon"), "line 2: unknown layout 'moon'"),
        ({"image": "a.png", "points": FIVE}, "line 2: unknown layout ''"),
        (line(layout=["kps5"]), "line 2: unknown layout"),
        (line(box=[1, 2, 3]), "line 2: boxes must have shape"),
        (line(box=[5, 5, 1, 1]), "line 2: boxes must be x1 y1 x2 y2"),
        (line(box="wide"), "line 2: boxes must be numbers"),
        (line(subsets="blur"), "line 2: 'subsets' must be a list of names"),
        (line(subsets=[1]), "line 2: 'subsets' must be"),
        (line(norm=0), "line 2: 'norm' must be a positive number of pixels, got 0"),
        (line(norm="wide"), "'norm' must be"),
        (line(norm=math.nan), "'norm' must be"),
    ],
)
def test_malformed_lines_are_named(write, entry, message):
    with pytest.raises(DataError, match=message):
        read_faces(write(line(), entry))


def test_missing_and_empty_files(write, tmp_path):
    with pytest.raises(DataError, match="jsonl does not exist"):
        read_faces(tmp_path / "nowhere")
    with pytest.raises(DataError, match="holds no face"):
        read_faces(write(""))
    (tmp_path / "data" / "annotations.jsonl").write_bytes(b'{"image": "\xff"}')
    with pytest.raises(DataError, match="no UTF-8"):
        read_faces(tmp_path / "data")


def test_one_layout_at_a_time(write):
    many = np.random.default_rng(0).uniform(0, 99, (68, 2)).tolist()
    faces = read_faces(write(line(), line(points=many, layout="ibug68")))
    assert common_layout(faces[:1]).name == "kps5"
    with pytest.raises(LayoutError, match=r"line 1 is .* 'kps5', .*line 2 in 'ibug68'"):
        common_layout(faces)


def test_subsets_from_files(write, tmp_path):
    faces = read_faces(write(line(image="x/a.png"), line(image="b.png"), line(image="c.png")))
    listed = tmp_path / "hard.txt"
    listed.write_text("x/a.png\n\n  c.png\n")
    marked = with_subset(faces, listed)
    assert [face.subsets for face in marked] == [("hard",), (), ("hard",)]
    listed.write_text("a.png\n")
    assert [face.subsets for face in with_subset(marked, listed)] == [("hard",), (), ("hard",)]
    listed.write_text("a.png\nz.png\n")
    with pytest.raises(DataError, match=r"lists 'z.png', which no annotation is of \(1 such"):
        with_subset(faces, listed)
    listed.write_text("\n")
    with pytest.raises(DataError, match="lists no photo"):
        with_subset(faces, listed)
    with pytest.raises(DataError, match="does not exist"):
        with_subset(faces, tmp_path / "nix.txt")


def test_parts_are_sets_and_subsets_in_the_published_order(write):
    faces = read_faces(write(line(subsets=["zebra", "blur"]), line(subsets=["pose", "largepose"])))
    faces += read_faces(write(line(subsets=["blur"]), name="other"))
    sets, subsets = parts(faces)
    assert {name: mask.tolist() for name, mask in sets.items()} == {
        "data": [True, True, False],
        "other": [False, False, True],
    }
    assert list(subsets) == ["largepose", "blur", "pose", "zebra"]
    assert subsets["blur"].tolist() == [True, False, True]
    assert len(WFLW_SUBSETS) == 6


# --- boxes ---


def test_the_fitting_box_overlaps_the_points_most():
    points = np.float32(FIVE)  # tight box 10, 20, 40, 50
    boxes = np.float32([[200, 200, 240, 240], [10, 5, 40, 50], [10, 20, 40, 80]])
    np.testing.assert_array_equal(fitting_box(boxes, points), boxes[1])
    assert fitting_box(boxes[:1], points) is None
    assert fitting_box(boxes[:0], points) is None
    side = 30 / math.sqrt(LEAST_IOU)  # a box around the tight one with just that overlap
    for factor, found in ((0.99, True), (1.01, False)):
        box = np.float32([[10, 20, 10 + side * factor, 20 + side * factor]])
        assert (fitting_box(box, points) is not None) is found


def test_boxes_of_points_and_annotations(write):
    faces = read_faces(write(line(box=[1, 2, 30, 40]), line()))
    image = np.zeros((99, 99, 3), np.uint8)
    np.testing.assert_array_equal(tight_boxes(image, faces), [[10, 20, 40, 50]] * 2)
    np.testing.assert_array_equal(annotated_boxes(image, faces[:1]), [[1, 2, 30, 40]])
    with pytest.raises(DataError, match="line 2: no 'box' is annotated"):
        annotated_boxes(image, faces)


# --- predictions ---


@pytest.fixture
def data(write, tmp_path, scene, landmark_model, face_detector):
    """Two photos: one with two faces, of which the truth is known; one without any."""
    picture = scene((72, 72, 255), (184, 184, 200))
    folder = tmp_path / "data"
    folder.mkdir()
    cv2.imwrite(str(folder / "two.png"), picture)
    cv2.imwrite(str(folder / "none.png"), scene())
    boxes = face_detector(picture).boxes
    truth = landmark_model.predict(picture, boxes[np.argsort(boxes[:, 0])]).points
    records = [
        {"image": name, "points": points.tolist(), "layout": "ibug68"}
        for name, points in (
            ("two.png", truth[0]),
            ("two.png", truth[1] + 5),
            ("none.png", truth[0]),
        )
    ]
    return write(*records)


def run(model, faces, boxes_of, **options):
    return list(predict_faces(model, faces, boxes_of, layout=common_layout(faces), **options))


def test_each_face_gets_its_own_box_and_points(data, landmark_model, face_detector):
    faces = read_faces(data)
    first, second, missed = run(landmark_model, faces, detected_boxes(face_detector))
    np.testing.assert_allclose(first.points["clean"], faces[0].points, atol=1e-3)
    np.testing.assert_allclose(second.points["clean"], faces[1].points - 5, atol=1e-3)
    assert missed.points is None
    assert {first.size, second.size, missed.size} == {(256, 256)}


def test_a_photo_is_looked_at_once(data, landmark_model, face_detector):
    seen = []

    def detector(image):
        seen.append(image.shape)
        return face_detector(image)

    run(landmark_model, read_faces(data), detected_boxes(detector))
    assert len(seen) == 2


def test_protocols_change_the_photo_and_not_the_box(data, landmark_model):
    """What the model is given is the perturbed photo in the clean photo's box."""
    faces = read_faces(data)[:2]
    given = []

    class Watched:
        layout = landmark_model.layout
        predict_crops = landmark_model.predict_crops
        to_image = landmark_model.to_image

        def crop(self, images, boxes):
            given.append((images, boxes))
            return landmark_model.crop(images, boxes)

    protocols = ("clean", "occlusion-large", "blur-medium")
    predictions = run(Watched(), faces, tight_boxes, protocols=protocols, seed=4)
    clean = cv2.imread(str(faces[0].path))
    for face, prediction, (images, boxes) in zip(faces, predictions, given, strict=True):
        assert tuple(prediction.points) == protocols
        for protocol, image, box in zip(protocols, images, boxes, strict=True):
            expected = perturb(clean, face.points, protocol, seed_of(face, 4))
            np.testing.assert_array_equal(image, expected)
            np.testing.assert_array_equal(box, tight_boxes(clean, [face]))
    assert seed_of(faces[0], 4) != seed_of(faces[1], 4)


def test_predictions_are_mapped_to_the_truths_layout(data, tmp_path):
    """A 98-point model on 68-point truth."""
    mean = np.random.default_rng(98).uniform(0.1, 0.9, (98, 2)).round(4)
    path = tmp_path / "wflw.onnx"
    save(landmark_graph(mean), dataclasses.replace(landmark_spec(mean), layout="wflw98"), path)
    model = LandmarkModel(path, backend="cpu", threads=1)
    faces = read_faces(data)[:1]
    (prediction,) = run(model, faces, tight_boxes)
    image = cv2.imread(str(faces[0].path))
    full = model.predict(image, tight_boxes(image, faces)).points[0]
    np.testing.assert_array_equal(prediction.points["clean"], convert(full, "wflw98", "ibug68"))
    with pytest.raises(LayoutError, match=r"'wflw98' to 'cofw29'.*both map to"):
        predict_faces(model, faces, tight_boxes, layout=get_layout("cofw29"))


def test_photos_that_cannot_be_read_are_named(data, landmark_model):
    (data / "none.png").write_text("no image")
    with pytest.raises(DataError, match=r"line 3: image .*none.png"):
        run(landmark_model, read_faces(data), tight_boxes)
    (data / "none.png").unlink()
    with pytest.raises(DataError, match=r"line 3: image .* does not exist"):
        run(landmark_model, read_faces(data), tight_boxes)


# --- judging ---


def test_judged_by_hand(write):
    """Eyes 30 apart: one face 3 off everywhere, one 6 off at one of five points, one missed."""
    faces = read_faces(write(line(), line(), line(subsets=["blur"])))
    truth = np.float32(FIVE)
    one_off = truth.copy()
    one_off[2] += [6, 0]
    guesses = [{"clean": truth + np.float32([0, 3])}, {"clean": one_off}, None]
    predictions = [
        Prediction(face, (121, 201), points) for face, points in zip(faces, guesses, strict=True)
    ]
    judged = judge(predictions, "clean", Norm())
    assert judged.found.tolist() == [True, True, False]
    np.testing.assert_allclose(judged.nme[:2], [0.1, 0.04], rtol=1e-5)
    assert judged.rated_nme[2] == np.inf
    # The missed one is guessed to be the mean face, 60.5 px wide, in the middle of 121 x 201.
    unit = (truth - [25, 35]) / 30
    guess = unit * 60.5 + [60, 100]
    expected = np.linalg.norm(guess - truth, axis=1).mean() / 30
    assert judged.nme[2] == pytest.approx(expected, rel=1e-5)
    said = figures(judged)
    assert (said.faces, said.missed) == (3, 1)
    assert said.nme_percent == pytest.approx(100 * (0.1 + 0.04 + expected) / 3, rel=1e-5)
    assert said.median_nme_percent == pytest.approx(10, rel=1e-5)
    assert said.failure_percent["0.08"] == pytest.approx(200 / 3)
    # The first face has 0.1 everywhere, the second 0.2 at a point, the third fails everywhere.
    assert said.landmark_failure_percent["0.15"] == pytest.approx(100 * 6 / 15)
    assert said.auc == pytest.approx((0 + 0.6 + 0) / 3, abs=2e-3)
    only = figures(judged.only(parts(faces)[1]["blur"]))
    assert (only.faces, only.missed, only.failure_percent["0.10"]) == (1, 1, 100)


def test_points_in_common_are_judged(write, data, landmark_model):
    """A 68-point model on 98, 29 and 68 points at once, in the 19 that all of them have."""
    rng = np.random.default_rng(5)
    records = [
        {
            "image": "two.png",
            "points": rng.uniform(60, 190, (get_layout(name).num_points, 2)).tolist(),
            "layout": name,
        }
        for name in ("wflw98", "cofw29", "ibug68")
    ]
    faces = read_faces(write(*records))
    common = get_layout("aflw19")
    check_norm(faces, Norm(), common)
    predictions = list(predict_faces(landmark_model, faces, tight_boxes, layout=common))
    judged = judge(predictions, "clean", Norm(), common)
    image = cv2.imread(str(data / "two.png"))
    for i, face in enumerate(faces):
        truth = truth_of(face).astype(np.float64)
        # The box is that of all annotated points, whichever are measured.
        found = landmark_model.predict(image, tight_boxes(image, [face])).points[0]
        moved = np.linalg.norm(convert(found, "ibug68", "aflw19") - truth, axis=1)
        expected = moved / np.linalg.norm(truth[6] - truth[11])
        np.testing.assert_allclose(judged.errors[i], expected, rtol=1e-5)
    second = judged.only(np.array([False, True, False]))
    np.testing.assert_array_equal(second.truth, [truth_of(faces[1])])
    with pytest.raises(LayoutError, match="no mapping from layout 'wflw98' to 'cofw29'"):
        check_norm(faces, Norm(), get_layout("cofw29"))


def truth_of(face):
    """The 19 points of any."""
    return convert(face.points, face.layout.name, "aflw19")


@pytest.mark.parametrize("by", NORMALISERS)
@pytest.mark.parametrize("box", ["points", "annotated"])
def test_every_norm(write, by, box):
    faces = read_faces(write(line(box=[0, 0, 50, 200], norm=64)))
    check_norm(faces, Norm(by, box))
    predictions = [Prediction(faces[0], (80, 40), {"clean": faces[0].points + np.float32([8, 0])})]
    judged = judge(predictions, "clean", Norm(by, box))
    annotated = {"box": 100, "diagonal": math.hypot(50, 200)}
    truth = {"box": 30, "diagonal": math.hypot(30, 30), "image": 80, "given": 64}
    expected = (annotated if box == "annotated" and by in annotated else truth).get(by, 30)
    assert judged.nme[0] == pytest.approx(8 / expected, rel=1e-5)
    assert str(Norm(by, box)).split()[0] in (by, "the")


def test_norms_are_checked_before_the_work(write):
    coinciding = [FIVE[0], FIVE[0], *FIVE[2:]]
    faces = read_faces(write(line(box=[0, 0, 9, 9]), line(points=coinciding)))
    with pytest.raises(DataError, match="line 2: the distance 'inter-ocular'"):
        check_norm(faces, Norm())
    with pytest.raises(DataError, match="line 2: no 'box' is annotated"):
        check_norm(faces, Norm("diagonal", "annotated"))
    with pytest.raises(DataError, match="line 1: no 'norm' is annotated"):
        check_norm(faces, Norm("given"))
    check_norm(faces, Norm("box"))
    anonymous = read_faces(write(line(layout="points5")))
    with pytest.raises(LayoutError, match="no eye corners"):
        check_norm(anonymous, Norm())
    with pytest.raises(FacemarkError, match="the set is empty"):
        judge([], "clean", Norm())


def test_the_mean_shape_is_a_unit_face():
    rng = np.random.default_rng(0)
    shape = rng.uniform(0, 1, (68, 2)).astype(np.float32)
    copies = np.stack([shape * s + rng.uniform(0, 99, 2) for s in (10, 40, 90)]).astype(np.float32)
    mean = mean_shape(copies)
    assert np.ptp(mean, axis=0).max() == pytest.approx(1)
    np.testing.assert_allclose(mean.min(axis=0) + mean.max(axis=0), 0, atol=1e-6)
    unit = scales(mean[None], get_layout("ibug68"), "diagonal")[0, 0]
    assert unit == pytest.approx(
        math.hypot(*np.ptp(shape, axis=0)) / np.ptp(shape, axis=0).max(), rel=1e-4
    )


# --- the sheet of the worst ---


def colours(picture, colour):
    """Mean position (x, y) of the pixels of about a colour."""
    ys, xs = np.nonzero((np.abs(picture.astype(int) - colour) < 60).all(axis=2))
    return xs.mean(), ys.mean()


def test_points_are_drawn_where_they_are():
    image = np.full((300, 200, 3), 90, np.uint8)
    image[100, 60] = (255, 0, 255)
    image[99:102, 59:62] = (255, 0, 255)
    truth, points = np.float32([[60, 100]]), np.float32([[140, 180]])
    sheet = draw_sheet([Tile(image, truth, points, ("12 %", "a.png"))])
    # The square: 80 px of points and a fifth on each side, 112 px; from 44, 84 on.
    scale = SIDE / 112
    for place, colour in ((truth[0], TRUTH_COLOUR), (points[0], POINT_COLOUR)):
        expected = (place - [44, 84] + 0.5) * scale - 0.5
        assert colours(sheet[:SIDE], colour) == pytest.approx(tuple(expected), abs=0.6)
    seen = colours(draw_tile_photo(image), (255, 0, 255))
    assert seen == pytest.approx(tuple((truth[0] - [44, 84] + 0.5) * scale - 0.5), abs=0.6)


def draw_tile_photo(image):
    """The same tile with its points far out of the way of the mark."""
    corners = np.float32([[60, 180], [140, 100]])
    return draw_sheet([Tile(image, corners, None, ())])[:SIDE]


@pytest.mark.parametrize(
    ("count", "rows", "columns"), [(1, 1, 1), (5, 1, 5), (7, 2, 5), (20, 4, 5)]
)
def test_rows_and_columns(count, rows, columns):
    tile = Tile(np.zeros((50, 50, 3), np.uint8), np.float32([[5, 5], [40, 40]]), None, ("ü %",))
    height = draw_sheet([tile] * count).shape[0] - 24
    assert draw_sheet([tile] * count).shape[1] == columns * SIDE
    assert height == rows * (SIDE + BAND)


@pytest.mark.parametrize("far", [-1e6, 1e6])
def test_points_far_outside_cost_no_memory(far):
    image = np.zeros((50, 50, 3), np.uint8)
    truth = np.float32([[5, 5], [40, 40]])
    assert draw_sheet([Tile(image, truth, truth + np.float32(far), ("far",))]).shape[1] == SIDE
    with pytest.raises(FacemarkError, match="no faces to draw"):
        draw_sheet([])
