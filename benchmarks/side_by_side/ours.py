"""Our contenders: the SDK as its users call it, and its networks alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from worker import Run, ignore

from facemark_sdk import Detector, FaceDetector, LandmarkModel, load_image
from facemark_sdk.backends import Backend

SEED = 5


def crop_to_points(*, threads: int, model: str, batch: int = 1) -> tuple[Run, str]:
    """`LandmarkModel.predict_crops`."""
    loaded = LandmarkModel(model, backend="cpu", threads=threads)
    crops = _crops(loaded.size, batch)
    return lambda: ignore(loaded.predict_crops(crops)), _described(loaded)


def network(*, threads: int, model: str, batch: int = 1) -> tuple[Run, str]:
    """`LandmarkModel.infer`: the network and nothing else."""
    loaded = LandmarkModel(model, backend="cpu", threads=threads)
    crops = _crops(loaded.size, batch)
    return lambda: ignore(loaded.infer(crops)), _described(loaded)


def boxes_given(
    *, threads: int, model: str, frame: str, boxes: list[list[float]]
) -> tuple[Run, str]:
    """`LandmarkModel.predict` in given boxes of a frame that is decoded already."""
    loaded = LandmarkModel(model, backend="cpu", threads=threads)
    pixels, given = load_image(frame), np.array(boxes, np.float32)
    return lambda: ignore(loaded.predict(pixels, given)), f"{len(boxes)} box(es)"


def detection(*, threads: int, model: str, frame: str) -> tuple[Run, str]:
    """`FaceDetector` on a decoded frame."""
    loaded = FaceDetector(model, backend="cpu", threads=threads)
    pixels = load_image(frame)
    found = loaded(pixels)
    return lambda: ignore(loaded(pixels)), f"{len(found)} face(s), det_size {loaded.det_size}"


def whole(*, threads: int, model: str, frame: str) -> tuple[Run, str]:
    """`Detector` on a decoded frame, everything included; inside, what is not the networks'."""
    detector = Detector(model, backend="cpu", threads=threads)
    pixels = load_image(frame)
    in_networks = _watch_networks()
    faces = detector(pixels)
    if not in_networks:
        raise RuntimeError("Detector ran no network through Backend.run: nothing to subtract")

    def run() -> dict[str, float]:
        in_networks.clear()
        start = time.perf_counter()
        detector(pixels)
        return {"around": (time.perf_counter() - start) * 1e3 - sum(in_networks)}

    return run, f"{len(faces)} face(s)"


def _watch_networks() -> list[float]:
    """From now on, milliseconds of every call of a runtime go into this list."""
    times: list[float] = []

    def watched(run: Callable[..., Any]) -> Callable[..., Any]:
        def timed(self: Backend, inputs: Any) -> Any:
            start = time.perf_counter()
            outputs = run(self, inputs)
            times.append((time.perf_counter() - start) * 1e3)
            return outputs

        return timed

    for kind in Backend.__subclasses__():
        kind.run = watched(kind.run)  # type: ignore[method-assign]
    return times


def _crops(side: int, batch: int) -> np.ndarray:
    return np.random.default_rng(SEED).integers(0, 256, (batch, side, side, 3), np.uint8)


def _described(model: LandmarkModel) -> str:
    return f"{model.layout.num_points} points, {model.size} px, {model.spec.precision}"


KINDS = {
    "crop_to_points": crop_to_points,
    "network": network,
    "boxes_given": boxes_given,
    "detection": detection,
    "whole": whole,
}
