from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import detector_graph, save
from numpy.typing import NDArray

from facemark_sdk.backends import describe_file
from facemark_sdk.backends.tensorrt.engine_file import Built, EngineRecord, write_engine
from facemark_sdk.backends.tensorrt.profile import Profile
from facemark_sdk.spec import METADATA_KEY

Result = subprocess.CompletedProcess[str]
Run = Callable[..., Result]


@pytest.fixture(scope="module")
def facemark(run_python: Run) -> Run:
    return lambda *arguments: run_python("-m", "facemark_sdk.cli", *arguments)


@pytest.fixture(scope="module")
def detect(facemark: Run, landmark_file: Path, detector_file: Path) -> Run:
    options = ("--model", landmark_file, "--detector", detector_file, "--backend", "cpu")
    return lambda *arguments: facemark("detect", *options, *arguments)


@pytest.fixture
def pictures(tmp_path: Path, scene: Callable[..., NDArray[np.uint8]]) -> list[Path]:
    """Two faces, none, one."""
    paths = [tmp_path / name for name in ("zwei gesichter ü.png", "none.png", "one.png")]
    scenes = (scene((72, 72, 255), (184, 184, 200)), scene(), scene((72, 72, 255)))
    for path, picture in zip(paths, scenes, strict=True):
        path.write_bytes(cv2.imencode(".png", picture)[1].tobytes())
    return paths


def failed(result: Result, status: int = 1) -> str:
    """The one line on stderr of a command that failed."""
    assert result.returncode == status, result
    assert "Traceback" not in result.stderr
    (line,) = result.stderr.splitlines()
    assert line.startswith("facemark: ")
    return line


def test_picture_and_json(detect: Run, pictures: list[Path], tmp_path: Path) -> None:
    out, lines = tmp_path / "new folder" / "out.png", tmp_path / "out.jsonl"
    result = detect(pictures[0], "-o", out, "--json", lines)
    assert result.returncode == 0, result
    assert result.stderr == ""
    assert f"2 faces -> {out}" in result.stdout
    assert cv2.imread(str(out)).shape == (256, 256, 3)
    (record,) = map(json.loads, lines.read_text(encoding="utf-8").splitlines())
    assert record["image"] == str(pictures[0])
    assert (record["width"], record["height"]) == (256, 256)
    assert [len(face["landmarks"]) for face in record["faces"]] == [68, 68]
    assert not list(tmp_path.rglob("*.partial"))


def test_no_face_is_no_failure(detect: Run, pictures: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out.jpg"
    result = detect(pictures[1], "-o", out)
    assert result.returncode == 0
    assert "no face" in result.stdout
    assert out.is_file()


def test_several_images_into_a_folder(detect: Run, pictures: list[Path], tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    twin = shutil.copy(pictures[2], tmp_path / "other" / "one.png")
    out, lines = tmp_path / "out", tmp_path / "out.jsonl"
    result = detect(*pictures, twin, "-o", out, "--json", lines)
    assert result.returncode == 0, result
    names = {"zwei gesichter ü.png", "none.png", "one.png", "one_2.png"}
    assert {path.name for path in out.iterdir()} == names
    records = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]
    assert [len(record["faces"]) for record in records] == [2, 0, 1, 1]


def test_one_bad_image_of_several(detect: Run, pictures: list[Path], tmp_path: Path) -> None:
    lines = tmp_path / "out.jsonl"
    result = detect(pictures[0], "nix.jpg", pictures[2], "--json", lines, "-o", tmp_path / "out")
    assert "'nix.jpg' does not exist" in failed(result)
    assert len(lines.read_text(encoding="utf-8").splitlines()) == 2
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_options(detect: Run, pictures: list[Path]) -> None:
    assert "1 face" in detect(pictures[0], "--max-faces", 1, "--threads", 1).stdout
    assert "1 face" in detect(pictures[0], "--score-threshold", 0.9).stdout


@pytest.mark.parametrize("kind", ["text", "cut.jpg", "cut.png", "cut.bmp", "folder", "empty"])
def test_bad_images(detect: Run, photo: Path, tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    if kind == "folder":
        path.mkdir()
    elif kind.startswith("cut"):
        content = cv2.imencode(path.suffix, cv2.imread(str(photo)))[1].tobytes()
        path.write_bytes(content[: len(content) // 2])
    else:
        path.write_text("no image" if kind == "text" else "")
    out = tmp_path / "out.png"
    assert kind in failed(detect(path, "-o", out))
    assert not out.exists()


def test_bad_models_and_backends(
    facemark: Run, detect: Run, landmark_file: Path, photo: Path, tmp_path: Path
) -> None:
    cut, foreign = tmp_path / "cut.onnx", tmp_path / "foreign.onnx"
    content = landmark_file.read_bytes()
    cut.write_bytes(content[: len(content) // 2])
    save(detector_graph(), None, foreign)
    for detector, message in (
        ("nix", "bundled models:"),
        (cut, "truncated, damaged or no ONNX file"),
        (photo, "truncated, damaged or no ONNX file"),
        (foreign, "facemark-export"),
        (landmark_file, "is for landmarks"),
    ):
        assert message in failed(facemark("detect", photo, "--detector", detector))
    assert "TensorRT" in failed(detect(photo, "--backend", "tensorrt"))
    assert "threads" in failed(detect(photo, "--threads", 0))


def test_wrong_use(facemark: Run, detect: Run, pictures: list[Path], tmp_path: Path) -> None:
    assert facemark("dance").returncode == 2
    assert facemark().returncode == 2
    assert facemark("detect", "--colour", "red").returncode == 2
    assert detect(pictures[0], "--threads", "two").returncode == 2
    assert "no image given" in failed(facemark("detect"), 2)
    assert "must be a folder" in failed(detect(*pictures, "-o", tmp_path / "out.png"), 2)
    assert "'.xyz'" in failed(detect(pictures[0], "-o", tmp_path / "out.xyz"), 2)
    assert "overwrite" in failed(detect(pictures[0], "-o", pictures[0]), 2)
    assert "overwrite" in failed(detect(*pictures, "-o", tmp_path), 2)


def test_output_that_cannot_be_written(detect: Run, pictures: list[Path], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "cannot write" in failed(detect(pictures[0], "-o", tmp_path / "file" / "out.png"))


@pytest.mark.parametrize("command", [(), ("detect",), ("info",), ("models",)])
def test_help(facemark: Run, command: tuple[str, ...]) -> None:
    result = facemark(*command, "--help")
    assert result.returncode == 0
    assert "usage: facemark" in result.stdout


def test_info(facemark: Run, landmark_file: Path, mean_face: NDArray[np.float64]) -> None:
    text = facemark("info", landmark_file).stdout
    for word in (
        "tiny_landmarks",
        "ibug68",
        "table of 68 x 3",
        "sha256",
        "uint8 N x 128 x 128 x 3",
    ):
        assert word in text
    record = json.loads(facemark("info", landmark_file, "--json").stdout)
    assert record["bytes"] == landmark_file.stat().st_size
    assert len(record["spec"]["decoder_params"]["neighbours"]) == len(mean_face)
    assert [tensor["name"] for tensor in record["outputs"]] == ["cls", "x", "y", "nb_x", "nb_y"]
    assert "bundled models:" in failed(facemark("info", "nix"))


def test_info_of_an_engine(facemark: Run, landmark_file: Path, tmp_path: Path) -> None:
    """Its spec, and where it runs; without TensorRT or a GPU."""
    path = tmp_path / "x.engine"
    source = describe_file(landmark_file)
    record = EngineRecord(
        spec=source.metadata[METADATA_KEY],
        inputs=source.inputs,
        outputs=source.outputs,
        profile=Profile((1, 8, 64)),
        built=Built("11.4.0.106", "NVIDIA H100", "9.0", "Linux x86_64"),
        onnx_sha256="ab" * 32,
    )
    write_engine(path, record, b"plan")
    text = facemark("info", path).stdout
    for word in ("tiny_landmarks", "ibug68", "11.4.0.106", "NVIDIA H100", "[1, 8, 64]"):
        assert word in text
    engine = json.loads(facemark("info", path, "--json").stdout)
    model = json.loads(facemark("info", landmark_file, "--json").stdout)
    assert engine["spec"] == model["spec"]
    assert engine["outputs"] == model["outputs"]
    assert engine["engine"]["capability"] == "9.0"
    assert "engine" not in model
    path.write_bytes(path.read_bytes()[:-1])
    assert "truncated" in failed(facemark("info", path))


def test_models(facemark: Run) -> None:
    result = facemark("models")
    assert result.returncode == 0
    assert result.stderr == ""
    assert result.stdout


def test_bundled_models_on_the_example_photo(facemark: Run, photo: Path, tmp_path: Path) -> None:
    result = facemark("detect", photo, "-o", tmp_path / "out.png")
    assert result.returncode == 0, result
    assert "1 face ->" in result.stdout
    table = facemark("models").stdout
    assert "retinaface_mnet025" in table
    assert "pipnet_lite0_68_int8" in table
    assert "NME 3.6" in table
    assert max(map(len, table.splitlines())) <= 80


@pytest.mark.parametrize("victim", ["input", "output", "folder"])
def test_json_overwrites_no_picture(
    detect: Run, pictures: list[Path], tmp_path: Path, victim: str
) -> None:
    out = tmp_path / "out.png"
    path = {"input": pictures[2], "output": out, "folder": tmp_path}[victim]
    before = pictures[2].read_bytes()
    assert "--json must be" in failed(detect(pictures[2], "-o", out, "--json", path), 2)
    assert pictures[2].read_bytes() == before
    assert not out.exists()


def test_file_names_that_are_not_utf8(detect: Run, pictures: list[Path], tmp_path: Path) -> None:
    odd = os.fsencode(tmp_path) + b"/\xff.png"
    Path(os.fsdecode(odd)).write_bytes(pictures[2].read_bytes())
    lines = tmp_path / "out.jsonl"
    result = detect(os.fsdecode(odd), "-o", tmp_path / "folder", "--json", lines)
    assert result.returncode == 0, result
    assert os.path.exists(os.fsencode(tmp_path) + b"/folder/\xff.png")
    assert len(json.loads(lines.read_text())["faces"]) == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_json_into_a_pipe(detect: Run, pictures: list[Path], tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor() as pool:
        reader = pool.submit(pipe.read_text)
        result = detect(pictures[2], "--json", pipe)
        assert result.returncode == 0, result
        assert len(json.loads(reader.result())["faces"]) == 1
    assert pipe.is_fifo()


def test_a_path_that_is_too_long(facemark: Run) -> None:
    assert "no model" in failed(facemark("info", "x" * 5000))
