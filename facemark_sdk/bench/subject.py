"""A configuration that is loaded and ready: each call is one run through all stages."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from facemark_sdk.backends import describe_file
from facemark_sdk.backends.tensorrt.engine_file import is_engine
from facemark_sdk.bench.configuration import Configuration
from facemark_sdk.bench.frames import Frame
from facemark_sdk.detect.face_detector import FaceDetector
from facemark_sdk.detector import largest_first
from facemark_sdk.errors import FacemarkError
from facemark_sdk.files import sha256_of
from facemark_sdk.image import Image, load_image
from facemark_sdk.landmark_model import LandmarkModel
from facemark_sdk.models import read_spec, resolve_model
from facemark_sdk.spec import Task

STAGES = ("decode image", "detect", "crop", "network", "decode points", "total")
"""Reading a photo's file; finding its faces; cutting the batch of faces; the landmark network; its
outputs as points, in the crop and in the photo; and all of a run in one go."""

DETECTOR_STAGES = ("decode image", "detect", "total")
"""What a face detector that is measured alone has of them."""

_ONNX_ONLY = ("cpu", "cuda")
"""Backends that run no engine."""

Result = TypeVar("Result")


class Unable(FacemarkError):
    """The model cannot do what the configuration asks for; others may."""


def check_fits(model: Path, backend: str) -> None:
    """See that a model file is of a kind that a backend runs; whether it is whole shows later.

    Raises:
        Unable: It is an engine, the backend is ONNX Runtime's.
    """
    if backend in _ONNX_ONLY and is_engine(model):
        raise Unable(
            f"{str(model)!r} is a TensorRT engine, which backend {backend!r} cannot run; it takes "
            "'tensorrt' or 'auto'"
        )


class Subject:
    """A loaded configuration.

    Every run takes the next of the frames: decodes its file, finds its faces, cuts a batch of them
    and places their points. The batch is the frame's faces, the largest first, as often as it
    takes to fill it; a frame without a face gives a square in its middle.

    `sha256` is that of the model's file when it was loaded.
    """

    def __init__(
        self, configuration: Configuration, detector: FaceDetector, frames: Sequence[Frame]
    ) -> None:
        """Load it, and run it once on every frame.

        Args:
            configuration: What to load: a landmark model or a face detector.
            detector: Finds the faces; a configuration of a detector measures that one instead.
            frames: At least one.

        Raises:
            Unable: The model does not take this batch size, or not this backend.
            FacemarkError: The model cannot be loaded or run.
        """
        self.configuration, self._frames = configuration, frames
        path = resolve_model(configuration.model)
        task, fixed = _look_at(path)
        check_fits(path, configuration.backend)
        self.sha256 = sha256_of(path)
        batch = configuration.batch
        self.landmarks: LandmarkModel | None = None
        self.detector = detector
        loading = {"backend": configuration.backend, "threads": configuration.threads}
        if task == "detection":
            if batch != 1:
                raise Unable(f"a detector looks at one frame at a time, not {batch}")
            self.detector = FaceDetector(configuration.model, **loading)  # type: ignore[arg-type]
        elif fixed not in (None, batch):
            raise Unable(f"its file takes batches of {fixed} only, not {batch}")
        else:
            self.landmarks = LandmarkModel(configuration.model, **loading)  # type: ignore[arg-type]
        found = [largest_first(self.detector(frame.pixels)).boxes for frame in frames]
        self.faces = tuple(map(len, found))
        self._boxes = [
            np.resize(boxes if len(boxes) else _middle(frame.pixels), (batch, 4))
            for boxes, frame in zip(found, frames, strict=True)
        ]
        self._next = 0
        try:
            for _ in frames:
                self()
        except FacemarkError as error:
            if batch == 1:
                raise
            raise Unable(f"a batch of {batch} fails: {error}") from None

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of what a call times."""
        return DETECTOR_STAGES if self.landmarks is None else STAGES

    @property
    def resolved(self) -> Configuration:
        """The configuration with the backend that is in use."""
        backend = (self.landmarks or self.detector).backend
        return dataclasses.replace(self.configuration, backend=backend)

    @property
    def precision(self) -> str:
        """What the model's file states."""
        return (self.landmarks or self.detector).spec.precision

    def __call__(self) -> dict[str, float]:
        """One run: milliseconds by stage."""
        index, self._next = self._next, (self._next + 1) % len(self._frames)
        watch = _Stopwatch()
        watch.time("total", lambda: self._run(self._frames[index], self._boxes[index], watch))
        return watch.times

    def _run(self, frame: Frame, boxes: NDArray[np.float32], watch: _Stopwatch) -> None:
        pixels = watch.time("decode image", lambda: load_image(frame.path))
        watch.time("detect", lambda: largest_first(self.detector(pixels)))
        model = self.landmarks
        if model is None:
            return
        crops, affines = watch.time("crop", lambda: model.crop([pixels], [boxes]))
        outputs = watch.time("network", lambda: model.infer(crops))
        watch.time("decode points", lambda: model.to_image(model.decode(outputs), affines))


class _Stopwatch:
    """Milliseconds by name."""

    def __init__(self) -> None:
        self.times: dict[str, float] = {}

    def time(self, name: str, work: Callable[[], Result]) -> Result:
        """Do the work, note how long it took, return its result."""
        start = time.perf_counter()
        result = work()
        self.times[name] = (time.perf_counter() - start) * 1e3
        return result


def _look_at(path: Path) -> tuple[Task, int | None]:
    """The model's task, and its batch size where its file fixes one."""
    described = describe_file(path)
    size = described.inputs[0].shape[0]
    return read_spec(described, path).task, size if isinstance(size, int) else None


def _middle(pixels: Image) -> NDArray[np.float32]:
    """The square of half the frame's shorter side in its middle: (1, 4) x1 y1 x2 y2."""
    height, width = pixels.shape[:2]
    half = min(height, width) / 4
    x, y = width / 2, height / 2
    return np.array([[x - half, y - half, x + half, y + half]], np.float32)
