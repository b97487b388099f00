from __future__ import annotations

import sys
from pathlib import Path

import pytest
from conftest import detector_graph, save

import facemark_sdk
from facemark_sdk import Detector, FaceDetector, LandmarkModel, ModelError, models
from facemark_sdk.models import list_models, resolve_model


@pytest.fixture
def bundle(tmp_path: Path, landmark_file: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed bundle with two models and something that is none."""
    root = tmp_path / "some_models"
    for name in ("b_model", "a_model", "no_model"):
        (root / name).mkdir(parents=True)
    (root / "__init__.py").touch()
    for name in ("b_model", "a_model"):
        (root / name / "model.onnx").write_bytes(landmark_file.read_bytes())
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(models, "BUNDLE", "some_models")
    monkeypatch.delitem(sys.modules, "some_models", raising=False)  # an earlier test's
    return root


def test_bundled_models_are_found_by_name(bundle: Path) -> None:
    assert list_models() == ["a_model", "b_model"]
    assert resolve_model("a_model") == bundle / "a_model" / "model.onnx"
    assert LandmarkModel("a_model", backend="cpu").layout.name == "ibug68"


def test_paths(landmark_file: Path) -> None:
    assert resolve_model(landmark_file) == landmark_file
    assert resolve_model(str(landmark_file)) == landmark_file


@pytest.mark.parametrize("name", ["c_model", "no_model", "x/y.onnx", "", None, 3, "a\0b"])
def test_unknown_model_lists_the_bundled(bundle: Path, name: str) -> None:
    with pytest.raises(ModelError, match="bundled models: a_model, b_model"):
        resolve_model(name)


def test_no_bundle_is_an_empty_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "BUNDLE", "facemark_no_such_package")
    assert facemark_sdk.list_models() == []


def test_file_without_spec_says_how_to_add_one(tmp_path: Path) -> None:
    path = tmp_path / "foreign.onnx"
    save(detector_graph(), None, path)
    with pytest.raises(ModelError, match=r"no facemark spec.*facemark-export"):
        FaceDetector(path, backend="cpu")


def test_models_of_the_other_task(landmark_file: Path, detector_file: Path) -> None:
    with pytest.raises(ModelError, match="is for detection, a model for landmarks"):
        LandmarkModel(detector_file, backend="cpu")
    with pytest.raises(ModelError, match="is for landmarks, a model for detection"):
        FaceDetector(landmark_file, backend="cpu")


@pytest.mark.parametrize(
    ("backend", "cuda", "int8", "suffix"),
    [
        ("cpu", True, True, "_int8"),
        ("cpu", False, False, ""),
        ("auto", False, True, "_int8"),
        ("auto", True, True, ""),
        ("cuda", True, True, ""),
        ("tensorrt", False, True, ""),
    ],
)
def test_the_default_models_are_int8_where_that_is_fast(monkeypatch, backend, cuda, int8, suffix):
    monkeypatch.setattr(models, "may_use_cuda", lambda: cuda)
    monkeypatch.setattr(models, "sums_int8_exactly", lambda: int8)
    assert models.default_landmarks(backend) == f"pipnet_lite0_68{suffix}"
    assert models.default_detector(backend) == f"retinaface_mnet025{suffix}"
    assert {f"pipnet_lite0_68{suffix}", f"retinaface_mnet025{suffix}"} <= {*models.list_models()}


@pytest.mark.parametrize("int8", [True, False])
def test_what_is_opened_by_default_is_the_default(monkeypatch, int8):
    monkeypatch.setattr(models, "sums_int8_exactly", lambda: int8)
    detector = Detector(backend="cpu", threads=1)
    assert detector.face_detector.spec.name == models.default_detector("cpu")
    assert detector.landmark_model.spec.name == models.default_landmarks("cpu")
