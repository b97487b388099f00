"""Detectors by name, from a folder as insightface's package leaves it; nothing is downloaded."""

from __future__ import annotations

import hashlib
import json
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from foreign_models import save_detector, save_pipnet

from facemark_export.foreign import import_onnx
from facemark_export.foreign.insightface_zoo import LICENCE
from facemark_sdk import FaceDetector
from facemark_sdk.errors import CheckpointError
from facemark_sdk.spec import METADATA_KEY, ModelSpec


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty home, where the package looks for packs."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    (tmp_path / "home" / ".insightface" / "models").mkdir(parents=True)
    return tmp_path / "home"


@pytest.fixture
def package(home, monkeypatch):
    """Stands in for insightface 2: the functions that are called, which never download."""

    def ensure_available(kind, name, root="~/.insightface"):
        folder = Path(root).expanduser() / kind / name
        package.asked.append(name)
        if not folder.exists():
            raise RuntimeError(f"Failed downloading url {name}.zip")
        return str(folder)

    def has_model_package_manifest(folder):
        return (folder / "manifest.json").exists()

    def load_model_package(folder):
        stated = json.loads((folder / "manifest.json").read_text())["tasks"]

        def verify_task(task):
            path = folder / stated[task]["file"]
            if hashlib.sha256(path.read_bytes()).hexdigest() != stated[task]["sha256"]:
                raise RuntimeError(f"{path.name} has another SHA-256")
            preprocessing = stated[task].get("preprocessing", {"mean": 127.5, "std": 128.0})
            return types.SimpleNamespace(path=path, metadata={"preprocessing": preprocessing})

        return types.SimpleNamespace(verify_task=verify_task)

    package = types.ModuleType("insightface")
    package.asked = []
    package.utils = types.ModuleType("insightface.utils")
    package.utils.ensure_available = ensure_available
    package.model_zoo = types.ModuleType("insightface.model_zoo")
    package.model_zoo.has_model_package_manifest = has_model_package_manifest
    package.model_zoo.load_model_package = load_model_package
    for module in (package, package.utils, package.model_zoo):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return package


def pack(home, name="buffalo_l", inside=""):
    """A pack with a detector and a network of another kind."""
    folder = home / ".insightface" / "models" / name / inside
    folder.mkdir(parents=True)
    save_detector(folder / "det_10g.onnx", 9, sides=(64, 64))
    other = onnx.load(save_pipnet(folder / "2d106det.onnx"))
    del other.graph.output[1:]
    onnx.save(other, folder / "2d106det.onnx")
    return folder


def spec_of(path):
    model = onnx.load(path)
    return ModelSpec.from_json({e.key: e.value for e in model.metadata_props}[METADATA_KEY])


def fetched(source, out, notices=None):
    return import_onnx(source, out, notice=(notices if notices is not None else []).append)


@pytest.mark.parametrize("inside", ["", "buffalo_l"], ids=["flat", "a folder in the archive"])
@pytest.mark.parametrize("source", ["insightface:buffalo_l", "insightface:buffalo_l/det_10g.onnx"])
def test_a_pack_s_detector_by_name(home, package, tmp_path, source, inside):
    folder = pack(home, inside=inside)
    notices = []
    report = fetched(source, tmp_path / "out.onnx", notices)
    assert report.source == "det_10g.onnx"
    assert notices == [LICENCE]
    assert "non-commercial research only" in LICENCE
    spec = spec_of(tmp_path / "out.onnx")
    assert (spec.name, spec.licence) == ("buffalo_l_det_10g", LICENCE)
    digest = hashlib.sha256((folder / "det_10g.onnx").read_bytes()).hexdigest()
    assert spec.source_sha256 == digest
    FaceDetector(tmp_path / "out.onnx", backend="cpu")(np.zeros((90, 80, 3), np.uint8))


def test_the_licence_is_said_before_anything_is_fetched_or_written(home, package, tmp_path):
    pack(home)
    seen = []

    def notice(text):
        seen.append((text, list(package.asked), sorted(p.name for p in tmp_path.iterdir())))

    import_onnx("insightface:buffalo_l", tmp_path / "out.onnx", notice=notice)
    assert seen == [(LICENCE, [], ["home"])]
    assert package.asked == ["buffalo_l"]


def test_a_manifest_says_which_file_and_how_it_is_fed(home, package, tmp_path):
    folder = pack(home, "raccoon_s")
    save_detector(folder / "face.onnx", 9, sides=(64, 64))
    digest = hashlib.sha256((folder / "face.onnx").read_bytes()).hexdigest()
    for preprocessing, mean, std in (
        ({"mean": 100.0, "std": 50.0}, 100.0, 50.0),
        ("embedded", 0.0, 1.0),
    ):
        task = {"file": "face.onnx", "sha256": digest, "preprocessing": preprocessing}
        (folder / "manifest.json").write_text(json.dumps({"tasks": {"detection": task}}))
        fetched("insightface:raccoon_s", tmp_path / "out.onnx")
        spec = spec_of(tmp_path / "out.onnx")
        assert spec.name == "raccoon_s_face"
        assert (spec.input.mean, spec.input.std) == ((mean,) * 3, (std,) * 3)
    with pytest.raises(CheckpointError, match=r"detector of .* 'raccoon_s' is face\.onnx"):
        fetched("insightface:raccoon_s/det_10g.onnx", tmp_path / "out.onnx")
    save_detector(folder / "face.onnx", 9, sides=(64, 64), seed=1)
    with pytest.raises(CheckpointError, match="another SHA-256"):
        fetched("insightface:raccoon_s", tmp_path / "out.onnx")


def test_several_detectors_have_to_be_told_apart(home, package, tmp_path):
    folder = pack(home)
    save_detector(folder / "det_500m.onnx", 9, sides=(64, 64))
    with pytest.raises(CheckpointError, match="2 files with a detector's outputs, of 2d106det"):
        fetched("insightface:buffalo_l", tmp_path / "out.onnx")
    assert fetched("insightface:buffalo_l/det_500m.onnx", tmp_path / "out.onnx")


def test_packs_without_a_detector(home, package, tmp_path):
    folder = pack(home)
    with pytest.raises(CheckpointError, match=r"has no nix\.onnx; it has 2d106det\.onnx, det_10g"):
        fetched("insightface:buffalo_l/nix.onnx", tmp_path / "out.onnx")
    (folder / "det_10g.onnx").unlink()
    with pytest.raises(CheckpointError, match=r"0 files .* delete the folder"):
        fetched("insightface:buffalo_l", tmp_path / "out.onnx")
    (folder / "2d106det.onnx").unlink()
    with pytest.raises(CheckpointError, match=r"of no \.onnx file; delete the folder"):
        fetched("insightface:buffalo_l", tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize(
    "error",
    [RuntimeError("status 404"), OSError("no network"), zipfile.BadZipFile("no zip file")],
)
def test_a_pack_that_cannot_be_had(package, tmp_path, monkeypatch, error):
    def fails(*arguments, **options):
        raise error

    monkeypatch.setattr(package.utils, "ensure_available", fails)
    with pytest.raises(CheckpointError, match=f"pack 'antelope' cannot be had: {error}"):
        fetched("insightface:antelope", tmp_path / "out.onnx")


@pytest.mark.parametrize(
    "source",
    [
        "insightface:",
        "insightface:../x",
        "insightface:a/../../b.onnx",
        "insightface:a/b/c.onnx",
        "insightface:a/b.txt",
        "insightface:.hidden",
    ],
)
def test_names_that_are_none(package, tmp_path, source):
    with pytest.raises(CheckpointError, match="must be insightface:PACK"):
        fetched(source, tmp_path / "out.onnx")
    assert package.asked == []


def test_without_the_package_the_extra_is_named(home, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "insightface", None)  # as if not installed
    notices = []
    with pytest.raises(CheckpointError, match=r'pip install "facemark-sdk\[insightface\]"'):
        fetched("insightface:buffalo_l", tmp_path / "out.onnx", notices)
    assert notices == []


def test_the_real_package_where_it_is_installed(home, tmp_path):
    """Its own functions on a folder that is there already, which it then does not download."""
    pytest.importorskip("insightface")
    pack(home)
    fetched("insightface:buffalo_l", tmp_path / "out.onnx")
    assert spec_of(tmp_path / "out.onnx").name == "buffalo_l_det_10g"
    folder = pack(home, "raccoon_s")
    digest = hashlib.sha256((folder / "det_10g.onnx").read_bytes()).hexdigest()
    task = {"file": "det_10g.onnx", "sha256": digest, "preprocessing": {"mean": 99.0, "std": 50.0}}
    manifest = {
        "manifest_version": 2,
        "model_id": "raccoon_s",
        "license": "MODEL.LICENSE",
        "tasks": {"detection": task},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    fetched("insightface:raccoon_s", tmp_path / "out.onnx")
    assert spec_of(tmp_path / "out.onnx").input.mean == (99.0,) * 3
    save_detector(folder / "det_10g.onnx", 9, sides=(64, 64), seed=1)
    with pytest.raises(CheckpointError, match="'raccoon_s' cannot be had"):
        fetched("insightface:raccoon_s", tmp_path / "out.onnx")
