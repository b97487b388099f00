"""`FaceDetector`: the faces of an image, by a RetinaFace network."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from facemark_sdk.detect import retinaface
from facemark_sdk.errors import FacemarkError, ModelError
from facemark_sdk.image import Image, ImageLike, load_image
from facemark_sdk.models import ModelName, check_outputs, open_model

DEFAULT_DETECTOR = "retinaface_mnet025"


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """The faces of one image, best score first, in image pixels.

    Attributes:
        boxes: (N, 4) float32, x1 y1 x2 y2.
        scores: (N,) float32 in 0..1.
        kps: (N, 5, 2) float32: eyes, nose tip, mouth corners.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    kps: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.boxes)


class FaceDetector:
    """A detection network with all that its file says of it; threads may share one."""

    def __init__(
        self,
        name_or_path: ModelName = DEFAULT_DETECTOR,
        *,
        backend: str = "auto",
        threads: int | None = None,
        score_threshold: float | None = None,
        det_size: int | None = None,
    ) -> None:
        """Load a model.

        Args:
            name_or_path: A bundled model's name (`list_models`) or the path of an ONNX file.
            backend: ``auto``, ``cpu``, ``cuda``, ``tensorrt``.
            threads: CPU threads; None leaves it to the runtime.
            score_threshold: Faces that score less are left out; None takes the model's own.
            det_size: The image's longer side as the network sees it, in pixels; larger finds
                smaller faces and takes longer; None takes the model's own.

        Raises:
            ModelError: Not found, damaged, without a spec, or no face detector.
            BackendError: The runtime is not installed or does not start.
        """
        self._backend, self.spec = open_model(
            name_or_path, task="detection", backend=backend, threads=threads
        )
        params = self.spec.decoder_params
        if self.spec.decoder != "retinaface":
            raise ModelError(
                f"model {self.spec.name!r} needs decoder {self.spec.decoder!r}, which this version "
                "of facemark-sdk does not have; detectors here use 'retinaface'"
            )
        try:
            self._stride = int(params["stride"])
            self._nms_threshold = float(params["nms_threshold"])
            own_threshold, own_size = float(params["score_threshold"]), int(params["det_size"])
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(
                f"model {self.spec.name!r} lacks a decoder parameter or has a bad one: {error}"
            ) from None
        if self._stride < 1 or not 0 <= self._nms_threshold <= 1:
            raise ModelError(
                f"model {self.spec.name!r}: stride must be at least 1 and nms_threshold from 0 to "
                f"1, got {self._stride} and {self._nms_threshold}"
            )
        check_outputs(self._backend, self.spec, retinaface.OUTPUT_NAMES)
        self.score_threshold = check_score_threshold(
            own_threshold if score_threshold is None else score_threshold
        )
        self.det_size = own_size if det_size is None else det_size
        if type(self.det_size) is not int or self.det_size < 1:
            raise FacemarkError(
                f"det_size must be a whole number of at least 1, got {self.det_size!r}"
            )

    @property
    def backend(self) -> str:
        """The runtime that is in use, ``auto`` resolved."""
        return self._backend.name

    def __call__(self, image: ImageLike) -> Detections:
        """Find the faces of an image; no face is empty arrays.

        Where nothing is found, the image is looked at once more at half the size, for a quarter of
        the time: a face larger than the frame is too large for the network's widest view before.

        Args:
            image: Path, array or Pillow image, as for `load_image`.

        Raises:
            ImageError: The image cannot be used.
        """
        pixels = load_image(image)
        found = self._look(pixels, self.det_size)
        return found if len(found) else self._look(pixels, max(1, self.det_size // 2))

    def _look(self, image: Image, size: int) -> Detections:
        canvas, scales = retinaface.letterbox(image, size, self._stride)
        outputs = self._backend.run({"image": canvas[None]})
        boxes, scores, kps = retinaface.decode(
            outputs["loc"][0],
            outputs["scores"][0],
            outputs["landms"][0],
            retinaface.priors(*canvas.shape[:2]),
            score_threshold=self.score_threshold,
            nms_threshold=self._nms_threshold,
        )
        return Detections(
            boxes=retinaface.to_image(boxes, scales),
            scores=scores,
            kps=retinaface.to_image(kps, scales),
        )

    def __repr__(self) -> str:
        return f"FaceDetector({self.spec.name!r}, backend={self.backend!r})"


def check_score_threshold(threshold: float) -> float:
    """The threshold itself, when it is a number from 0 to 1.

    Raises:
        FacemarkError: It is not.
    """
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float, np.floating)):
        raise FacemarkError(f"score_threshold must be a number from 0 to 1, got {threshold!r}")
    if not 0 <= threshold <= 1:
        raise FacemarkError(f"score_threshold must be from 0 to 1, got {threshold!r}")
    return float(threshold)
