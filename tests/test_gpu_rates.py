"""The GPU benchmark rehearsed on the CPU, with a small input; no time is asserted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("onnxslim")

import gpu_rates
from facemark_sdk.backends import ort as ort_backend

SIZE = 64
BATCHES = (1, 17)
"""The second is more than the network sees at once on a CPU."""


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> dict:
    work = tmp_path_factory.mktemp("gpu_rates")
    gpu_rates.main(
        device="cpu",
        batches=BATCHES,
        precisions=("fp32",),
        compiled=False,
        size=SIZE,
        threads=1,
        rounds=2,
        runs=1,
        work=work,
        json_file=work / "rates.json",
    )
    return json.loads((work / "rates.json").read_text())


def rows(record: dict, batch: int) -> dict[str, dict]:
    return {row["name"]: row for row in record["times"] if row["batch"] == batch}


def test_everything_is_measured(record: dict) -> None:
    ours = [f"ONNX Runtime, fp32, decode in {where}" for where in ("numpy", "graph")]
    assert list(rows(record, 1)) == ["PyTorch eager, fp32", *ours]
    at_once = [name for each in ours for name in (each, f"{each}, one run")]
    assert list(rows(record, 17)) == ["PyTorch eager, fp32", *at_once]
    assert [row["network_runs"] for row in rows(record, 17).values()] == [1, 2, 1, 2, 1]
    assert record["kind"] == "facemark-gpu-rates"
    assert record["device"] == "cpu"
    assert record["not_measured"] == []
    assert record["machine"]["cpu"]


def test_times(record: dict) -> None:
    for row in record["times"]:
        assert np.shape(row["wall_ms"]) == (2, 1)
        assert 0 < row["p50_ms"] <= row["p95_ms"]
        assert row["fps"] == pytest.approx(row["batch"] / row["p50_ms"] * 1e3)
        ours = row["name"].startswith("ONNX")
        assert list(row["stages_ms"]) == ["in", "device", "out", *(["host"] if ours else [])]
        assert all(value >= 0 for value in row["stages_ms"].values())
    assert rows(record, 1)["PyTorch eager, fp32"]["x_eager"] == 1.0


def test_points_are_the_same(record: dict) -> None:
    for row in record["times"]:
        assert row["same"] >= 0.99, row["name"]


def test_bytes(record: dict) -> None:
    """A grid of 2 x 2 cells: maps of 98 scores, 196 offsets, and 10 neighbours' offsets each."""
    for batch in BATCHES:
        found = rows(record, batch)
        assert {row["bytes_in"] for row in found.values()} == {batch * SIZE * SIZE * 3}
        for name, row in found.items():
            maps, points, scores = 98 * (3 + 2 * 10) * 4, 98 * 2, 98
            numbers = points if "PyTorch" in name else points + scores if "graph" in name else maps
            assert row["bytes_out"] == batch * numbers * 4


@pytest.mark.parametrize("claimed", [False, True])
def test_no_gpu_is_one_clear_line(
    claimed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither side goes on without one: not ONNX Runtime's wheel for CPUs, nor PyTorch's."""
    if torch.cuda.is_available() or ort_backend.has_cuda():
        pytest.skip("there may be a GPU")
    if claimed:
        monkeypatch.setattr(gpu_rates, "create_backend", lambda *given: None)
    work = tmp_path / "work"
    with pytest.raises(SystemExit) as stopped:
        gpu_rates.main(work=work)
    line = str(stopped.value)
    assert line.startswith("gpu_rates: ")
    assert "\n" not in line
    assert ("PyTorch" if claimed else "onnxruntime-gpu") in line
    assert not work.exists()


def test_counts_must_be_positive(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="at least 1"):
        gpu_rates.main(device="cpu", rounds=0, work=tmp_path / "work")


def test_what_cannot_start_is_said() -> None:
    class Constant:
        def points(self) -> np.ndarray:
            return np.zeros((1, 98, 2), np.float32)

    def broken() -> Constant:
        raise RuntimeError("no compiler\nfound")

    field = [(gpu_rates.REFERENCE, Constant), ("PyTorch compiled, fp32", broken)]
    ready, missing = gpu_rates._start(field)
    assert [each.name for each in ready] == [gpu_rates.REFERENCE]
    assert missing == {"PyTorch compiled, fp32": "RuntimeError: no compiler found"}
    with pytest.raises(RuntimeError):
        gpu_rates._start([(gpu_rates.REFERENCE, broken)])
