"""The models that ship: what they say of themselves is complete and, with ../shared, true."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import SHARED

import accuracy_detection
import accuracy_landmarks
from facemark_sdk import Detector, FaceDetector, LandmarkModel, list_models, load_image
from facemark_sdk.models import resolve_model

MODELS = [
    "pipnet_lite0_68",
    "pipnet_lite0_68_int8",
    "retinaface_mnet025",
    "retinaface_mnet025_int8",
]
LANDMARKS = [SHARED / "data" / "landmarks68" / name for name in ("helen_train", "afw")]
SCENES = SHARED / "data" / "scenes"


def spec_of(name):
    return (LandmarkModel if name.startswith("pipnet") else FaceDetector)(name, backend="cpu").spec


def test_these_models_ship():
    assert list_models() == MODELS
    assert sum(resolve_model(name).stat().st_size for name in MODELS) < 35e6


@pytest.mark.parametrize("name", MODELS)
def test_a_model_states_its_name_data_licence_and_accuracy(name):
    spec = spec_of(name)
    assert spec.name == name
    assert "HELEN" in spec.training_data
    assert "research" in spec.licence
    assert "held-out" in spec.accuracy["protocol"]


@pytest.mark.parametrize("name", MODELS)
def test_the_card_is_about_this_file(name):
    path = resolve_model(name)
    card = path.with_name("CARD.md").read_text()
    assert hashlib.sha256(path.read_bytes()).hexdigest() in card
    figures = spec_of(name).accuracy
    for key in ("nme_percent", "failure_percent", "precision", "recall"):
        if key in figures:
            assert f"{figures[key]:g}" in card, key
    for word in ("facemark-train", "facemark-export", "terms", "held-out"):
        assert word in card


def precisions(card):
    """The card's figures as text: ``precisions(card)["int8"]["p50_ms"]``."""
    section = card.partition("\n## Precisions\n")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line[:2] == "| "]
    (_, *figures), *rungs = rows
    names = [figure.replace(" ", "_") for figure in figures]
    return {name: dict(zip(names, texts, strict=True)) for name, *texts in rungs}


@pytest.mark.parametrize("name", MODELS)
def test_the_card_has_the_precisions_of_the_report(name):
    """The float models' cards show how their int8 files were made, too."""
    path = resolve_model(name)
    report = resolve_model(f"{name.removesuffix('_int8')}_int8").with_name("model.onnx.report.json")
    ladder = json.loads(report.read_text())["ladder"]
    card = path.with_name("CARD.md").read_text()
    assert f"\n{ladder['protocol']}; {ladder['speed']}:\n" in card
    assert precisions(card) == {
        precision: {figure: f"{value:.4g}" for figure, value in rung.items()}
        for precision, rung in ladder["rungs"].items()
    }


@pytest.mark.parametrize(
    ("name", "figure", "scale", "tolerance"),
    [
        ("pipnet_lite0_68", "nme_percent", 1, 0.001),
        ("retinaface_mnet025", "average_precision", 100, 0.5),  # the ladder has no quick look
    ],
)
def test_the_precisions_are_those_of_the_files(name, figure, scale, tolerance):
    paths = {"fp32": resolve_model(name), "int8": resolve_model(f"{name}_int8")}
    specs = {"fp32": spec_of(name), "int8": spec_of(f"{name}_int8")}
    ladder = json.loads(paths["int8"].with_name("model.onnx.report.json").read_text())["ladder"]
    for precision, spec in specs.items():
        measured = next(iter(ladder["rungs"][precision].values()))
        assert spec.precision == precision
        assert measured == pytest.approx(scale * spec.accuracy[figure], abs=tolerance)
    assert specs["int8"].source_sha256 == hashlib.sha256(paths["fp32"].read_bytes()).hexdigest()
    size, small = (ladder["rungs"][precision]["megabytes"] for precision in paths)
    assert size == pytest.approx(paths["fp32"].stat().st_size / 1e6, abs=1e-4)
    assert small <= paths["int8"].stat().st_size / 1e6 + 1e-4  # a decoder in the graph adds to it
    loss = next(loss for key, loss in ladder["rungs"]["int8"].items() if "loss_points" in key)
    assert loss <= ladder["max_loss"]


def test_landmarks_follow_the_face_through_roll_and_scale(photo):
    """The same face turned by 30 degrees, or twice as large, has the same landmarks."""
    import cv2

    detector = Detector(backend="cpu")
    image = load_image(photo)
    (face,) = detector(image)
    eyes = np.linalg.norm(face.landmarks[36] - face.landmarks[45])
    for matrix in (
        cv2.getRotationMatrix2D((223.0, 115.0), 30, 1.0),
        cv2.getRotationMatrix2D((223.0, 115.0), -30, 1.0),
        np.array([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0]]),
    ):
        scale = np.sqrt(abs(np.linalg.det(matrix[:, :2])))
        side = int(512 * scale)
        (turned, *_) = detector(cv2.warpAffine(image, matrix, (side, side)))
        expected = face.landmarks @ matrix[:, :2].T + matrix[:, 2]
        error = np.linalg.norm(turned.landmarks - expected, axis=1).mean()
        assert error / scale < 0.06 * eyes


def test_a_face_as_large_as_the_frame_is_found(photo):
    image = load_image(photo)
    (face,) = Detector(backend="cpu")(image)
    x1, y1, x2, y2 = face.bbox.astype(int)
    (close, *_) = Detector(backend="cpu")(np.ascontiguousarray(image[y1:y2, x1:x2]))
    shift = close.landmarks + np.array([x1, y1]) - face.landmarks
    eyes = np.linalg.norm(face.landmarks[36] - face.landmarks[45])
    assert np.linalg.norm(shift, axis=1).mean() < 0.06 * eyes


@pytest.mark.shared
def test_landmarks_on_held_out_photos_with_our_own_boxes(tmp_path: Path):
    """Inter-ocular NME of at most 4.0 %, at most 1.5 % of the faces over 0.10."""
    report = tmp_path / "figures.json"
    accuracy_landmarks.main("pipnet_lite0_68", tuple(LANDMARKS), json_file=report)
    figures = json.loads(report.read_text())
    assert figures["nme_percent"] <= 4.0
    assert figures["failure_percent"] <= 1.5
    stated = spec_of("pipnet_lite0_68").accuracy["nme_percent"]
    assert figures["nme_percent"] == pytest.approx(stated, abs=0.02)


@pytest.mark.shared
def test_int8_landmarks_lose_at_most_a_tenth_of_a_point(tmp_path: Path):
    report = tmp_path / "figures.json"
    accuracy_landmarks.main("pipnet_lite0_68_int8", tuple(LANDMARKS), json_file=report)
    figures = json.loads(report.read_text())
    assert figures["nme_percent"] <= spec_of("pipnet_lite0_68").accuracy["nme_percent"] + 0.10


@pytest.mark.shared
@pytest.mark.parametrize("name", ["retinaface_mnet025", "retinaface_mnet025_int8"])
def test_detection_on_held_out_scenes(name, tmp_path: Path):
    """Recall and precision of at least 0.93 for faces of 24 px and more; close-ups and roll."""
    report = tmp_path / "figures.json"
    accuracy_detection.main(name, SCENES, json_file=report)
    figures = json.loads(report.read_text())
    assert figures["recall"] >= 0.93
    assert figures["precision"] >= 0.93
    assert figures["close_ups_found"] >= 0.93
    assert min(figures["rolled_30_found"], figures["rolled_-30_found"]) >= 0.93
    stated = spec_of(name).accuracy
    assert figures["average_precision"] == pytest.approx(stated["average_precision"], abs=0.005)
