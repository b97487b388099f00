"""Small data sets in the official formats (COMPAT 1.6, 2.4, 3.3), with made-up faces."""

from __future__ import annotations

from pathlib import Path

import cv2
import h5py
import numpy as np
from numpy.typing import NDArray
from scipy.io import savemat

Float = NDArray[np.float64]


def face(count: int, seed: int, width: int = 120, height: int = 90) -> Float:
    """(count, 2) points within an image, with six decimals as text files have."""
    rng = np.random.default_rng(seed)
    return rng.uniform((20, 15), (width - 20, height - 15), (count, 2)).round(6)


def picture(seed: int, width: int = 120, height: int = 90) -> NDArray[np.uint8]:
    """(height, width, 3) uint8 BGR, unlike every other seed's."""
    small = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), np.uint8)
    return np.asarray(cv2.resize(small, (width, height)), np.uint8)


def write_picture(path: Path, seed: int, width: int = 120, height: int = 90) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, picture(seed, width, height))[1].tobytes())


def write_text(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_pts(path: Path, points: Float) -> None:
    body = [f"{x:.6f} {y:.6f}" for x, y in points]
    write_text(path, "version: 1", f"n_points:  {len(points)}", "{", *body, "}")


def spaced(values: Float) -> str:
    return " ".join(f"{value:.6f}" for value in np.ravel(values))


W300_TRAIN = ("afw/111_1.jpg", "afw/111_2.jpg", "helen/trainset/222_1.jpg", "lfpw/trainset/3.png")
W300_TEST = ("helen/testset/444_1.jpg", "lfpw/testset/5.png", "ibug/image_006_1.jpg")


def make_300w(root: Path) -> dict[str, Float]:
    """The folders of 300W; returns the points by image."""
    faces = {name: face(68, i) for i, name in enumerate((*W300_TRAIN, *W300_TEST))}
    for seed, (name, points) in enumerate(faces.items()):
        write_picture(root / name, seed)
        write_pts((root / name).with_suffix(".pts"), points)
    return faces


def make_300vw(root: Path, video: str, frames: int, annotated: list[int]) -> dict[int, Float]:
    """One video whose frame n is grey 10 n; returns the points by frame."""
    folder = root / video
    folder.mkdir(parents=True)
    writer = cv2.VideoWriter(
        str(folder / "vid.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 25, (120, 90)
    )
    for number in range(1, frames + 1):
        writer.write(np.full((90, 120, 3), 10 * number, np.uint8))
    writer.release()
    points = {number: face(68, number) for number in annotated}
    for number, shape in points.items():
        write_pts(folder / "annot" / f"{number:06d}.pts", shape)
    return points


WFLW_NAMES = ("7--Cheering/7_a_1.jpg", "7--Cheering/7_a_1.jpg", "0--Parade/0_b_23.jpg")
WFLW_FLAGS = ("1 0 0 0 0 1", "0 0 0 0 0 0", "0 1 1 1 1 0")
WFLW_BOXES = ((20, 15, 90, 70), (5, 5, 60, 60), (30, 20, 119, 89))
WFLW_LISTS = "WFLW_annotations/list_98pt_rect_attr_train_test"
WFLW_TEST = "WFLW_annotations/list_98pt_test"


def wflw_line(index: int) -> str:
    box = " ".join(map(str, WFLW_BOXES[index]))
    return f"{spaced(face(98, index))} {box} {WFLW_FLAGS[index]} {WFLW_NAMES[index]}"


def make_wflw(root: Path) -> None:
    """Three faces in two photos, in either split; the test lists: face 0 blurred, 2 made up."""
    for seed, name in enumerate(sorted(set(WFLW_NAMES))):
        write_picture(root / "WFLW_images" / name, seed)
    for split in ("train", "test"):
        path = root / WFLW_LISTS / f"list_98pt_rect_attr_{split}.txt"
        write_text(path, *(wflw_line(index) for index in range(3)))
    for subset in ("largepose", "expression", "illumination", "makeup", "occlusion", "blur"):
        index = 0 if subset == "blur" else 2
        line = f"{spaced(face(98, index))} {WFLW_NAMES[index]}"  # these lists have no rectangle
        write_text(root / WFLW_TEST / f"list_98pt_test_{subset}.txt", line)


COFW_BOXES = ((11.0, 12.0, 60.0, 50.0), (21.0, 22.0, 70.0, 40.0))


def make_cofw(root: Path, split: str = "test") -> list[NDArray[np.uint8]]:
    """A grey and an RGB face as MATLAB 7.3 stores them; returns the images, grey and BGR."""
    images = [picture(1)[..., 0].copy(), picture(2)]
    names = {"train": ("IsTr", "bboxesTr", "phisTr"), "test": ("IsT", "bboxesT", "phisT")}[split]
    root.mkdir(parents=True, exist_ok=True)
    with h5py.File(root / f"COFW_{split}_color.mat", "w") as file:
        cells = file.create_group("#refs#")
        refs = np.empty((1, 2), h5py.ref_dtype)  # MATLAB's 2 x 1 cell, transposed as all is
        for index, image in enumerate(images):
            stored = image.T if image.ndim == 2 else image[..., ::-1].transpose(2, 1, 0)
            refs[0, index] = cells.create_dataset(f"image{index}", data=stored).ref
        file.create_dataset(names[0], data=refs, dtype=h5py.ref_dtype)
        file[names[1]] = np.array(COFW_BOXES).T
        file[names[2]] = np.array([cofw_phi(index) for index in range(2)]).T
    return images


def cofw_phi(index: int) -> Float:
    """29 x, 29 y, 29 occlusions; point 3 of face 1 is occluded."""
    occluded = np.zeros(29)
    occluded[3] = index
    points = face(29, index)
    return np.concatenate([points[:, 0], points[:, 1], occluded])


def make_cofw68(root: Path) -> None:
    make_cofw(root)
    (root / "test_annotations").mkdir()
    for number in (1, 2):
        points = {"Points": face(68, number), "Occ": np.zeros((68, 1))}
        savemat(root / "test_annotations" / f"{number}_points.mat", points)
    savemat(root / "cofw68_test_bboxes.mat", {"bboxes": np.array(COFW_BOXES) + 1})


AFLW_NAMES = ("0/image1.jpg", "2/image2.jpg", "0/image1.jpg")


def make_aflw(root: Path) -> None:
    """Three faces in two photos; the order is face 3, 1, 2."""
    for name in set(AFLW_NAMES):
        write_picture(root / "flickr" / name, int(name[0]))
    points = [face(19, index) for index in range(3)]
    content = {
        "nameList": np.array([[name] for name in AFLW_NAMES], object),
        "bbox": np.array([[10 + i, 80 + i, 20 + i, 70 + i] for i in range(3)]),
        "data": np.array([np.concatenate([p[:, 0], p[:, 1]]) for p in points]),
        "ra": np.array([[3, 1, 2]]),
    }
    savemat(root / "AFLWinfo_release.mat", content)


def make_hrnet(root: Path, dataset: str, count: int, split: str, *, box_size: bool = False) -> str:
    """Two rows of a CSV of HRNet; returns its header."""
    known = ["image_name", "scale", *(["box_size"] if box_size else []), "center_w", "center_h"]
    pairs = [f"original_{i}_{axis}" for i in range(count) for axis in "xy"]
    header = ",".join([*known, *pairs])
    rows = []
    for index in range(2):
        name = f"part/{index}_1.jpg"
        write_picture(root / "images" / name, index)
        size = [f"{60 + index}"] if box_size else []
        centre = [f"{50 + index}.5", f"{40 + index}"]
        points = [f"{value}" for value in np.ravel(face(count, index))]
        rows.append(",".join([name, "0.25", *size, *centre, *points]))
    write_text(root / f"face_landmarks_{dataset}_{split}.csv", header, *rows)
    write_text(root / f"face_landmarks_{dataset}_{split}_hard.csv", header, rows[1])
    return header
