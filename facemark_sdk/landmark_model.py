"""`LandmarkModel`: landmarks in given boxes, or in crops that are cut already."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facemark_sdk import crop
from facemark_sdk.backends import RuntimeOptions
from facemark_sdk.crop import Affines
from facemark_sdk.decode import Decoded, find_decoder
from facemark_sdk.errors import ImageError, ModelError
from facemark_sdk.image import Image, ImageLike, load_image
from facemark_sdk.layouts import Layout, get_layout
from facemark_sdk.models import ModelName, check_outputs, default_landmarks, open_model

MAX_BATCH = 64
"""Crops that the network sees at once at most, so that a crowd does not fill the memory."""

CPU_BATCH = 16
"""The same on a CPU. By 8 instead, 32 faces take 1 to 3 % longer in int8 and with ResNet-18, and
3 % less with Lite0 in fp32, whose maps fit the caches then."""


@dataclass(frozen=True, slots=True, eq=False)
class Landmarks:
    """Landmarks of N faces.

    Attributes:
        points: (N, L, 2) float32, in image pixels or crop units, as the method that made it says.
        scores: (N, L) float32 in 0..1.
        covariances: (N, L, 2, 2) float32, in squared units of the points; None where the model's
            decoder has none.
    """

    points: NDArray[np.float32]
    scores: NDArray[np.float32]
    covariances: NDArray[np.float32] | None = None


class _Kept(threading.local):
    """A thread's own buffer for a batch of crops."""

    crops: Image | None = None


class LandmarkModel:
    """A landmark network with all that its file says of it; threads may share one."""

    def __init__(
        self,
        name_or_path: ModelName | None = None,
        *,
        backend: str = "auto",
        threads: int | None = None,
        options: RuntimeOptions | None = None,
    ) -> None:
        """Load a model.

        Args:
            name_or_path: A bundled model's name (`list_models`), the path of an ONNX file or of an
                engine; None takes the bundled one for the backend, int8 on CPUs made for it
                (`models.default_landmarks`).
            backend: ``auto``, ``cpu``, ``cuda``, ``tensorrt``.
            threads: CPU threads; None leaves it to the runtime.
            options: Spinning, arena, engine cache; None takes the environment's.

        Raises:
            ModelError: Not found, damaged, without a spec, or no landmark model.
            BackendError: The runtime is not installed or does not start.
        """
        self._backend, self.spec = open_model(
            default_landmarks(backend) if name_or_path is None else name_or_path,
            task="landmarks",
            backend=backend,
            threads=threads,
            options=options,
        )
        width, height = self.spec.input.width, self.spec.input.height
        if self.spec.crop is None or width != height or width < 1:
            raise ModelError(f"model {self.spec.name!r} states no crop rule with a square input")
        self._rule = self.spec.crop
        kind = find_decoder(self.spec)
        check_outputs(self._backend, self.spec, kind.outputs)
        self._decoder, self._spreads = kind.make(self.spec), kind.spreads(self.spec)
        self.layout: Layout = get_layout(self.spec.layout)
        batch = self._backend.inputs[0].shape[0]
        self._batch = batch if isinstance(batch, int) else None
        on_cpu = self.backend == "cpu" and self._batch is None
        self._most = CPU_BATCH if on_cpu else MAX_BATCH
        self._kept = _Kept()

    @property
    def backend(self) -> str:
        """The runtime that is in use, ``auto`` resolved."""
        return self._backend.name

    @property
    def size(self) -> int:
        """Side S of the crops in pixels."""
        return self.spec.input.width

    def predict(self, image: ImageLike, boxes: ArrayLike) -> Landmarks:
        """Landmarks of the faces in given boxes.

        Args:
            image: Path, array or Pillow image, as for `load_image`.
            boxes: (N, 4) x1 y1 x2 y2 in image pixels, in the style of the SDK's detector.

        Returns:
            Points in image pixels.

        Raises:
            ImageError: The image cannot be used.
            FacemarkError: The boxes are malformed.
        """
        return self.predict_all([load_image(image)], [boxes])

    def predict_all(self, images: Sequence[Image], boxes: Sequence[ArrayLike]) -> Landmarks:
        """Landmarks of the faces of several images, which share the network's batches.

        Crops are cut a batch at a time, into a buffer that the calling thread keeps: a crowd takes
        no more memory than a batch does.

        Args:
            images: (H, W, 3) uint8 each, from `load_image`.
            boxes: (Ni, 4) for each image, as for `predict`.

        Returns:
            Points in the pixels of each face's image, image by image.

        Raises:
            FacemarkError: The boxes are malformed.
        """
        checked = [crop.check_boxes(rows) for _, rows in zip(images, boxes, strict=True)]
        parts = []
        for start, end in self._batches(sum(map(len, checked))):
            crops = self._buffer(end - start)
            affines = self._cut(images, checked, start, crops)
            parts.append(self.to_image(self.decode(self.infer(crops)), affines))
        return self._joined(parts)

    def predict_crops(self, crops: Image) -> Landmarks:
        """Landmarks in crops that are cut already.

        Args:
            crops: (N, S, S, 3) uint8, BGR.

        Returns:
            Points in crop units: the coordinates that the source's own decoding defines, x S,
            neither cut nor rounded. HRNet's count pixels from 1 (COMPAT 2.3); `predict` and
            `to_image` give pixels that count from 0, unless the model's crop rule is the published
            whole pixels (``hrnet-integer``).

        Raises:
            ImageError: The crops have another shape or type.
        """
        wanted = (self.size, self.size, 3)
        shape, dtype = getattr(crops, "shape", None), getattr(crops, "dtype", None)
        if shape is None or len(shape) != 4 or shape[1:] != wanted or dtype != np.uint8:
            raise ImageError(
                f"crops must be a uint8 array of shape (N, {self.size}, {self.size}, 3) BGR, "
                f"got {type(crops).__name__ if shape is None else f'{dtype} {shape}'}"
            )
        return self._joined(
            [self.decode(self.infer(crops[a:b])) for a, b in self._batches(len(crops))]
        )

    def _batches(self, count: int) -> Iterator[tuple[int, int]]:
        """First face, and the one after the last, of every batch of so many faces.

        They are alike in size: a last batch of one face takes more than its share.
        """
        batches = -(-count // self._most)
        for index in range(batches):
            yield count * index // batches, count * (index + 1) // batches

    def _joined(self, parts: Sequence[Landmarks]) -> Landmarks:
        """The landmarks of all batches."""
        if len(parts) < 2:
            return parts[0] if parts else self._nothing()
        spreads = [part.covariances for part in parts if part.covariances is not None]
        return Landmarks(
            points=np.concatenate([part.points for part in parts]),
            scores=np.concatenate([part.scores for part in parts]),
            covariances=np.concatenate(spreads) if spreads else None,
        )

    def crop(self, images: Sequence[Image], boxes: Sequence[ArrayLike]) -> tuple[Image, Affines]:
        """First stage: cut the faces of several images into one batch.

        Args:
            images: (H, W, 3) uint8 each, from `load_image`.
            boxes: (Ni, 4) for each image.

        Returns:
            Crops (N, S, S, 3) uint8 and their affines (`crop.cut`), N the sum of Ni, image by
            image.
        """
        checked = [crop.check_boxes(rows) for rows in boxes]
        crops = self._empty(sum(map(len, checked)))
        return crops, self._cut(images, checked, 0, crops)

    def _cut(
        self,
        images: Sequence[Image],
        boxes: Sequence[NDArray[np.float64]],
        first: int,
        out: Image,
    ) -> Affines:
        """Cut faces of several images, counted through from 0, into a batch.

        Args:
            images: As for `crop`.
            boxes: From `check_boxes`, for each image.
            first: The face that comes first in the batch; as many follow as it has crops.
            out: The batch.
        """
        affines = [np.empty((0, 2, 3))] if not len(out) else []
        place = -first  # of an image's first face in the batch
        for image, rows in zip(images, boxes, strict=True):
            start, end = max(0, place), min(place + len(rows), len(out))
            if start < end:
                own = rows[start - place : end - place]
                affines.append(crop.cut(self._rule, image, own, out=out[start:end]))
            place += len(rows)
        return np.concatenate(affines)

    def _buffer(self, count: int) -> Image:
        """So many crops of the thread's buffer, which grows to the largest batch."""
        kept = self._kept.crops
        if kept is None or len(kept) < count:
            kept = self._kept.crops = self._empty(count)
        return kept[:count]

    def _empty(self, count: int) -> Image:
        return np.empty((count, self.size, self.size, 3), np.uint8)

    def infer(self, crops: Image) -> dict[str, NDArray[np.float32]]:
        """Second stage: crops (N, S, S, 3) through the network, to its outputs by name.

        A network whose batch is fixed sees them so many at a time, the last ones filled up.
        """
        if self._batch is None or self._batch == len(crops):
            return self._backend.run({"image": np.ascontiguousarray(crops)})
        runs = max(1, -(-len(crops) // self._batch))
        filled = np.zeros((runs * self._batch, *crops.shape[1:]), np.uint8)
        filled[: len(crops)] = crops
        parts = [self._backend.run({"image": part}) for part in np.split(filled, runs)]
        return {
            name: np.concatenate([part[name] for part in parts])[: len(crops)] for name in parts[0]
        }

    def decode(self, outputs: dict[str, NDArray[np.float32]]) -> Landmarks:
        """Third stage: the network's outputs as points in crop units.

        Raises:
            ModelError: The outputs are not those of the spec's decoder and layout, or not finite.
        """
        found = self._decode(outputs)
        side = np.float32(self.size)
        return Landmarks(
            points=found.points * side,
            scores=found.scores,
            covariances=None if found.covariances is None else found.covariances * (side * side),
        )

    def _decode(self, outputs: dict[str, NDArray[np.float32]]) -> Decoded:
        try:
            found = self._decoder(outputs)
        except (IndexError, ValueError) as error:
            raise ModelError(f"{self._misfit(outputs)}: {error}") from None
        wanted = (len(next(iter(outputs.values()))), self.layout.num_points)
        if found.points.shape != (*wanted, 2) or found.scores.shape != wanted:
            raise ModelError(self._misfit(outputs))
        # a sum is finite where all of its terms are, and takes half the time of looking at each
        if not math.isfinite(found.points.sum() + found.scores.sum()):
            raise ModelError(
                f"model {self.spec.name!r} gave values that are not finite "
                f"(precision {self.spec.precision}); export it again, in fp32"
            )
        return found

    def _misfit(self, outputs: dict[str, NDArray[np.float32]]) -> str:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in outputs.items())
        return (
            f"model {self.spec.name!r}: decoder {self.spec.decoder!r} cannot read "
            f"{self.layout.num_points} landmarks of layout {self.layout.name!r} from {shapes}"
        )

    def to_image(self, landmarks: Landmarks, affines: Affines) -> Landmarks:
        """Last stage: points in crop units as points in image pixels."""
        spreads = landmarks.covariances
        return Landmarks(
            points=crop.to_image(landmarks.points, affines, integer=self._rule.integer),
            scores=landmarks.scores,
            covariances=None if spreads is None else crop.covariances_to_image(spreads, affines),
        )

    def _nothing(self) -> Landmarks:
        count = self.layout.num_points
        return Landmarks(
            points=np.empty((0, count, 2), np.float32),
            scores=np.empty((0, count), np.float32),
            covariances=np.empty((0, count, 2, 2), np.float32) if self._spreads else None,
        )

    def __repr__(self) -> str:
        return f"LandmarkModel({self.spec.name!r}, backend={self.backend!r})"
