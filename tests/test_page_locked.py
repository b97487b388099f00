"""Page-locked memory for the cuda backend's inputs, and what is said where there is none."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from fake_tensorrt import Memory, fake_cuda_python, install

from facemark_sdk.backends import ort
from facemark_sdk.backends.cuda import open_cuda


@pytest.fixture(autouse=True)
def _forget():
    ort._warn_of_ordinary_memory.cache_clear()
    yield
    ort._warn_of_ordinary_memory.cache_clear()
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
    assert "pip install cuda-bindings" in message
    assert "tensorrt" not in message


def test_a_driver_that_is_too_old_for_it(monkeypatch, caplog):
    install(monkeypatch, runtime=fake_cuda_python(Memory(), failing="cudaGetDeviceProperties"))
    assert ort._page_locked() is None
    (message,) = [record.message for record in caplog.records]
    assert "driver version is insufficient" in message
