from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT
from numpy.typing import NDArray

Run = Callable[..., subprocess.CompletedProcess[str]]

HEADLESS = "GUI:                           NONE" in cv2.getBuildInformation()


@pytest.fixture
def models(landmark_file: Path, detector_file: Path) -> tuple[object, ...]:
    return "--model", landmark_file, "--detector", detector_file, "--backend", "cpu"


@pytest.fixture
def video(tmp_path: Path, scene: Callable[..., NDArray[np.uint8]]) -> Path:
    path = tmp_path / "in.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (256, 256))
    for i in range(5):
        writer.write(scene((72 + 16 * i, 72, 255)))
    writer.release()
    return path


def failed(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 1, result
    (line,) = result.stderr.splitlines()
    return line


@pytest.mark.parametrize("source", ["97", "nix.mp4"])
def test_webcam_without_a_camera(run_python: Run, source: str) -> None:
    line = failed(run_python(ROOT / "examples" / "webcam.py", "--camera", source))
    assert line.startswith("webcam: cannot open")


def test_webcam_without_a_window(
    run_python: Run, video: Path, models: tuple[object, ...], tmp_path: Path
) -> None:
    out = tmp_path / "out.mp4"
    script = ROOT / "examples" / "webcam.py"
    result = run_python(script, "--camera", video, "--no-window", "--save", out, *models)
    assert result.returncode == 0, result
    assert result.stdout.startswith("5 frames")
    capture = cv2.VideoCapture(str(out))
    assert capture.read()[1].any()
    result = run_python(script, "--camera", video, "--no-window", "--frames", 2, *models)
    assert result.stdout.startswith("2 frames")


@pytest.mark.skipif(not HEADLESS, reason="this OpenCV has windows")
def test_webcam_names_the_gui_extra(
    run_python: Run, video: Path, models: tuple[object, ...]
) -> None:
    script = ROOT / "examples" / "webcam.py"
    assert "facemark-sdk[gui]" in failed(run_python(script, "--camera", video, *models))


def test_benchmark(
    run_python: Run, models: tuple[object, ...], tmp_path: Path, scene: Callable[..., np.ndarray]
) -> None:
    photo, report = tmp_path / "photo.png", tmp_path / "report.json"
    picture = cv2.resize(scene((136, 72, 255), size=(256, 192)), (640, 480))
    photo.write_bytes(cv2.imencode(".png", picture)[1].tobytes())
    options = ("--image", photo, "--frames", 3, "--warm-up", 1, "--json", report, *models)
    result = run_python(ROOT / "examples" / "benchmark.py", *options)
    assert result.returncode == 0, result
    record = json.loads(report.read_text())
    rows = {"decode image", "detect", "crop", "network", "decode points", "crop + decode", "total"}
    assert set(record["stages"]) == rows
    for row in record["stages"].values():
        assert 0 < row["p50_ms"] <= row["p95_ms"]
    assert "onnxruntime" in result.stdout
    assert "crop + decode" in result.stdout


def test_benchmark_without_a_face(
    run_python: Run, models: tuple[object, ...], tmp_path: Path
) -> None:
    photo = tmp_path / "black.png"
    photo.write_bytes(cv2.imencode(".png", np.zeros((480, 640, 3), np.uint8))[1].tobytes())
    script = ROOT / "examples" / "benchmark.py"
    assert "no face found" in failed(run_python(script, "--image", photo, *models))
