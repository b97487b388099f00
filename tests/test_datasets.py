"""Readers of official data set formats, on small files in exactly those formats (COMPAT 1.6)."""

from __future__ import annotations

import shutil
import sys

import dataset_samples as made
import h5py
import numpy as np
import pytest
from scipy.io import loadmat, savemat

from facemark_export.training.datasets import FORMATS
from facemark_export.training.datasets import aflw as aflw_module
from facemark_export.training.datasets import vw300 as vw300_module
from facemark_export.training.datasets.source import PUBLISHED
from facemark_sdk.errors import DataError


def read(dataset, root, split, **options):
    return list(FORMATS[dataset].read(root, split, **options))


def stored_pixels(sample):
    """What the sample shows, but for compression."""
    return sample.pixels().astype(int)


def assert_shows(sample, expected, tolerance=12):
    assert sample.pixels().shape[:2] == expected.shape[:2]
    expected = expected if expected.ndim == 3 else np.stack([expected] * 3, axis=-1)
    assert np.abs(stored_pixels(sample) - expected).mean() < tolerance


@pytest.mark.parametrize("name", FORMATS)
def test_an_empty_folder_says_what_is_missing_and_where_it_is_published(name, tmp_path):
    with pytest.raises(DataError) as error:
        read(name, tmp_path, "test" if name == "cofw68" else "train")
    assert str(error.value).startswith("no ")
    assert f" in {tmp_path}" in str(error.value)
    assert PUBLISHED[name] in str(error.value)
    assert "https://" in PUBLISHED[name] or "http://" in PUBLISHED[name]


@pytest.mark.parametrize("name", sorted(set(FORMATS) - {"hrnet", "pipnet", "hih"}))
def test_a_split_that_a_set_does_not_have(name, tmp_path):
    with pytest.raises(DataError, match=f"split 'other': {name} has "):
        read(name, tmp_path, "other")


def test_every_published_address_has_a_format():
    assert set(PUBLISHED) == set(FORMATS)


# .pts


@pytest.mark.parametrize(("split", "names"), [("train", made.W300_TRAIN), ("test", made.W300_TEST)])
def test_300w(split, names, tmp_path):
    faces = made.make_300w(tmp_path)
    samples = read("300w", tmp_path, split)
    assert [s.name for s in samples] == list(names)
    for sample in samples:
        np.testing.assert_array_equal(sample.points, faces[sample.name])
        assert sample.points.dtype == np.float64
        assert sample.layout == "ibug68"
        assert_shows(sample, made.picture(list(faces).index(sample.name)))


def test_300w_challenge_is_what_has_ibug_in_its_name(tmp_path):
    made.make_300w(tmp_path)
    subsets = {s.name: s.subsets for s in read("300w", tmp_path, "test")}
    assert list(subsets.values()) == [("common",), ("common",), ("challenge",)]
    assert {s.subsets for s in read("300w", tmp_path, "train")} == {()}


def test_300w_faces_of_a_photo_share_it(tmp_path):
    made.make_300w(tmp_path)
    photos = [s.photo for s in read("300w", tmp_path, "train")]
    assert photos == ["111", "111", "222", "3"]


def test_300w_lacks_an_image(tmp_path):
    made.make_300w(tmp_path)
    (tmp_path / "afw" / "111_2.jpg").unlink()
    with pytest.raises(DataError, match=r"image .* for 111_2\.pts in .*afw; 300w is published"):
        read("300w", tmp_path, "train")


def test_300w_folder_without_points(tmp_path):
    made.make_300w(tmp_path)
    for file in (tmp_path / "ibug").glob("*.pts"):
        file.unlink()
    with pytest.raises(DataError, match=r"no \*\.pts in .*ibug; 300w is published"):
        read("300w", tmp_path, "test")


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("n_points:  68", "n_points:  67", "67 points announced, 68 lines of points"),
        ("n_points:  68", "points", "line 2: want 'n_points: COUNT'"),
        ("{\n", "", "must stand between"),
        ("}\n", "", "must stand between"),
        ("}\n", "}\n}\n", "68 points announced, 69 lines"),
        ("{\n", "{\n1.0\n", "68 points announced, 69 lines"),
        ("\n}", " 3.0\n}", "line 71: want x and y, got 3 tokens"),
        ("\n}", "x\n}", "line 71: could not convert"),
        ("\n}", "e999\n}", "line 71: a number is not finite"),
        (None, "", "line 2"),
        (None, "version: 1\nn_points: 2\n{\n1 2\n3 4\n}", "2 points, 300W has 68"),
    ],
)
def test_malformed_pts(before, after, message, tmp_path):
    made.make_300w(tmp_path)
    file = tmp_path / "afw" / "111_1.pts"
    text = file.read_text()
    file.write_text(after if before is None else text.replace(before, after))
    with pytest.raises(DataError, match=message) as error:
        read("300w", tmp_path, "train")
    assert str(file) in str(error.value)


def test_pts_that_is_no_text(tmp_path):
    made.make_300w(tmp_path)
    (tmp_path / "afw" / "111_1.pts").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"111_1\.pts is not a text file"):
        read("300w", tmp_path, "train")


def test_menpo2d_profiles_have_a_layout_of_their_own(tmp_path):
    for seed, (name, count) in enumerate({"semifrontal/a": 68, "profile/b": 39}.items()):
        made.write_picture(tmp_path / "trainset" / f"{name}.jpg", seed)
        made.write_pts(tmp_path / "trainset" / f"{name}.pts", made.face(count, seed))
    profile, frontal = read("menpo2d", tmp_path, "train")
    assert (profile.layout, profile.subsets) == ("points39", ("profile",))
    assert (frontal.layout, frontal.subsets) == ("ibug68", ("semifrontal",))
    np.testing.assert_array_equal(profile.points, made.face(39, 1))
    made.write_pts(tmp_path / "trainset" / "profile" / "b.pts", made.face(40, 1))
    with pytest.raises(DataError, match="40 points, Menpo 2D has 68 or 39"):
        read("menpo2d", tmp_path, "train")


# 300VW


def test_300vw_takes_every_nth_frame_that_is_annotated(tmp_path):
    points = made.make_300vw(tmp_path, "001", 9, [1, 2, 3, 5, 7, 8])
    samples = read("300vw", tmp_path, "train", stride=2)
    assert [s.name for s in samples] == [f"001/{n:06d}.jpg" for n in (1, 3, 5, 7)]
    for sample, number in zip(samples, (1, 3, 5, 7), strict=True):
        np.testing.assert_array_equal(sample.points, points[number])
        assert abs(stored_pixels(sample).mean() - 10 * number) < 3
    assert {s.photo for s in samples} == {"300vw/001"}
    assert len(read("300vw", tmp_path, "train")) == 6


def test_300vw_test_videos_are_all_wanted_and_no_others(tmp_path, monkeypatch):
    monkeypatch.setattr(vw300_module, "TEST_VIDEOS", {"category1": (114,), "category3": (410,)})
    for video in ("001", "114", "410"):
        made.make_300vw(tmp_path, video, 2, [1])
    assert [(s.name, s.subsets) for s in read("300vw", tmp_path, "test")] == [
        ("114/000001.jpg", ("category1",)),
        ("410/000001.jpg", ("category3",)),
    ]
    assert [s.name for s in read("300vw", tmp_path, "train")] == ["001/000001.jpg"]
    shutil.rmtree(tmp_path / "410")
    with pytest.raises(DataError, match="no 410 in "):
        read("300vw", tmp_path, "test")


def test_300vw_protocol_has_64_videos():
    parts = {name: len(set(videos)) for name, videos in vw300_module.TEST_VIDEOS.items()}
    assert parts == {"category1": 31, "category2": 19, "category3": 14}


def test_300vw_video_that_ends_too_early(tmp_path):
    made.make_300vw(tmp_path, "001", 4, [1, 9])
    with pytest.raises(DataError, match=r"vid\.avi cannot be decoded past frame 4.*frame 9"):
        read("300vw", tmp_path, "train")
    (tmp_path / "001" / "vid.avi").write_bytes(b"no film")
    with pytest.raises(DataError, match="past frame 0"):
        read("300vw", tmp_path, "train")


# WFLW


def test_wflw_train(tmp_path):
    made.make_wflw(tmp_path)
    samples = read("wflw", tmp_path, "train")
    assert [s.name for s in samples] == list(made.WFLW_NAMES)
    for index, sample in enumerate(samples):
        np.testing.assert_array_equal(sample.points, made.face(98, index))
        assert sample.box.tolist() == list(made.WFLW_BOXES[index])
        assert sample.layout == "wflw98"
    assert samples[0].photo == samples[1].photo != samples[2].photo
    assert [s.subsets for s in samples] == [
        ("largepose", "blur"),
        (),
        ("expression", "illumination", "makeup", "occlusion"),
    ]


def test_wflw_test_subsets_are_those_of_the_lists(tmp_path):
    made.make_wflw(tmp_path)
    assert [s.subsets for s in read("wflw", tmp_path, "test")] == [
        ("blur",),  # faces 0 and 1 share a photo: the first coordinate tells them apart
        (),
        ("largepose", "expression", "illumination", "makeup", "occlusion"),
    ]


def test_wflw_lacks_a_file(tmp_path):
    made.make_wflw(tmp_path)
    (tmp_path / made.WFLW_TEST / "list_98pt_test_blur.txt").unlink()
    with pytest.raises(DataError, match=r"no .*list_98pt_test_blur\.txt in .*wywu\.github"):
        read("wflw", tmp_path, "test")
    (tmp_path / "WFLW_images" / made.WFLW_NAMES[2]).unlink()
    with pytest.raises(DataError, match=r"no 0--Parade/0_b_23\.jpg in .*WFLW_images; wflw"):
        read("wflw", tmp_path, "train")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1 2 3", "line 2: 3 tokens, a WFLW line has 207"),
        (made.wflw_line(0).replace(" 20 15 ", " 20 fifteen "), "line 2: could not convert"),
        (made.wflw_line(0).replace(" 20 15 ", " 20 nan "), "line 2: a number is not finite"),
    ],
)
def test_malformed_wflw_line(line, message, tmp_path):
    made.make_wflw(tmp_path)
    path = tmp_path / made.WFLW_LISTS / "list_98pt_rect_attr_train.txt"
    made.write_text(path, made.wflw_line(0), line)
    with pytest.raises(DataError, match=message) as error:
        read("wflw", tmp_path, "train")
    assert str(path) in str(error.value)


def test_wflw_subset_of_another_release(tmp_path):
    made.make_wflw(tmp_path)
    path = tmp_path / made.WFLW_TEST / "list_98pt_test_blur.txt"
    made.write_text(path, path.read_text().strip(), "9.5 3 other.jpg")
    message = r"test_blur\.txt: 1 of 2 faces are not in list_98pt_rect_attr_test\.txt"
    with pytest.raises(DataError, match=message):
        read("wflw", tmp_path, "test")


def test_empty_list(tmp_path):
    made.make_wflw(tmp_path)
    made.write_text(tmp_path / made.WFLW_LISTS / "list_98pt_rect_attr_train.txt", "", "")
    with pytest.raises(DataError, match=r"list_98pt_rect_attr_train\.txt is empty"):
        read("wflw", tmp_path, "train")


# COFW


@pytest.mark.parametrize("split", ["train", "test"])
def test_cofw(split, tmp_path):
    images = made.make_cofw(tmp_path, split)
    samples = read("cofw", tmp_path, split)
    for index, (sample, image) in enumerate(zip(samples, images, strict=True)):
        assert_shows(sample, image, tolerance=1e-9)
        np.testing.assert_array_equal(sample.points, made.face(29, index))
        x, y, w, h = made.COFW_BOXES[index]
        assert sample.box.tolist() == [x, y, x + w - 1, y + h - 1]
    assert samples[0].visible.all()
    assert np.flatnonzero(~samples[1].visible).tolist() == [3]
    assert [s.name for s in samples] == [f"cofw_{split}_0001.png", f"cofw_{split}_0002.png"]


def test_cofw68_has_points_and_boxes_of_its_own(tmp_path):
    made.make_cofw68(tmp_path)
    samples = read("cofw68", tmp_path, "test")
    for index, sample in enumerate(samples):
        np.testing.assert_array_equal(sample.points, made.face(68, index + 1))
        x, y, w, h = np.array(made.COFW_BOXES[index]) + 1
        assert sample.box.tolist() == [x, y, x + w - 1, y + h - 1]
        assert sample.layout == "ibug68"
        assert sample.visible is None
    (tmp_path / "test_annotations" / "2_points.mat").unlink()
    with pytest.raises(DataError, match=r"no 2_points\.mat in .*test_annotations"):
        read("cofw68", tmp_path, "test")


def damage(path, name, value):
    with h5py.File(path, "r+") as file:
        del file[name]
        if value is not None:
            file[name] = value


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("phisT", None, "has no variable phisT"),
        ("phisT", np.zeros((58, 2)), r"phisT has shape \(2, 58\), want 2 x 87"),
        ("bboxesT", np.zeros((4, 3)), r"bboxesT has shape \(3, 4\), want 2 x 4"),
        ("bboxesT", np.full((4, 2), np.nan), "bboxesT holds numbers that are not finite"),
        ("IsT", np.zeros((1, 2)), r"IsT\{1\} does not refer to an image"),
    ],
)
def test_damaged_cofw(name, value, message, tmp_path):
    made.make_cofw(tmp_path)
    damage(tmp_path / "COFW_test_color.mat", name, value)
    with pytest.raises(DataError, match=message):
        read("cofw", tmp_path, "test")


def test_cofw_cell_that_is_no_image(tmp_path):
    made.make_cofw(tmp_path)
    path = tmp_path / "COFW_test_color.mat"
    with h5py.File(path, "r+") as file:
        file["IsT"][0, 1] = h5py.Reference()
    with pytest.raises(DataError, match=r"IsT\{2\} does not refer"):
        read("cofw", tmp_path, "test")
    made.make_cofw(tmp_path)
    with h5py.File(path, "r+") as file:
        file["IsT"][0, 1] = file["phisT"].ref
    with pytest.raises(DataError, match=r"IsT\{2\}: want a grey or RGB uint8 image"):
        read("cofw", tmp_path, "test")


def test_cofw_file_that_is_cut_short(tmp_path):
    made.make_cofw(tmp_path)
    path = tmp_path / "COFW_test_color.mat"
    content = path.read_bytes()
    for length in range(0, len(content), 997):
        path.write_bytes(content[:length])
        with pytest.raises(DataError, match=r"COFW_test_color\.mat"):
            read("cofw", tmp_path, "test")


def test_cofw_file_with_a_broken_directory(tmp_path):
    made.make_cofw(tmp_path)
    path = tmp_path / "COFW_test_color.mat"
    content = path.read_bytes()
    for signature in (b"SNOD", b"HEAP", b"TREE"):  # nodes of HDF5's directory
        path.write_bytes(content.replace(signature, b"XXXX"))
        with pytest.raises(DataError, match=r"COFW_test_color\.mat"):
            read("cofw", tmp_path, "test")


def test_missing_module_names_its_extra(tmp_path, monkeypatch):
    made.make_cofw(tmp_path)
    made.make_aflw(tmp_path)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(DataError, match=r"h5py, .*pip install .facemark-sdk\[train\]"):
        read("cofw", tmp_path, "test")
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(DataError, match=r"SciPy, .*pip install .facemark-sdk\[train\]"):
        read("aflw", tmp_path, "test")


# AFLW


def test_aflw_is_read_in_its_own_order(tmp_path, monkeypatch):
    monkeypatch.setattr(aflw_module, "TRAIN_FACES", 2)
    made.make_aflw(tmp_path)
    train, test = read("aflw", tmp_path, "train"), read("aflw", tmp_path, "test")
    for index, sample in zip((2, 0, 1), (*train, *test), strict=True):
        np.testing.assert_array_equal(sample.points, made.face(19, index))
        assert sample.name == sample.photo == made.AFLW_NAMES[index]
        assert sample.box.tolist() == [10 + index, 20 + index, 80 + index, 70 + index]
        assert sample.layout == "aflw19"
    assert len(train) == 2


def test_aflw_lacks_an_image(tmp_path):
    made.make_aflw(tmp_path)
    (tmp_path / "flickr" / "2" / "image2.jpg").unlink()
    with pytest.raises(DataError, match=r"no 2/image2\.jpg in .*flickr; aflw"):
        read("aflw", tmp_path, "train")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("ra", [[1, 2, 2]], "ra is not an order of the faces 1 to 3"),
        ("data", np.zeros((3, 42)), r"data has shape \(3, 42\), want 3 x 38"),
        ("nameList", np.array([["a"]], object), "1 names in nameList for 3 faces"),
        ("nameList", np.array([["a"], ["b"], [[]]], object), "entry 3 is no file name"),
        ("bbox", None, "has no variable bbox"),
    ],
)
def test_damaged_aflw(name, value, message, tmp_path):
    made.make_aflw(tmp_path)
    path = tmp_path / "AFLWinfo_release.mat"
    content = {n: v for n, v in loadmat(path).items() if n[0] != "_" and n != name}
    savemat(path, content if value is None else {**content, name: value})
    with pytest.raises(DataError, match=message):
        read("aflw", tmp_path, "train")


def test_aflw_file_that_is_cut_short(tmp_path):
    made.make_aflw(tmp_path)
    path = tmp_path / "AFLWinfo_release.mat"
    content = path.read_bytes()
    for length in range(0, len(content) - 1, 97):
        path.write_bytes(content[:length])
        with pytest.raises(DataError, match=r"AFLWinfo_release\.mat"):
            read("aflw", tmp_path, "train")


# CelebA


def test_celeba_has_boxes_and_no_points(tmp_path):
    made.write_picture(tmp_path / "img_celeba" / "000001.jpg", 1)
    made.write_text(tmp_path / "celeba_bboxes.txt", "000001.jpg 10 20 70 80")
    (sample,) = read("celeba", tmp_path, "train")
    assert sample.points is None
    assert sample.box.tolist() == [10, 20, 70, 80]
    made.write_text(tmp_path / "celeba_bboxes.txt", "000001.jpg 10 20 70")
    with pytest.raises(DataError, match="line 1: want name xmin ymin xmax ymax"):
        read("celeba", tmp_path, "train")


# HRNet


@pytest.mark.parametrize(
    ("dataset", "count", "split", "layout"),
    [("300w", 68, "valid", "ibug68"), ("wflw", 98, "train", "wflw98")],
)
def test_hrnet_csv(dataset, count, split, layout, tmp_path):
    made.make_hrnet(tmp_path, dataset, count, split)
    samples = read("hrnet", tmp_path, split)
    for index, sample in enumerate(samples):
        np.testing.assert_array_equal(sample.points, made.face(count, index))
        # scale 0.25 is 50 pixels, 25 to each side of the centre
        x, y = 50.5 + index, 40 + index
        assert sample.box.tolist() == [x - 25, y - 25, x + 25, y + 25]
        assert (sample.layout, sample.norm) == (layout, None)
    assert [s.subsets for s in samples] == [(), ("hard",)]
    assert [s.name for s in read("hrnet", tmp_path, f"{split}_hard")] == ["part/1_1.jpg"]


def test_hrnet_csv_of_aflw_states_the_norm(tmp_path):
    made.make_hrnet(tmp_path, "aflw", 19, "test", box_size=True)
    samples = read("hrnet", tmp_path, "test")
    assert [s.norm for s in samples] == [60, 61]
    assert samples[1].box.tolist() == [26.5, 16, 76.5, 66]
    np.testing.assert_array_equal(samples[1].points, made.face(19, 1))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.jpg,1,2", r"line 2: 3 cells, the header has 140"),
        ("a.jpg" + ",x" * 139, r"line 2: could not convert"),
    ],
)
def test_malformed_hrnet_row(line, message, tmp_path):
    header = made.make_hrnet(tmp_path, "300w", 68, "test")
    path = tmp_path / "face_landmarks_300w_test.csv"
    made.write_text(path, header, line)
    with pytest.raises(DataError, match=message):
        read("hrnet", tmp_path, "test")


@pytest.mark.parametrize("header", ["", "image_name,center_w,center_h,scale,x,y", "a,b,c,d,e"])
def test_malformed_hrnet_header(header, tmp_path):
    made.make_hrnet(tmp_path, "300w", 68, "test")
    made.write_text(tmp_path / "face_landmarks_300w_test.csv", header)
    with pytest.raises(DataError, match="line 1: want image_name,scale,center_w,center_h and"):
        read("hrnet", tmp_path, "test")


def test_hrnet_folder_of_two_sets(tmp_path):
    made.make_hrnet(tmp_path, "300w", 68, "train")
    made.make_hrnet(tmp_path, "wflw", 98, "train")
    with pytest.raises(DataError, match=r"several sets: face_landmarks_300w_train\.csv, face_"):
        read("hrnet", tmp_path, "train")


# Normalised lists


def test_pipnet_lists(tmp_path):
    for index in range(2):
        made.write_picture(tmp_path / "images_test" / f"p_{index}.png", index, 64, 32)
    faces = [(made.face(29, index) / 100).round(6) for index in range(2)]
    lines = [f"p_{index}.png {made.spaced(points)}" for index, points in enumerate(faces)]
    made.write_text(tmp_path / "test.txt", *lines)
    made.write_text(tmp_path / "test_hard.txt", lines[1])
    samples = read("pipnet", tmp_path, "test")
    for sample, points in zip(samples, faces, strict=True):
        np.testing.assert_array_equal(sample.points, points * [64, 32])
        assert sample.layout == "cofw29"
        assert sample.box.tolist() == [0, 0, 64, 32]
    assert [s.subsets for s in samples] == [(), ("hard",)]
    assert [s.name for s in read("pipnet", tmp_path, "test_hard")] == ["p_1.png"]


def test_pipnet_list_of_names_only(tmp_path):
    made.write_picture(tmp_path / "images_train" / "a.jpg", 1)
    made.write_text(tmp_path / "train.txt", "a.jpg")
    (sample,) = read("pipnet", tmp_path, "train")
    assert (sample.name, sample.points, sample.layout) == ("a.jpg", None, None)
    assert sample.box.tolist() == [0, 0, 120, 90]  # what self-training asks of unlabelled faces


@pytest.mark.parametrize("lines", [("a.jpg 1 2 3",), ("a.jpg 1 2", "a.jpg"), ("a.jpg 1 x",)])
def test_malformed_pipnet_list(lines, tmp_path):
    made.write_picture(tmp_path / "images_train" / "a.jpg", 1)
    made.write_text(tmp_path / "train.txt", *lines)
    with pytest.raises(DataError, match=rf"train\.txt, line {len(lines)}: "):
        read("pipnet", tmp_path, "train")


@pytest.mark.parametrize("place", ["test_blur.txt", "test_blur/test_blur.txt"])
def test_hih_folder(place, tmp_path):
    made.write_picture(tmp_path / "test_blur" / "a.png", 1, 256, 256)
    points = (made.face(98, 1) / 100).round(6)
    made.write_text(tmp_path / place, f"a.png {made.spaced(points)}")
    (sample,) = read("hih", tmp_path, "test_blur")
    np.testing.assert_array_equal(sample.points, points * 256)
    assert sample.layout == "wflw98"
