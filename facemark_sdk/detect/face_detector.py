"""`FaceDetector`: the faces of an image, by a RetinaFace or SCRFD network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from facemark_sdk.backends import RuntimeOptions
from facemark_sdk.detect import insightface, quick, retinaface
from facemark_sdk.errors import FacemarkError, ModelError
from facemark_sdk.image import Image, ImageLike, load_image
from facemark_sdk.models import ModelName, check_outputs, default_detector, open_model
from facemark_sdk.spec import ModelSpec

MAX_DET_SIZE = 8192
"""Pixels: beyond, a canvas and its features fill the memory."""

Float: TypeAlias = NDArray[np.float32]
Scales: TypeAlias = tuple[float, float]


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """The faces of one image, best score first, in image pixels.

    Attributes:
        boxes: (N, 4) float32, x1 y1 x2 y2.
        scores: (N,) float32 in 0..1.
        kps: (N, 5, 2) float32: eyes, nose tip, mouth corners; (N, 0, 2) where the network gives
            none.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    kps: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass(frozen=True, slots=True)
class DetectionDecoder:
    """How the networks of a family are fed and read.

    Attributes:
        outputs: Names of the outputs that are read.
        sizes: From a size that the user gives to those at which an image is looked at, one after
            the other until a face is found; raises FacemarkError where the network cannot take it.
        quick_size: The size of the quick look that goes before the model's own size; None: none.
        letterbox: Fits an image into a canvas of a size; also gives the canvas' scales.
        decode: From outputs, height and width of the canvas, and score threshold to boxes (N, 4),
            scores (N,) and kps (N, K, 2) on the canvas.
        to_image: From canvas coordinates (..., 2k) and scales to image coordinates.
    """

    outputs: tuple[str, ...]
    sizes: Callable[[int], tuple[int, ...]]
    quick_size: int | None
    letterbox: Callable[[Image, int], tuple[Image, Scales]]
    decode: Callable[[Mapping[str, Float], tuple[int, int], float], tuple[Float, Float, Float]]
    to_image: Callable[[Float, Scales], Float]


def _retinaface(spec: ModelSpec, nms_threshold: float) -> DetectionDecoder:
    params = spec.decoder_params
    stride = params["stride"]
    if stride != retinaface.STRIDES[-1]:
        raise ValueError(f"stride must be {retinaface.STRIDES[-1]}, got {stride}")

    def decode(
        outputs: Mapping[str, Float], sides: tuple[int, int], threshold: float
    ) -> tuple[Float, Float, Float]:
        priors = retinaface.priors(*sides)
        count = len(priors)
        shapes = tuple(outputs[name].shape for name in retinaface.OUTPUT_NAMES)
        if shapes != ((1, count, 4), (1, count), (1, count, 10)):
            raise ModelError(
                f"model {spec.name!r}: a canvas of {sides[1]} x {sides[0]} has {count} priors, the "
                f"graph's outputs {', '.join(retinaface.OUTPUT_NAMES)} are {shapes}"
            )
        return retinaface.decode(
            outputs["loc"][0],
            outputs["scores"][0],
            outputs["landms"][0],
            priors,
            score_threshold=threshold,
            nms_threshold=nms_threshold,
        )

    return DetectionDecoder(
        outputs=retinaface.OUTPUT_NAMES,
        # A face larger than the frame is too large for the network's widest view: a second look at
        # half the size finds it for a quarter of the time.
        sizes=lambda size: (size, max(1, size // 2)),
        quick_size=_quick_size(params),
        letterbox=partial(retinaface.letterbox, stride=stride),
        decode=decode,
        to_image=retinaface.to_image,
    )


def _insightface(spec: ModelSpec, nms_threshold: float) -> DetectionDecoder:
    heads = insightface.Heads.from_params(spec.decoder_params)
    width, height = spec.input.width, spec.input.height  # 0: any

    def sizes(size: int) -> tuple[int, ...]:
        if width and size != max(width, height):
            raise FacemarkError(
                f"det_size must be {max(width, height)}, as model {spec.name!r} takes "
                f"{width} x {height} pixels only; got {size}"
            )
        if not width and size % max(heads.strides):
            raise FacemarkError(
                f"det_size must be a multiple of {max(heads.strides)} for model {spec.name!r}, "
                f"got {size}"
            )
        return (size,)

    def decode(
        outputs: Mapping[str, Float], sides: tuple[int, int], threshold: float
    ) -> tuple[Float, Float, Float]:
        return insightface.decode(
            outputs, heads, sides, score_threshold=threshold, nms_threshold=nms_threshold
        )

    return DetectionDecoder(
        outputs=heads.output_names,
        sizes=sizes,
        quick_size=None,
        letterbox=lambda image, size: insightface.letterbox(image, width or size, height or size),
        decode=decode,
        to_image=insightface.to_image,
    )


DECODERS: dict[str, Callable[[ModelSpec, float], DetectionDecoder]] = {
    "retinaface": _retinaface,
    "insightface": _insightface,
}
"""By the name that a spec states; each takes the spec and the overlap that suppresses."""


class FaceDetector:
    """A detection network with all that its file says of it; threads may share one."""

    def __init__(
        self,
        name_or_path: ModelName | None = None,
        *,
        backend: str = "auto",
        threads: int | None = None,
        score_threshold: float | None = None,
        det_size: int | None = None,
        options: RuntimeOptions | None = None,
    ) -> None:
        """Load a model.

        Args:
            name_or_path: A bundled model's name (`list_models`), the path of an ONNX file or of an
                engine; None takes the bundled one for the backend, int8 on CPUs made for it
                (`models.default_detector`).
            backend: ``auto``, ``cpu``, ``cuda``, ``tensorrt``.
            threads: CPU threads; None leaves it to the runtime.
            score_threshold: Faces that score less are left out; None takes the model's own.
            det_size: The image's longer side as the network sees it, in pixels; larger finds
                smaller faces and takes longer. None takes the model's own, and must where a model
                takes one size only; where its file states a ``quick_size``, as the bundled ones do,
                it then begins with a quick look at that smaller size, which is enough where all
                that it sees is clear (`detect.quick`).
            options: Spinning, arena, engine cache; None takes the environment's.

        Raises:
            ModelError: Not found, damaged, without a spec, or no face detector.
            BackendError: The runtime is not installed or does not start.
        """
        self._backend, self.spec = open_model(
            default_detector(backend) if name_or_path is None else name_or_path,
            task="detection",
            backend=backend,
            threads=threads,
            options=options,
        )
        params = self.spec.decoder_params
        if self.spec.decoder not in DECODERS:
            raise ModelError(
                f"model {self.spec.name!r} needs decoder {self.spec.decoder!r}, which this version "
                f"of facemark-sdk does not have; detectors here use: {', '.join(DECODERS)}"
            )
        try:
            nms_threshold = float(params["nms_threshold"])
            own_threshold = float(params["score_threshold"])
            own_size = _check_size(params["det_size"])
            if not 0 <= nms_threshold <= 1:
                raise ValueError(f"nms_threshold must be from 0 to 1, got {nms_threshold}")
            self._decoder = DECODERS[self.spec.decoder](self.spec, nms_threshold)
        except (KeyError, TypeError, ValueError, OverflowError, FacemarkError) as error:
            raise ModelError(
                f"model {self.spec.name!r} lacks a decoder parameter or has a bad one: {error}"
            ) from None
        check_outputs(self._backend, self.spec, self._decoder.outputs)
        self._own_threshold = own_threshold
        self.score_threshold = check_score_threshold(
            own_threshold if score_threshold is None else score_threshold
        )
        self.det_size = own_size if det_size is None else _check_size(det_size)
        self._sizes = self._decoder.sizes(self.det_size)
        self.quick_size = self._decoder.quick_size if det_size is None else None

    @property
    def backend(self) -> str:
        """The runtime that is in use, ``auto`` resolved."""
        return self._backend.name

    def __call__(self, image: ImageLike) -> Detections:
        """Find the faces of an image; no face is empty arrays.

        A ``retinaface`` network looks twice where a quick look does not settle it. Without a quick
        look, it looks once more at half the size where it finds nothing.

        Args:
            image: Path, array or Pillow image, as for `load_image`.

        Raises:
            ImageError: The image cannot be used.
        """
        pixels = load_image(image)
        if self.quick_size is not None:
            return self._look_quickly(pixels, self.quick_size)
        for size in self._sizes:
            found = self._look(pixels, size)
            if len(found):
                break
        return found

    def _look_quickly(self, image: Image, size: int) -> Detections:
        """RetinaFace's quick look and, where that is not enough, its full one.

        A large image is made small once for both.
        """
        if max(image.shape[:2]) <= max(retinaface.BILINEAR * size, self.det_size):
            return self._look_at(image, size)
        small, scales = retinaface.fit(image, self.det_size)
        seen, to_image = self._look_at(small, size), self._decoder.to_image
        return Detections(to_image(seen.boxes, scales), seen.scores, to_image(seen.kps, scales))

    def _look_at(self, image: Image, size: int) -> Detections:
        thresholds = self.score_threshold, self._own_threshold
        seen = self._look(image, size, quick.least_score(*thresholds))
        sides = (seen.boxes[:, 2:] - seen.boxes[:, :2]).max(axis=1) * (size / max(image.shape[:2]))
        if not quick.is_sure(seen.scores, sides, *thresholds):
            found = self._look(image, self.det_size)
            if len(found):
                return found
        faces = seen.scores >= self.score_threshold  # a close-up may be found here only
        return Detections(seen.boxes[faces], seen.scores[faces], seen.kps[faces])

    def _look(self, image: Image, size: int, threshold: float | None = None) -> Detections:
        decoder = self._decoder
        canvas, scales = decoder.letterbox(image, size)
        outputs = self._backend.run({"image": canvas[None]})
        boxes, scores, kps = decoder.decode(
            outputs,
            (canvas.shape[0], canvas.shape[1]),
            self.score_threshold if threshold is None else threshold,
        )
        return Detections(
            boxes=decoder.to_image(boxes, scales),
            scores=scores,
            kps=decoder.to_image(kps, scales),
        )

    def __repr__(self) -> str:
        return f"FaceDetector({self.spec.name!r}, backend={self.backend!r})"


def _quick_size(params: Mapping[str, Any]) -> int | None:
    """The side of a RetinaFace model's quick look, where its spec states one."""
    stated = params.get("quick_size")
    if stated is None:
        return None
    return quick.quick_size(_check_size(stated, "quick_size"), params["det_size"])


def _check_size(size: object, name: str = "det_size") -> int:
    if type(size) is not int or not 1 <= size <= MAX_DET_SIZE:
        raise FacemarkError(f"{name} must be a whole number from 1 to {MAX_DET_SIZE}, got {size!r}")
    return size


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
