"""What the cuda backend needs beside ONNX Runtime: CUDA itself, and page-locked memory."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from fake_tensorrt import Memory, fake_cuda_python, install

from facemark_sdk.backends import ort
from facemark_sdk.backends.cuda import open_cuda
from facemark_sdk.errors import ModelError


@pytest.fixture(autouse=True)
def _forget():
    for once in (ort._warn_of_ordinary_memory, ort._load_cuda):
        once.cache_clear()
    yield
    for once in (ort._warn_of_ordinary_memory, ort._load_cuda):
        once.cache_clear()
    open_cuda.cache_clear()


def test_with_cuda_python(monkeypatch, caplog):
    memory = Memory()
    install(monkeypatch, runtime=fake_cuda_python(memory))
    staging = ort._page_locked()
    array = staging(16)
    assert (array.shape, array.dtype) == ((16,), np.uint8)
    assert list(memory.blocks) == [array.ctypes.data]
    assert not caplog.records


def test_without_it_there_is_one_warning_that_says_what_to_install(monkeypatch, caplog):
    install(monkeypatch)
    with caplog.at_level(logging.WARNING, "facemark"):
        assert [ort._page_locked() for _ in range(3)] == [None] * 3
    (message,) = [record.message for record in caplog.records]
    assert message.startswith("backend 'cuda' copies inputs to the GPU from ordinary memory")
    assert 'pip install "cuda-bindings>=12.9,<14"' in message
    assert "tensorrt" not in message


def test_a_driver_that_is_too_old_for_it(monkeypatch, caplog):
    install(monkeypatch, runtime=fake_cuda_python(Memory(), failing="cudaGetDeviceProperties"))
    assert ort._page_locked() is None
    (message,) = [record.message for record in caplog.records]
    assert "driver version is insufficient" in message


def test_cuda_from_packages_is_loaded_once_and_before_it_starts(
    monkeypatch, caplog, capsys, landmark_file
):
    done = []

    def preload():
        done.append("loaded")
        print("Failed to load libcudart.so.13")

    def session(*_):
        done.append("started")
        raise ModelError("no GPU here")

    monkeypatch.setattr(ort.ort, "preload_dlls", preload)
    monkeypatch.setattr(ort, "has_cuda", lambda: True)
    monkeypatch.setattr(ort, "_session", session)
    with caplog.at_level(logging.DEBUG, "facemark"):
        for _ in range(2):
            with pytest.raises(ModelError):
                ort.OrtBackend(landmark_file, name="cuda")
    assert done == ["loaded", "started", "started"]
    assert "libcudart.so.13" in caplog.text
    assert capsys.readouterr().out == ""


def test_the_cpu_needs_no_cuda(monkeypatch, landmark_file):
    monkeypatch.setattr(ort.ort, "preload_dlls", lambda: pytest.fail("loads CUDA"))
    assert ort.OrtBackend(landmark_file, name="cpu").name == "cpu"
