from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import CROP

from facemark_sdk import BackendError, ModelError
from facemark_sdk.backends import BACKENDS, create_backend
from facemark_sdk.backends import ort as ort_backend
from facemark_sdk.backends.cpus import limited_cpus

HAS_CUDA = ort_backend.has_cuda()


def crops(count: int) -> np.ndarray:
    return np.full((count, CROP, CROP, 3), 40, np.uint8)


def test_runs_named_arrays(landmark_file: Path) -> None:
    backend = create_backend("cpu", landmark_file, 1)
    outputs = backend.run({"image": crops(3)})
    assert backend.name == "cpu"
    assert [tensor.name for tensor in backend.outputs] == list(outputs)
    assert outputs["cls"].shape == (3, 68, 4, 4)
    assert backend.inputs[0].dtype == "uint8"
    assert backend.inputs[0].shape == ("N", CROP, CROP, 3)


def test_one_session_in_many_threads(landmark_file: Path) -> None:
    backend = create_backend("cpu", landmark_file, 2)
    with ThreadPoolExecutor(8) as pool:
        results = list(
            pool.map(lambda n: backend.run({"image": crops(n)})["x"].shape[0], range(1, 40))
        )
    assert results == list(range(1, 40))


@pytest.mark.skipif(HAS_CUDA, reason="onnxruntime-gpu is installed")
def test_cuda_without_the_gpu_wheel_names_the_extra(landmark_file: Path) -> None:
    with pytest.raises(BackendError, match=r"facemark-sdk\[gpu\]"):
        create_backend("cuda", landmark_file)


@pytest.mark.skipif(HAS_CUDA, reason="onnxruntime-gpu is installed")
def test_auto_says_what_it_picks(landmark_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "facemark"):
        assert create_backend("auto", landmark_file).name == "cpu"
    assert "picks 'cpu'" in caplog.text


def test_no_silent_fall_back(landmark_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wheel that claims CUDA but whose session runs on the CPU is an error."""
    monkeypatch.setattr(ort_backend, "has_cuda", lambda: True)
    ort_warns = pytest.warns(UserWarning, match="CUDAExecutionProvider")
    with ort_warns, pytest.raises(BackendError, match="fell back"):
        create_backend("cuda", landmark_file)


def test_auto_warns_when_cuda_does_not_start(
    landmark_file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ort_backend, "has_cuda", lambda: True)
    with pytest.warns(UserWarning, match="CUDAExecutionProvider"):
        assert create_backend("auto", landmark_file).name == "cpu"
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_tensorrt_is_not_faked(landmark_file: Path) -> None:
    with pytest.raises(BackendError, match="no TensorRT backend"):
        create_backend("tensorrt", landmark_file)


@pytest.mark.parametrize("name", ["CPU", "", "nix", None])
def test_unknown_backend_lists_the_known(landmark_file: Path, name: str) -> None:
    with pytest.raises(BackendError, match=", ".join(BACKENDS)):
        create_backend(name, landmark_file)


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, "2"])
def test_bad_threads(landmark_file: Path, threads: int) -> None:
    with pytest.raises(BackendError, match="threads must be"):
        create_backend("cpu", landmark_file, threads)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_truncated_model(landmark_file: Path, tmp_path: Path, share: float) -> None:
    content = landmark_file.read_bytes()
    path = tmp_path / "cut.onnx"
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ModelError, match=r"cut\.onnx"):
        create_backend("cpu", path)


def test_foreign_file(tmp_path: Path, photo: Path) -> None:
    with pytest.raises(ModelError, match=r"astronaut\.png"):
        create_backend("cpu", photo)
    with pytest.raises(ModelError, match="does not exist"):
        create_backend("cpu", tmp_path)


@pytest.mark.parametrize(
    "inputs",
    [
        {"picture": crops(1)},
        {},
        {"image": crops(1).astype(np.float32)},
        {"image": crops(1)[:, :8]},
        {"image": crops(1)[0]},
    ],
)
def test_wrong_inputs(landmark_file: Path, inputs: dict[str, np.ndarray]) -> None:
    with pytest.raises(BackendError, match="backend 'cpu' failed"):
        create_backend("cpu", landmark_file).run(inputs)


def test_cpu_limits_are_positive() -> None:
    assert limited_cpus() is None or limited_cpus() >= 1
