"""Benchmarks outside the SDK take turns as `facemark bench` does; no time is asserted."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import detector_size
from facemark_export import precision_speed
from facemark_sdk.bench import Protocol


def test_detectors_go_through_all_frames_in_their_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame costs what its number says: a clock that only detectors move."""
    clock = 0.0
    looks: list[tuple[str, int]] = []

    def candidate(name: str, factor: float) -> SimpleNamespace:
        def look(frame: int) -> None:
            nonlocal clock
            looks.append((name, frame))
            clock += factor * (frame + 1)

        return SimpleNamespace(usual=look)

    monkeypatch.setattr(detector_size, "perf_counter", lambda: clock)
    frames, rounds = [0, 1, 2], 4
    times = detector_size.frame_times([candidate("a", 1), candidate("b", 10)], frames, rounds)
    np.testing.assert_allclose(times, [[1e3, 2e3, 3e3], [1e4, 2e4, 3e4]])
    warm_up, turn = len(frames), len(frames) + 1  # one more, which does not count
    assert "".join(name for name, _ in looks) == (
        "a" * warm_up + "b" * warm_up + ("a" * turn + "b" * turn + "b" * turn + "a" * turn) * 2
    )
    assert min(Counter(looks).values()) >= rounds + 1


def test_precisions_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[str] = []

    def create(name: str, path: Path) -> SimpleNamespace:
        return SimpleNamespace(run=lambda inputs: runs.append(path.stem))

    monkeypatch.setattr(precision_speed, "create_backend", create)
    monkeypatch.setattr(precision_speed, "_PROTOCOL", Protocol(repeat=4, warm_up=1, turn=2))
    files = [Path("a.onnx"), Path("b.onnx")]
    assert len(precision_speed.milliseconds(files, np.zeros((1, 8, 8, 3), np.uint8))) == 2
    assert "".join(runs) == "ab" + "aaabbb" + "bbbaaa"
