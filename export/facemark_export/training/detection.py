"""Training a RetinaFace detector, as the loop asks for it: batches, losses, validation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facemark_export.networks.architecture import build_network
from facemark_export.training.detection_data import Faces, compose
from facemark_export.training.detection_loss import PADDING, detection_losses
from facemark_export.training.detection_scenes import Scene
from facemark_sdk.detect.metrics import average_precision, curve_over_images
from facemark_sdk.detect.retinaface import decode, letterbox, priors, to_image
from facemark_sdk.spec import ModelSpec

Float = NDArray[np.float32]
Forward = Callable[[Tensor], Any]

VALIDATION_SIDE = 24.0
"""Faces whose longest side has fewer pixels in the photo count neither as found nor as missed."""
VALIDATION_SCORE = 0.5
"""Score at which precision and recall are given."""
CURVE_SCORE = 0.02
"""Detections from this score on make the precision-recall curve (COMPAT 5.2)."""


class DetectionTask:
    """A detector, the scenes it learns from, and those it is measured on."""

    metric = "ap"
    higher_is_better = True

    def __init__(
        self,
        train: Sequence[Scene],
        validation: Sequence[Scene],
        *,
        spec: ModelSpec,
        sides: Sequence[int],
        repeats: int,
    ) -> None:
        """Take scenes already split.

        Args:
            train: To learn from.
            validation: Held out.
            spec: Of the model; its decoder parameter ``det_size`` is the longest side of a
                validation photo on the canvas.
            sides: Of the square training frames, in pixels; each batch draws one.
            repeats: Frames an epoch that each training scene is in for certain.
        """
        self.network = build_network(spec)
        self.spec = spec
        self.train = train
        self.validation = validation
        self.sides = sides
        self.repeats = repeats

    def __len__(self) -> int:
        return len(self.train) * self.repeats

    def epoch_indices(self, rng: np.random.Generator) -> NDArray[np.intp]:
        """Every training scene as often as every other, in random order."""
        return rng.permutation(len(self)) % len(self.train)

    def make_batch(self, indices: NDArray[np.intp], rng: np.random.Generator) -> dict[str, Tensor]:
        """Compose one frame an index, all of one side.

        Returns:
            image (N, S, S, 3) uint8 BGR; boxes (N, M, 4), kps (N, M, 5, 2), kinds (N, M), pointed
            (N, M), padded to the frame with the most faces.
        """
        side = int(rng.choice(self.sides))
        frames, faces = zip(
            *(compose(self.train, int(index), side, rng) for index in indices), strict=True
        )
        return {"image": torch.from_numpy(np.stack(frames)), **pad(faces)}

    def losses(
        self, outputs: tuple[Tensor, Tensor, Tensor], batch: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """The weighted losses of a batch."""
        loc, conf, landms = (output.float() for output in outputs)
        anchors = torch.tensor(priors(*batch["image"].shape[1:3]), device=loc.device)
        return detection_losses(
            loc,
            conf,
            landms,
            batch["boxes"],
            batch["kps"],
            batch["kinds"],
            batch["pointed"],
            anchors,
        )

    def validate(self, forward: Forward) -> dict[str, float]:
        """Detect in the held-out photos, each at its own shape.

        Returns:
            ap, the best F1 with its threshold, and precision and recall at VALIDATION_SCORE; all at
            IoU 0.5.
        """
        det_size = int(self.spec.decoder_params["det_size"])
        curve = curve_over_images(
            (
                *detect(forward, scene.image, det_size),
                scene.boxes,
                longer_sides(scene.boxes) < VALIDATION_SIDE,
            )
            for scene in self.validation
        )
        precision, recall = curve.at(VALIDATION_SCORE)
        threshold, f1 = curve.best()
        return {
            "ap": average_precision(curve),
            "precision": precision,
            "recall": recall,
            "f1": f1,
            "f1_threshold": threshold,
        }


def longer_sides(boxes: Float) -> Float:
    """(N,) longer sides of boxes (N, 4) xyxy."""
    return (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0)


def detect(forward: Forward, image: NDArray[np.uint8], det_size: int) -> tuple[Float, Float]:
    """Boxes (N, 4) xyxy in photo pixels and scores (N,) of the faces in one photo."""
    canvas, scales = letterbox(image, det_size)
    loc, conf, landms = (
        output[0].float().cpu() for output in forward(torch.from_numpy(canvas)[None])
    )
    boxes, scores, _ = decode(
        loc.numpy(),
        conf.softmax(dim=1)[:, 1].numpy(),
        landms.numpy(),
        priors(*canvas.shape[:2]),
        score_threshold=CURVE_SCORE,
    )
    return to_image(boxes, scales), scores


def pad(faces: Sequence[Faces]) -> dict[str, Tensor]:
    """Stack the faces of several frames, padded to the most that one has."""
    most = max(1, *(len(frame.boxes) for frame in faces))
    boxes = torch.zeros(len(faces), most, 4)
    kps = torch.zeros(len(faces), most, 5, 2)
    kinds = torch.full((len(faces), most), PADDING)
    pointed = torch.zeros(len(faces), most, dtype=torch.bool)
    for n, frame in enumerate(faces):
        count = len(frame.boxes)
        boxes[n, :count] = torch.from_numpy(frame.boxes)
        kps[n, :count] = torch.from_numpy(frame.kps)
        kinds[n, :count] = torch.from_numpy(frame.kinds)
        pointed[n, :count] = torch.from_numpy(frame.pointed)
    return {"boxes": boxes, "kps": kps, "kinds": kinds, "pointed": pointed}
