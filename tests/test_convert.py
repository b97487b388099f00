"""facemark-convert: an official data set becomes a folder that training reads."""

from __future__ import annotations

import json
import subprocess

import cv2
import dataset_samples as made
import numpy as np
import pytest

from facemark_export.training.annotations import photo_of, read_annotations
from facemark_export.training.datasets import FORMATS, PIPNET_RULES, pipnet_box
from facemark_export.training.datasets import aflw as aflw_module
from facemark_export.training.datasets.cli import UsageError, run
from facemark_export.training.landmark_data import read_faces
from facemark_sdk.errors import DataError, LayoutError
from facemark_sdk.layouts import convert as convert_points
from facemark_sdk.layouts import get_layout


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def source(tmp_path):
    return tmp_path / "source"


def records_and_faces(out):
    """The records, and the same faces as training reads them."""
    records = read_annotations(out)
    layout = records[0]["layout"]
    faces = read_faces(out, layout, get_layout(layout).num_points)
    assert [face.photo for face in faces] == [photo_of(record) for record in records]
    return records, faces


def test_300w(source, out):
    stored = made.make_300w(source)
    run("300w", source, out, "test")
    records, faces = records_and_faces(out)
    assert [r["image"] for r in records] == [f"images/{name}" for name in made.W300_TEST]
    assert [r["subsets"] for r in records] == [["common"], ["common"], ["challenge"]]
    for name, record, face in zip(made.W300_TEST, records, faces, strict=True):
        # .pts files count from 1, we from 0
        np.testing.assert_allclose(face.points, stored[name] - 1, atol=1e-5)
        np.testing.assert_allclose(record["points"], stored[name] - 1, rtol=0, atol=1e-9)
        assert record["split"] == "test"
        assert face.encoded.tobytes() == (source / name).read_bytes()


def test_origin_can_be_said_otherwise(source, out):
    stored = made.make_300w(source)
    run("300w", source, out, "train", origin=0)
    np.testing.assert_array_equal(read_annotations(out)[0]["points"], stored["afw/111_1.jpg"])


def test_faces_of_one_image_share_it(source, out):
    made.make_wflw(source)
    run("wflw", source, out)
    records, faces = records_and_faces(out)
    assert records[0]["image"] == records[1]["image"] != records[2]["image"]
    assert len(list((out / "images").rglob("*.jpg"))) == 2
    np.testing.assert_array_equal(faces[1].points, made.face(98, 1).astype(np.float32))
    assert records[1]["box"] == list(made.WFLW_BOXES[1])


def test_links(source, out):
    made.make_wflw(source)
    run("wflw", source, out, link=True)
    link = out / "images" / made.WFLW_NAMES[2]
    assert link.is_symlink()
    assert link.resolve() == (source / "WFLW_images" / made.WFLW_NAMES[2]).resolve()
    records_and_faces(out)


def test_wflw_as_68_points(source, out):
    made.make_wflw(source)
    run("wflw", source, out, layout="ibug68")
    records, faces = records_and_faces(out)
    assert {record["layout"] for record in records} == {"ibug68"}
    for index, face in enumerate(faces):
        expected = convert_points(made.face(98, index), "wflw98", "ibug68")
        np.testing.assert_allclose(face.points, expected, atol=1e-4)


def test_faces_of_another_layout_are_left_out_with_a_count(source, out, capsys):
    for seed, (name, count) in enumerate({"a": 68, "b": 39, "c": 39}.items()):
        made.write_picture(source / "train" / f"{name}.png", seed)
        made.write_pts(source / "train" / f"{name}.pts", made.face(count, seed))
    run("menpo2d", source, out)
    assert len(records_and_faces(out)[0]) == 1
    assert "1 faces -> " in (said := capsys.readouterr().err)
    assert "2 left out for their layout" in said
    profiles = out.with_name("profiles")
    run("menpo2d", source, profiles, layout="points39")
    assert len(records_and_faces(profiles)[0]) == 2
    with pytest.raises(DataError, match="no face to write, 3 of another layout"):
        run("menpo2d", source, out.with_name("none"), layout="wflw98")
    assert not (out.with_name("none") / "annotations.jsonl").exists()


def test_cofw_images_come_out_of_the_file_unchanged(source, out):
    images = made.make_cofw(source)
    run("cofw", source, out, "test")
    records, faces = records_and_faces(out)
    np.testing.assert_array_equal(faces[0].image()[..., 0], images[0])
    np.testing.assert_array_equal(faces[1].image(), images[1])
    assert [r["visible"].count(False) for r in records] == [0, 1]
    x, y, w, h = made.COFW_BOXES[0]
    assert records[0]["box"] == [x - 1, y - 1, x + w - 2, y + h - 2]


def test_300vw_frames(source, out):
    stored = made.make_300vw(source, "001", 5, [1, 2, 3, 4, 5])
    run("300vw", source, out, stride=3)
    records, faces = records_and_faces(out)
    assert [r["image"] for r in records] == ["images/001/000001.jpg", "images/001/000004.jpg"]
    assert abs(faces[1].image().mean() - 40) < 3
    np.testing.assert_allclose(faces[1].points, stored[4] - 1, atol=1e-5)
    assert {face.photo for face in faces} == {"300vw/001"}


def test_every_format_round_trips(source, out, monkeypatch):
    monkeypatch.setattr(aflw_module, "TRAIN_FACES", 2)
    makers = {
        "aflw": made.make_aflw,
        "cofw68": made.make_cofw68,
        "hrnet": lambda root: made.make_hrnet(root, "aflw", 19, "test", box_size=True),
    }
    for name, make in makers.items():
        make(source / name)
        run(name, source / name, out / name, "test")
        records, faces = records_and_faces(out / name)
        samples = list(FORMATS[name].read(source / name, "test"))
        for record, face, sample in zip(records, faces, samples, strict=True):
            expected = sample.points - FORMATS[name].origin
            np.testing.assert_allclose(face.points, expected, atol=1e-4)
            assert record.get("norm") == sample.norm


def test_faces_without_points_have_records_without(source, out):
    made.write_picture(source / "images_train" / "a.png", 1)
    made.write_text(source / "train.txt", "a.png")
    run("pipnet", source, out)
    (record,) = read_annotations(out)
    named = {"image": "images/a.png", "photo": "a", "split": "train", "subsets": []}
    assert record == {**named, "box": [0, 0, 120, 90]}  # the crop itself


def test_pipnet_crops_are_the_published_ones(source, out):
    made.make_wflw(source)
    run("wflw", source, out, "test", crop="pipnet")
    records, faces = records_and_faces(out)
    assert len({record["image"] for record in records}) == 3
    for index, (record, face) in enumerate(zip(records, faces, strict=True)):
        box = np.array(made.WFLW_BOXES[index], float)
        crop = pipnet_box(PIPNET_RULES["wflw"], made.face(98, index), box, 120, 90)
        np.testing.assert_allclose(np.array(record["points"]) / 256, crop.points, atol=1e-8)
        left, top, right, bottom = crop.pixels
        photo = cv2.imread(str(source / "WFLW_images" / made.WFLW_NAMES[index]))
        expected = cv2.resize(photo[top:bottom, left:right], (256, 256))
        np.testing.assert_array_equal(face.image(), expected)


def test_pipnet_crops_take_the_files_numbers_as_they_are(source, out):
    stored = made.make_300w(source)
    run("300w", source, out, "train", crop="pipnet-gssl")
    for name, record in zip(made.W300_TRAIN, read_annotations(out), strict=True):
        crop = pipnet_box(PIPNET_RULES["300w-gssl"], stored[name], None, 120, 90)
        np.testing.assert_allclose(np.array(record["points"]) / 256, crop.points, atol=1e-8)


def test_wflw68_for_cross_data_set_protocols(source, out):
    made.make_wflw(source)
    run("wflw", source, out, "test", crop="pipnet-gssl", layout="ibug68")
    points = convert_points(made.face(98, 0), "wflw98", "ibug68").astype(float)
    box = np.array(made.WFLW_BOXES[0], float)
    crop = pipnet_box(PIPNET_RULES["wflw68-gssl"], points, box, 120, 90)
    (record, *_), _ = records_and_faces(out)
    np.testing.assert_allclose(np.array(record["points"]) / 256, crop.points, atol=1e-6)


def test_face_crops(source, out):
    stored = made.make_300w(source)
    run("300w", source, out, "train", crop="face")
    records, faces = records_and_faces(out)
    assert [r["image"] for r in records][:2] == ["images/afw/111_1.jpg", "images/afw/111_2.jpg"]
    for name, face in zip(made.W300_TRAIN, faces, strict=True):
        shift = face.points - (stored[name] - 1)
        np.testing.assert_allclose(shift, np.broadcast_to(shift[0], shift.shape), atol=1e-4)
        assert shift[0].round(3).tolist() == shift[0].round().tolist()


def test_crops_of_one_photo_get_names_of_their_own(source, out):
    made.make_wflw(source)
    # A photo is called as the second face of another would be.
    path = source / made.WFLW_LISTS / "list_98pt_rect_attr_train.txt"
    other = "7--Cheering/7_a_1_1.jpg"
    made.write_picture(source / "WFLW_images" / other, 9)
    lines = path.read_text().splitlines()
    named = lines[2].replace(made.WFLW_NAMES[2], other)
    made.write_text(path, lines[0], named, lines[1])
    run("wflw", source, out, crop="face")
    records, _ = records_and_faces(out)
    assert [record["image"] for record in records] == [
        "images/7--Cheering/7_a_1.jpg",
        "images/7--Cheering/7_a_1_1.jpg",
        "images/7--Cheering/7_a_1_2.jpg",
    ]


@pytest.mark.parametrize("link", [False, True])
def test_images_stay_inside_the_folder(link, source, out):
    made.make_wflw(source)
    path = source / made.WFLW_LISTS / "list_98pt_rect_attr_train.txt"
    made.write_picture(source / "secret.jpg", 1)
    made.write_text(path, made.wflw_line(0).replace(made.WFLW_NAMES[0], "../secret.jpg"))
    with pytest.raises(DataError, match=r"'\.\./secret\.jpg': want a path inside"):
        run("wflw", source, out, link=link)
    assert not (out / "secret.jpg").exists()


def test_a_failed_conversion_leaves_no_annotations(source, out):
    made.make_300w(source)
    (source / "lfpw" / "trainset" / "3.pts").write_text("broken")
    with pytest.raises(DataError, match=r"3\.pts"):
        run("300w", source, out)
    assert list(out.glob("*annotations*")) == []


def test_a_folder_is_not_written_twice(source, out):
    made.make_300w(source)
    run("300w", source, out)
    before = (out / "annotations.jsonl").read_bytes()
    with pytest.raises(DataError, match="is there already; give a new folder"):
        run("300w", source, out, "test")
    assert (out / "annotations.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stride": 2}, "--stride is for videos, wflw has none"),
        ({"link": True, "crop": "face"}, "--link is for whole images"),
    ],
)
def test_options_that_do_not_go_together(options, message, source, out):
    made.make_wflw(source)
    with pytest.raises(UsageError, match=message):
        run("wflw", source, out, **options)


def test_wrong_options_of_other_formats(source, out):
    with pytest.raises(UsageError, match="--stride must be at least 1, got 0"):
        run("300vw", source, out, stride=0)
    with pytest.raises(UsageError, match="no such protocol for hih; for: 300w, wflw, cofw, aflw"):
        run("hih", source, out, crop="pipnet")
    with pytest.raises(LayoutError, match="unknown layout 'ibug86'"):
        run("wflw", source, out, layout="ibug86")


def test_command(run_python, source, out):
    made.make_wflw(source)

    def convert(*arguments) -> subprocess.CompletedProcess[str]:
        return run_python("-m", "facemark_export.training.datasets", *arguments)

    options = ("--source", source, "--out", out)
    done = convert("wflw", *options, "--split", "test", "--layout", "ibug68")
    assert done.returncode == 0, done
    assert done.stdout == ""
    assert f"3 faces -> {out}" in done.stderr
    lines = (out / "annotations.jsonl").read_text().splitlines()
    assert [json.loads(line)["layout"] for line in lines] == ["ibug68"] * 3
    again = convert("wflw", *options)
    assert (again.returncode, again.stderr.count("\n")) == (1, 1)
    assert again.stderr.startswith("facemark-convert: ")
    assert convert("wflw", *options, "--stride", "3").returncode == 2
    assert convert("nothing", *options).returncode == 2
