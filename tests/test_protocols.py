"""The protocols across data sets of docs/protocols.md, on small sets.

Of the page's commands `facemark-convert` and `facemark eval` are run, the latter with models made
here under the names that the page gives them. `facemark-train` and `facemark-export` are only
parsed, by their own parsers; their work is tested elsewhere.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import shlex
import sys
from pathlib import Path

import cv2
import dataset_samples as made
import numpy as np
import pytest
import tyro
from conftest import ROOT, landmark_graph, landmark_spec, save

from facemark_export import cli as export_cli
from facemark_export.training import cli as training_cli
from facemark_export.training.augment import square_around
from facemark_export.training.datasets import PIPNET_RULES, pipnet_box
from facemark_export.training.datasets import aflw as aflw_module
from facemark_export.training.datasets import vw300 as vw300_module
from facemark_export.training.datasets.cli import run as convert_set
from facemark_export.training.landmark_data import read_faces
from facemark_export.training.pseudo_labels import read_unlabelled
from facemark_export.training.recipes.pipnet import PUBLISHED
from facemark_sdk.cli import run as facemark
from facemark_sdk.crop import CROP_RULES, cut
from facemark_sdk.layouts import convert, get_layout

PAGE = (ROOT / "docs" / "protocols.md").read_text()
LINES = [
    *"".join(re.findall(r"```\n(.*?)```", PAGE, re.DOTALL)).replace("\\\n", " ").splitlines(),
    *re.findall(r"`(facemark-export --ckpt [^`]*)`", PAGE),  # in the text
]
COMMANDS = [shlex.split(line) for line in LINES]
LAYOUT_OF = {
    "gsl.onnx": "ibug68",
    "published98.onnx": "wflw98",
    "published19.onnx": "aflw19",
    "hrnet19.onnx": "aflw19",
    "trained_on_cofw.onnx": "cofw29",
    "trained_on_300w.onnx": "ibug68",
    "trained_on_wflw.onnx": "wflw98",
}


def of_program(name):
    return [arguments for program, *arguments in COMMANDS if program == name]


def mean_of(layout):
    """Where the model of a layout sees every face: (L, 2) fractions of its crop."""
    count = get_layout(layout).num_points
    return np.random.default_rng(count).uniform(0.1, 0.9, (count, 2)).round(4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The sets in small, under the names of the page, converted as it says; the models it names."""
    folder = tmp_path_factory.mktemp("protocols")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(aflw_module, "TRAIN_FACES", 1)
        patch.setattr(vw300_module, "TEST_VIDEOS", {"category1": (114,), "category3": (410,)})
        make_sets()
        for arguments in of_program("facemark-convert"):
            tyro.cli(convert_set, args=arguments)
    for file, layout in LAYOUT_OF.items():
        mean = mean_of(layout)
        spec = dataclasses.replace(landmark_spec(mean), layout=layout, crop=CROP_RULES["box"])
        save(landmark_graph(mean), spec, folder / file)
    return folder


@pytest.fixture
def converted(folder, monkeypatch):
    monkeypatch.chdir(folder)


def make_sets():
    made.make_300w(Path("300W"))
    made.make_cofw68(Path("COFW"))
    made.make_cofw(Path("COFW"), "train")
    made.make_wflw(Path("WFLW"))
    made.make_aflw(Path("AFLW"))
    made.make_hrnet(Path("HRNET"), "aflw", 19, "test", box_size=True)
    for video in ("114", "410"):
        made.make_300vw(Path("300VW"), video, 6, [1, 2, 3, 4, 5, 6])
    made.write_picture(Path("CelebA/img_celeba/1.jpg"), 1)
    made.write_text(Path("CelebA/celeba_bboxes.txt"), "1.jpg 20 10 80 70")


def evaluate(capsys, *arguments):
    """The table and its lines, in one line."""
    boxes = () if "--boxes" in arguments else ("--boxes", "points")  # made-up faces: none is found
    assert facemark([*arguments, *boxes, "--backend", "cpu"]) == 0
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.usefixtures("converted")
def test_every_evaluation_of_the_page_works(capsys):
    said = {}
    for arguments in of_program("facemark"):
        assert arguments[0] == "eval"
        said[" ".join(arguments[1:3])] = evaluate(capsys, *arguments)
    of = said["gsl.onnx 300w_test"]
    assert "8 faces of 300w_test + cofw68_test + wflw68_test, boxes from the annotations" in of
    assert "- challenge" in of
    assert "68 points of ibug68; a face" in of
    assert "98 points of wflw98; a face" in said["published98.onnx wflw_crops"]
    assert "errors over image" in said["published19.onnx aflw_crops"]
    assert "errors over the annotated norm" in said["hrnet19.onnx hrnet_test"]
    of = said["trained_on_cofw.onnx aflw_test"]
    assert "19 points of aflw19, predictions mapped from cofw29" in of
    of = said["trained_on_300w.onnx 300vw_test"]
    assert "4 faces of 300vw_test" in of  # the first and the sixth frame of two videos
    assert "- category3" in of
    of = said["trained_on_300w.onnx wflw_test"]
    assert "68 points of ibug68, annotations mapped from wflw98; a face" in of
    of = said["trained_on_wflw.onnx 300vw_test"]
    assert "68 points of ibug68, predictions mapped from wflw98; a face" in of


@pytest.mark.usefixtures("converted")
def test_training_takes_the_options_of_the_page(monkeypatch):
    begun = []
    monkeypatch.setattr(
        training_cli, "train_rounds", lambda recipe, name, data, out, resume: begun.append(recipe)
    )
    monkeypatch.setattr(training_cli.Run, "__init__", lambda *_, **__: None)
    monkeypatch.setattr(training_cli.Run, "train", lambda self: None)
    monkeypatch.setattr(
        type(training_cli.RECIPES["pipnet_r18_published"][1]),
        "build",
        lambda recipe, data: begun.append(recipe),
    )
    for arguments in of_program("facemark-train"):
        monkeypatch.setattr(sys, "argv", ["facemark-train", *arguments])
        training_cli.main()
    supervised, *_ = begun
    assert supervised == dataclasses.replace(PUBLISHED, growth=1.3)
    for field in dataclasses.fields(supervised):  # so that their results are comparable
        settings = [getattr(recipe, field.name) for recipe in begun]
        assert settings == settings[:1] * 3, field.name
    assert [recipe.box_growth for recipe in begun[1:]] == [(0, 0, 0, 0)] * 2
    assert all(recipe.curriculum for recipe in begun[1:])
    for recipe, faces in zip(begun[1:], (5, 1), strict=True):
        unlabelled = read_unlabelled(recipe.unlabelled)
        assert [face.box for face in unlabelled] == [(0, 0, 256, 256)] * faces
        assert recipe.rule == CROP_RULES["box-square"]


def test_exports_take_the_options_of_the_page(monkeypatch):
    asked = []

    @functools.wraps(export_cli.export)  # the parser reads its signature
    def noted(out, **options):
        asked.append((str(out), options))

    monkeypatch.setattr(export_cli, "export", noted)
    for arguments in of_program("facemark-export"):
        monkeypatch.setattr(sys, "argv", ["facemark-export", *arguments])
        export_cli.main()
    assert [out for out, _ in asked] == ["gsl.onnx", "published.onnx"]
    assert [str(options["ckpt"]) for _, options in asked] == [
        *("runs/gsl/best.safetensors", "epoch59.pth")
    ]
    assert [CROP_RULES[options["crop"]] for _, options in asked] == [CROP_RULES["box"]] * 2


@pytest.mark.usefixtures("converted")
def test_crops_reach_the_network_as_they_are():
    """`--crop box` on a crop with its own box copies it, and points keep their fractions."""
    record = json.loads(Path("cofw68_test/annotations.jsonl").read_text().splitlines()[0])
    crop = cv2.imread(f"cofw68_test/{record['image']}")
    out = np.zeros((1, 256, 256, 3), np.uint8)
    affines = cut(CROP_RULES["box"], crop, np.array([record["box"]]), out)
    np.testing.assert_array_equal(out[0], crop)
    np.testing.assert_array_equal(affines[0], [[1, 0, 0], [0, 1, 0]])


@pytest.mark.usefixtures("converted")
def test_errors_on_published_crops_are_the_published_ones(capsys):
    """COMPAT 1.7: errors and norm in fractions of the crop, WFLW-68's box cut at the top."""
    options = ("--boxes", "annotated", "--report", "report")
    evaluate(capsys, "eval", "gsl.onnx", "wflw68_test", *options)
    reported = json.loads(Path("report/report.json").read_text())
    for index, face in enumerate(reported["faces"]):
        points = convert(made.face(98, index), "wflw98", "ibug68").astype(np.float64)
        x0, y0, x1, y1 = made.WFLW_BOXES[index]
        w, h = x1 - x0, y1 - y0
        x0, x1 = np.clip([x0 - 0.1 * w, x1 + 0.1 * w], 0, 119)
        y0, y1 = np.clip([y0 + 0.1 * h, y1 + 0.1 * h], 0, 89)
        truth = (points - [x0, y0]) / [x1 - x0, y1 - y0]
        errors = np.linalg.norm(mean_of("ibug68") - truth, axis=1)
        nme = errors.mean() / np.linalg.norm(truth[36] - truth[45])
        # the network gives the same fractions of every crop, and crops lie at whole pixels
        moved = 0.76 / np.linalg.norm(points[36] - points[45])
        assert face["nme_percent"]["clean"] == pytest.approx(100 * nme, abs=100 * moved)


@pytest.mark.usefixtures("converted")
def test_cofws_training_faces_are_cut_as_cofw68_is():
    (record, *_) = map(json.loads, Path("cofw_train/annotations.jsonl").read_text().splitlines())
    x, y, w, h = made.COFW_BOXES[0]
    box = np.array([x, y, x + w - 1, y + h - 1])
    crop = pipnet_box(PIPNET_RULES["cofw68-gssl"], made.face(29, 0), box, 120, 90)
    np.testing.assert_allclose(np.array(record["points"]) / 256, crop.points, atol=1e-8)
    left, top = x - 0.15 * w, y - 0.15 * h
    np.testing.assert_allclose(crop.box[:2], np.clip([left, top], 0, None))


def test_growing_by_a_third_takes_the_whole_crop(tmp_path, monkeypatch):
    """What `--growth 1.3` rests on: 300W's crops are their points' box grown to 1.3 times."""
    monkeypatch.chdir(tmp_path)
    faces = made.make_300w(Path("300W"))
    for name, points in faces.items():  # far from the border, where crops end
        made.write_picture(Path("300W") / name, 1, 400, 400)
        made.write_pts((Path("300W") / name).with_suffix(".pts"), points + 150)
    convert_set("300w", Path("300W"), Path("out"), "train", crop="pipnet-gssl")
    for face in read_faces(Path("out"), "ibug68", 68):
        x, y, side = square_around(face.points, 1.3)
        assert (x, y) == pytest.approx((128, 128), abs=3)
        assert side == pytest.approx(256, abs=4)
