"""`Detector`: from a photo to faces with landmarks. It only wires the stages."""

from __future__ import annotations

import os
from collections.abc import Iterable

import numpy as np

from facemark_sdk.backends import RuntimeOptions
from facemark_sdk.detect.face_detector import (
    Detections,
    FaceDetector,
    check_score_threshold,
)
from facemark_sdk.errors import FacemarkError, ImageError
from facemark_sdk.image import Image, ImageLike, load_image
from facemark_sdk.landmark_model import LandmarkModel, Landmarks
from facemark_sdk.models import ModelName
from facemark_sdk.result import Face


class Detector:
    """Finds faces and places their landmarks; threads may share one."""

    def __init__(
        self,
        landmarks: ModelName | None = None,
        detector: ModelName | None = None,
        *,
        backend: str = "auto",
        threads: int | None = None,
        score_threshold: float | None = None,
        max_faces: int | None = None,
        det_size: int | None = None,
        options: RuntimeOptions | None = None,
    ) -> None:
        """Load both models.

        Args:
            landmarks: The landmark model: a bundled one's name, the path of an ONNX file or of an
                engine; None takes the bundled one for the backend, int8 on CPUs made for it.
            detector: The face detector, likewise.
            backend: ``auto``, ``cpu``, ``cuda``, ``tensorrt``.
            threads: CPU threads; None leaves it to the runtime.
            score_threshold: Faces that the detector scores lower are left out; None takes the
                detector's own.
            max_faces: Only that many of the largest faces; None keeps all.
            det_size: The image's longer side as the detector sees it, in pixels; larger finds
                smaller faces and takes longer; None takes the detector's own, after a quick look
                where that may be enough (`FaceDetector`).
            options: Spinning, arena, engine cache; None takes the environment's.

        Raises:
            ModelError: A model is not found, damaged, without a spec, or for another task.
            BackendError: The runtime is not installed or does not start.
        """
        if max_faces is not None and (type(max_faces) is not int or max_faces < 1):
            raise FacemarkError(
                f"max_faces must be a whole number of at least 1 or None, got {max_faces!r}"
            )
        if score_threshold is not None:
            check_score_threshold(score_threshold)  # before the models are loaded
        self.max_faces = max_faces
        self.face_detector = FaceDetector(
            detector,
            backend=backend,
            threads=threads,
            score_threshold=score_threshold,
            det_size=det_size,
            options=options,
        )
        self.landmark_model = LandmarkModel(
            landmarks, backend=backend, threads=threads, options=options
        )

    def __call__(self, image: ImageLike) -> list[Face]:
        """The faces of one image, the largest first; an image without a face is [].

        Args:
            image: Path, array or Pillow image, as for `load_image`.

        Raises:
            ImageError: The image cannot be used.
        """
        return self.detect_batch([load_image(image)])[0]

    def detect_batch(self, images: Iterable[ImageLike]) -> list[list[Face]]:
        """The faces of several images, whose landmarks the network places in one batch.

        All images are held in memory at once.

        Raises:
            ImageError: An image cannot be used; the message of several says which.
        """
        loaded = _load_all(images)
        found = [largest_first(self.face_detector(image), self.max_faces) for image in loaded]
        placed = self.landmark_model.predict_all(loaded, [part.boxes for part in found])
        rows = iter(range(len(placed.points)))
        return [
            [self._face(part, i, placed, next(rows)) for i in range(len(part))] for part in found
        ]

    def _face(self, detections: Detections, index: int, placed: Landmarks, row: int) -> Face:
        spreads = placed.covariances
        return Face(
            bbox=detections.boxes[index],
            score=float(detections.scores[index]),
            kps=detections.kps[index],
            landmarks=placed.points[row],
            landmark_scores=placed.scores[row],
            layout=self.landmark_model.layout,
            landmark_covariances=None if spreads is None else spreads[row],
        )

    def __repr__(self) -> str:
        return f"Detector({self.landmark_model!r}, {self.face_detector!r})"


def largest_first(detections: Detections, count: int | None = None) -> Detections:
    """The `count` largest boxes, or all, by falling area; equal areas keep their order."""
    if len(detections) < 2:
        return detections
    sides = detections.boxes[:, 2:] - detections.boxes[:, :2]
    order = np.argsort(-sides.prod(axis=1), kind="stable")[:count]
    return Detections(detections.boxes[order], detections.scores[order], detections.kps[order])


def _load_all(images: Iterable[ImageLike]) -> list[Image]:
    if isinstance(images, (str, os.PathLike, np.ndarray)) or not isinstance(images, Iterable):
        raise ImageError("images must be a list of images, got a single one; pass [image]")
    loaded: list[Image] = []
    for index, image in enumerate(images):
        try:
            loaded.append(load_image(image))
        except FacemarkError as error:
            raise type(error)(f"image {index} of the batch: {error}") from None
    return loaded
