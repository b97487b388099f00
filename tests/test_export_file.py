"""`facemark-export --onnx OURS`: a float file anew, in fp16, with its decoder, as an engine."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import numpy as np
import onnx
import pytest
from fake_tensorrt import Memory, fake_cuda_python, fake_tensorrt, install
from test_quantise import command, folder, fp32, spec  # noqa: F401  (fixtures are used by name)
from test_quantise_decode import imported

from facemark_export import onnx_file
from facemark_export.export_file import export_file
from facemark_export.making import Form
from facemark_export.parity import TOLERANCES, check_parity
from facemark_export.samples import photo_batches, structured_batches
from facemark_sdk import LandmarkModel, list_models, load_image
from facemark_sdk.backends import create_backend
from facemark_sdk.backends.cuda import open_cuda
from facemark_sdk.backends.tensorrt.engine_file import read_record
from facemark_sdk.errors import CheckpointError, ModelError
from facemark_sdk.models import resolve_model

# ruff: noqa: F811

BOX = [[150, 30, 290, 210]]


def points(model, photo):
    return LandmarkModel(model, backend="cpu").predict(photo, BOX).points


def test_fp16_of_a_bundled_model_finds_the_same_points(tmp_path, photo, monkeypatch, capsys):
    out = tmp_path / "half.onnx"
    words = ("--onnx", "pipnet_lite0_68", "-o", out, "--precision", "fp16")
    status, said = command(monkeypatch, capsys, *words)
    assert status == 0, said
    assert "fp16 against the fp32 file" in said
    source = resolve_model("pipnet_lite0_68")
    assert out.stat().st_size < 0.52 * source.stat().st_size
    stored = LandmarkModel(out, backend="cpu").spec
    assert (stored.precision, stored.name) == ("fp16", "pipnet_lite0_68")
    assert stored.source_sha256 == hashlib.sha256(source.read_bytes()).hexdigest()
    assert stored.accuracy == {}  # the source's was measured in fp32
    report = json.loads((tmp_path / "half.onnx.report.json").read_text())
    assert report["fp16"]["passed"]
    assert (report["structured_images"], report["photos"]) == (21, 0)
    np.testing.assert_allclose(points(out, photo), points(source, photo), atol=0.5)


def test_fp16_states_what_it_has_on_annotated_faces(fp32, folder, tmp_path):
    out = tmp_path / "half.onnx"
    report = export_file(fp32, out, Form("fp16", calibration=[folder]))
    assert report.ladder is not None
    accuracy = LandmarkModel(out, backend="cpu").spec.accuracy
    measured = report.ladder.rungs["fp16"].compared.figures["nme_percent"]
    assert accuracy["nme_percent"] == pytest.approx(measured, abs=1e-4)
    assert "held-out photos" in accuracy["protocol"]
    given = tmp_path / "given.onnx"
    export_file(fp32, given, Form("fp16", calibration=[folder]), accuracy={"nme": 1}, name="mine")
    stored = LandmarkModel(given, backend="cpu").spec
    assert (stored.accuracy, stored.name) == ({"nme": 1}, "mine")


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_only_points_leave_a_file_with_its_decoder(
    spec, fp32, folder, tmp_path, monkeypatch, capsys, precision
):
    onnx_file.save(onnx.load(fp32), dataclasses.replace(spec, accuracy={"nme": 3}), fp32)
    out = tmp_path / "whole.onnx"
    words = ("--onnx", fp32, "-o", out, "--decode", "graph", "--precision", precision)
    status, said = command(monkeypatch, capsys, *words)
    assert status == 0, said
    model = LandmarkModel(out, backend="cpu")
    assert (model.spec.decoder, model.spec.precision) == ("graph", precision)
    assert model.spec.accuracy == ({"nme": 3} if precision == "fp32" else {})
    photo = load_image(folder / "face080.png")
    assert {entry.name for entry in onnx.load(out).graph.output} == {"points", "scores"}
    found, wanted = (LandmarkModel(each).predict(photo, BOX).points for each in (out, fp32))
    np.testing.assert_allclose(found, wanted, atol=1e-3 if precision == "fp32" else 0.5)
    report = json.loads((tmp_path / "whole.onnx.report.json").read_text())
    assert report["decoder"]["passed"]


def test_engine_of_a_file_of_ours(fp32, tmp_path, monkeypatch, capsys):
    memory = Memory()
    install(monkeypatch, tensorrt=fake_tensorrt(memory), runtime=fake_cuda_python(memory))
    out = tmp_path / "model.onnx"
    words = ("--onnx", fp32, "-o", out, "--precision", "fp16", "--decode", "graph", "--engine")
    status, said = command(monkeypatch, capsys, *words, "--engine-batch", 1, 2, 4)
    open_cuda.cache_clear()
    assert status == 0, said
    assert "engine against ONNX" in said
    record = read_record(tmp_path / "model.engine")
    assert record.profile.batch == (1, 2, 4)


def test_a_file_of_one_batch_in_fp16(tmp_path):
    out = tmp_path / "half.onnx"
    report = export_file(imported(tmp_path, locked=True, batch=2), out, Form("fp16"))
    assert report.checks["fp16"].images == 2 + 4 + 18  # of 1, 3 and 17
    model = LandmarkModel(out, backend="cpu")
    assert len(model.predict_crops(np.zeros((2, model.size, model.size, 3), np.uint8)).points) == 2


@pytest.mark.parametrize("form", [Form("fp16"), Form(decode="graph"), Form("int8")])
def test_only_plain_fp32_files_are_taken(fp32, spec, tmp_path, form):
    other = tmp_path / "other.onnx"
    refused = (
        ({"precision": "fp16"}, "fp16 already"),
        ({"decoder": "graph"}, "has its decoder in"),
    )
    for changes, message in refused:
        onnx_file.save(onnx.load(fp32), dataclasses.replace(spec, **changes), other)
        with pytest.raises(CheckpointError, match=message):
            export_file(other, tmp_path / "x.onnx", form)
    foreign = onnx.load(fp32)
    del foreign.metadata_props[:]
    onnx.save(foreign, other)
    with pytest.raises(CheckpointError, match="has no facemark spec yet"):
        export_file(other, tmp_path / "x.onnx", form)
    assert not (tmp_path / "x.onnx").exists()


class Moved:
    """A file whose offsets are all moved by a share of their range."""

    def __init__(self, backend, share):
        self.backend, self.share = backend, share

    def run(self, inputs):
        found = self.backend.run(inputs)
        for name in ("x", "nb_x"):
            found[name] = found[name] + np.float32(self.share * np.ptp(found[name]))
        return found


@pytest.mark.parametrize(("share", "passes"), [(0, True), (0.008, False), (0.04, False)])
def test_what_moves_all_points_is_no_rounding(photo, share, passes):
    """Not even where all outputs agree to within it, and each point alone would be a tie."""
    source = resolve_model("pipnet_lite0_68")
    backend, spec = create_backend("cpu", source), onnx_file.load(source)[1]
    batches = [*structured_batches(spec), *photo_batches(spec, [photo])]
    reference = [backend.run({"image": batch}) for batch in batches]
    moved = Moved(backend, share)
    assert check_parity(spec, batches, reference, moved, TOLERANCES["fp16"]).passed == passes


def test_insightfaces_detectors_are_not_taken_in_half(spec):
    theirs = dataclasses.replace(spec, family="insightface")
    for form in (Form("fp16"), Form(symmetric=True)):
        with pytest.raises(ModelError, match="not for insightface's detectors"):
            form.check(theirs)


def test_a_detector_has_no_decoder_for_the_graph(tmp_path):
    assert "retinaface_mnet025" in list_models()
    with pytest.raises(ModelError, match="for landmark models"):
        source = resolve_model("retinaface_mnet025")
        export_file(source, tmp_path / "x.onnx", Form(decode="graph"))


def test_options_of_other_projects_files_are_wrong_use(fp32, tmp_path, monkeypatch, capsys):
    words = ("--onnx", fp32, "-o", tmp_path / "x.onnx", "--layout", "ibug68")
    for more in (("--precision", "fp16"), ("--decode", "graph"), ("--engine",)):
        status, said = command(monkeypatch, capsys, *words, *more)
        assert (status, "--layout: not with" in said) == (2, True)
