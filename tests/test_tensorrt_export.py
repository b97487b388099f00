"""`facemark-export --engine`, on a TensorRT and CUDA that are made of numpy and ONNX Runtime."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from conftest import CROP, detector_graph, detector_spec, landmark_graph, landmark_spec, save
from fake_tensorrt import Memory, fake_cuda_python, fake_tensorrt, install
from onnx import TensorProto, helper, numpy_helper
from test_export import pip_spec, random_checkpoint
from test_parity import Gives

from facemark_export import cli, engine
from facemark_export.engine import export_engine
from facemark_export.parity import ParityError
from facemark_sdk import FaceDetector, LandmarkModel, ModelError
from facemark_sdk.backends.cuda import open_cuda
from facemark_sdk.backends.tensorrt.engine_file import read_record


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    memory = Memory()
    trt = fake_tensorrt(memory)
    install(monkeypatch, tensorrt=trt, runtime=fake_cuda_python(memory))
    yield trt
    open_cuda.cache_clear()


@pytest.fixture
def model(landmark_file: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(landmark_file, tmp_path / "face.onnx"))


def builds(monkeypatch: pytest.MonkeyPatch, other: Path) -> None:
    """Have the builder make its engine of another file, as if it computed something else."""
    honest = engine.build_engine

    def build(onnx: Path, profile: object) -> tuple[object, bytes]:
        return honest(onnx, profile)[0], honest(other, profile)[1]

    monkeypatch.setattr(engine, "build_engine", build)


def moved(model: Path, path: Path, cells: float) -> Path:
    """The landmark file with all points moved to the right by a share of a cell of 32 pixels."""
    changed = onnx.load(model)
    for tensor in changed.graph.initializer:
        if tensor.name in ("map_x", "map_nb_x"):
            values = numpy_helper.to_array(tensor) + np.float32(cells)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(changed, path)
    return path


def graph_file(path: Path, mean_face: np.ndarray, shift: np.ndarray, dimming: float = 0) -> Path:
    """A file with its decoder inside: the mean face, some of its points moved by whole pixels."""
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "axis1"], ["row"]),
        helper.make_node("Mul", ["row", "zero"], ["zeros"]),
        helper.make_node("Add", ["zeros", "score"], ["scores"]),
        helper.make_node("Unsqueeze", ["zeros", "axis2"], ["each"]),
        helper.make_node("Add", ["each", "place"], ["points"]),
    ]
    places = (mean_face * CROP + shift[:, None]).astype(np.float32)
    constants = {
        "axis1": np.array([1]),
        "axis2": np.array([2]),
        "zero": np.zeros(1, np.float32),
        "score": np.full((1, len(mean_face)), 0.9 - dimming, np.float32),
        "place": places[None],
    }
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", CROP, CROP, 3])],
        [
            helper.make_tensor_value_info("points", TensorProto.FLOAT, ["N", len(mean_face), 2]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", len(mean_face)]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    spec = dataclasses.replace(
        landmark_spec(mean_face), decoder="graph", decoder_params={"covariances": False}
    )
    save(graph, spec, path)
    return path


def test_engine_and_report_lie_beside_the_model(trt: ModuleType, model: Path) -> None:
    report = export_engine(model, batch=(1, 2, 4))
    path = model.with_suffix(".engine")
    assert read_record(path).profile.batch == (1, 2, 4)
    stored = json.loads((model.parent / "face.engine.report.json").read_text())
    assert (stored["passed"], stored["onnx"], stored["images"]) == (True, "face.onnx", 21)
    assert stored["largest_px"] == report.largest_px == 0
    assert stored["tensorrt"] == trt.__version__
    crops = np.zeros((5, CROP, CROP, 3), np.uint8)
    np.testing.assert_array_equal(
        LandmarkModel(path).predict_crops(crops).points,
        LandmarkModel(model, backend="cpu").predict_crops(crops).points,
    )


def test_real_photos_are_compared_too(trt: ModuleType, model: Path, photo: Path) -> None:
    assert export_engine(model, photos=[photo, photo]).images == 23


def test_an_engine_that_computes_something_else_is_not_written(
    trt: ModuleType, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundredth of a cell is a third of a pixel."""
    other = moved(model, tmp_path / "other.onnx", cells=0.01)
    builds(monkeypatch, other)
    with pytest.raises(ParityError, match=r"differ by 0\.320 px, .*face\.engine is not written"):
        export_engine(model)
    assert {path.name for path in tmp_path.iterdir()} == {"face.onnx", "other.onnx"}


def test_a_detector(trt: ModuleType, detector_file: Path, tmp_path: Path) -> None:
    model = Path(shutil.copy(detector_file, tmp_path / "detector.onnx"))
    assert export_engine(model, sides=(32, 256, 512)).passed
    assert read_record(tmp_path / "detector.engine").profile.sides == (32, 256, 512)


def quick_detector(path: Path, quick_size: int | None) -> Path:
    """The tiny detector with a size of 512 and a quick look."""
    spec = detector_spec()
    params = {**spec.decoder_params, "det_size": 512, "quick_size": quick_size}
    save(detector_graph(), dataclasses.replace(spec, decoder_params=params), path)
    return path


@pytest.mark.parametrize("quick_size", [160, 150])
def test_an_engine_must_take_the_quick_look(
    trt: ModuleType, tmp_path: Path, quick_size: int
) -> None:
    """150 pixels are padded to a canvas of 160, five strides."""
    model = quick_detector(tmp_path / "quick.onnx", quick_size)
    with pytest.raises(ModelError, match=r"--engine-sides must begin at 160 or less, got 192"):
        export_engine(model, sides=(192, 512, 512))
    assert trt.built == []
    assert export_engine(model, sides=(160, 512, 512)).passed
    found = FaceDetector(tmp_path / "quick.engine")(np.zeros((512, 512, 3), np.uint8))
    assert len(found) == 0


@pytest.mark.parametrize("sides", [(320, 512, 512), (300, 320, 512), (32, 96, 128), (32, 33, 34)])
def test_without_a_quick_look_an_engine_may_begin_anywhere(
    trt: ModuleType, tmp_path: Path, sides: tuple[int, int, int]
) -> None:
    """It is compared on images of sides that it takes."""
    model = quick_detector(tmp_path / "slow.onnx", None)
    assert export_engine(model, sides=sides).passed
    assert read_record(tmp_path / "slow.engine").profile.sides == sides


@pytest.mark.parametrize("batch", [None, (2, 2, 2), (1, 2, 4)])
def test_a_batch_that_the_file_fixes(
    trt: ModuleType,
    tmp_path: Path,
    mean_face: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    batch: tuple[int, int, int] | None,
) -> None:
    graph = landmark_graph(mean_face)
    graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    save(graph, landmark_spec(mean_face), tmp_path / "pair.onnx")
    pair = [np.zeros((2, CROP, CROP, 3), np.uint8)]
    monkeypatch.setattr(engine, "structured_batches", lambda spec: pair)
    if batch == (1, 2, 4):
        with pytest.raises(ModelError, match=r"always takes 2 images .*leave out --engine-batch"):
            export_engine(tmp_path / "pair.onnx", batch=batch)
        return
    export_engine(tmp_path / "pair.onnx", batch=batch)
    assert read_record(tmp_path / "pair.engine").profile.batch == (2, 2, 2)
    report = json.loads((tmp_path / "pair.engine.report.json").read_text())
    assert report["batch"] == [2, 2, 2]


@pytest.mark.parametrize(("moved", "passes"), [(0, True), (3, True), (18, False), (68, False)])
def test_int8_may_round_and_may_not_lose_its_points(
    mean_face: np.ndarray, moved: int, passes: bool
) -> None:
    """Maps that differ by a fiftieth of their range, which moves the best cells of some points.

    A quarter of the 68 points is 17; those that have a moved neighbour move with it.
    """
    spec = dataclasses.replace(landmark_spec(mean_face), precision="int8")
    rng = np.random.default_rng(0)
    maps = {
        name: rng.uniform(-0.2, 0.2, (1, rows, 4, 4)).astype(np.float32)
        for name, rows in {"x": 68, "y": 68, "nb_x": 204, "nb_y": 204}.items()
    }
    cls = rng.uniform(0, 0.1, (1, 68, 4, 4)).astype(np.float32)
    cls[:, :, 0, 0], cls[:, :, 3, 3] = 1.0, 0.99
    changed = cls.copy()
    changed[:, :moved, 3, 3] = 1.01
    image = [np.zeros((1, CROP, CROP, 3), np.uint8)]
    one, other = ({"cls": c, **maps} for c in (cls, changed))
    report = engine.compare(spec, image, Gives(**one), Gives(**other))
    assert report.largest_px == 0
    assert report.argmax_flips == moved
    assert report.ties >= moved
    assert report.passed is passes


@pytest.mark.parametrize(("wrong", "passes"), [(0, True), (6, True), (8, False)])
def test_decoder_in_the_graph(
    trt: ModuleType,
    tmp_path: Path,
    mean_face: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    wrong: int,
    passes: bool,
) -> None:
    """Its outputs do not show ties: a tenth of the points may be some."""
    model = graph_file(tmp_path / "whole.onnx", mean_face, np.zeros(68))
    jumps = np.where(np.arange(68) < wrong, 32.0, 0.0)
    builds(monkeypatch, graph_file(tmp_path / "other.onnx", mean_face, jumps))
    if passes:
        assert export_engine(model).ties == 21 * wrong
    else:
        with pytest.raises(ParityError, match="ties"):
            export_engine(model)


def test_scores_of_a_decoder_in_the_graph(
    trt: ModuleType, tmp_path: Path, mean_face: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = graph_file(tmp_path / "whole.onnx", mean_face, np.zeros(68))
    other = graph_file(tmp_path / "other.onnx", mean_face, np.zeros(68), dimming=0.01)
    builds(monkeypatch, other)
    with pytest.raises(ParityError, match=r"0\.0100 in scores"):
        export_engine(model)


class TestCommand:
    @pytest.fixture
    def ckpt(self, tmp_path: Path, mean_face: np.ndarray) -> Path:
        return random_checkpoint(tmp_path, pip_spec("efficientnet_lite0", mean_face))[0]

    def run(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object
    ) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["facemark-export", *map(str, words)])
        try:
            cli.main()
        except SystemExit as stop:
            return int(stop.code or 0), capsys.readouterr().err
        return 0, capsys.readouterr().err

    def test_from_checkpoint_to_engine(
        self,
        trt: ModuleType,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        ckpt: Path,
        tmp_path: Path,
    ) -> None:
        out = tmp_path / "model.onnx"
        words = ("--ckpt", ckpt, "-o", out, "--engine", "--engine-batch", 1, 2, 16)
        status, text = self.run(monkeypatch, capsys, *words)
        assert status == 0, text
        assert "engine against ONNX" in text
        record = read_record(tmp_path / "model.engine")
        assert record.profile.batch == (1, 2, 16)
        assert {path.name for path in tmp_path.iterdir()} == {
            ckpt.name,
            *(
                f"model.{kind}{tail}"
                for kind in ("onnx", "engine")
                for tail in ("", ".report.json")
            ),
        }

    def test_without_tensorrt_nothing_is_written(
        self,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        ckpt: Path,
        tmp_path: Path,
    ) -> None:
        install(monkeypatch)
        words = ("--ckpt", ckpt, "-o", tmp_path / "model.onnx", "--engine")
        status, text = self.run(monkeypatch, capsys, *words)
        assert (status, len(text.splitlines())) == (1, 1)
        assert "needs TensorRT 10 or 11" in text
        assert [path.name for path in tmp_path.iterdir()] == [ckpt.name]

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["-o", "x.onnx", "--engine-batch", 1, 2, 3], "are for --engine"),
            (["-o", "x.engine", "--engine"], "give the ONNX file's name"),
            (["-o", "x.onnx", "--engine", "--engine-batch", 4, 2, 8], "rising whole numbers"),
            (["-o", "x.onnx", "--engine", "--engine-sides", 0, 2, 8], "sides must be"),
        ],
    )
    def test_wrong_use(
        self,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        words: list[object],
        message: str,
    ) -> None:
        status, text = self.run(monkeypatch, capsys, "--ckpt", "nix.pth", *words)
        assert status == 2
        assert message in text

    def test_a_file_that_is_not_there(
        self,
        trt: ModuleType,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        words = ("--onnx", "nix.onnx", "-o", "x.onnx", "--engine")
        status, text = self.run(monkeypatch, capsys, *words)
        assert (status, "nix.onnx cannot be read" in text) == (1, True)
