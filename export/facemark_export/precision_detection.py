"""How much a detector's precision changes what it finds, on real photos."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facemark_export.precision_compared import Compared, percent
from facemark_export.training.detection import CURVE_SCORE, VALIDATION_SIDE, longer_sides
from facemark_sdk import Detections, FaceDetector, load_image
from facemark_sdk.detect.face_detector import DECODERS
from facemark_sdk.detect.metrics import Curve, average_precision, curve_over_images
from facemark_sdk.detect.retinaface import iou
from facemark_sdk.spec import ModelSpec

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]

SAME_FACE = 0.5
"""IoU from which two boxes are of one face."""


@dataclass(frozen=True, eq=False)
class Photos:
    """Photos in which faces are to be found.

    Attributes:
        spec: The detector's.
        paths: Of N photos.
        truth: The boxes (M, 4) xyxy of each photo's faces; None where none are annotated: what the
            float network finds counts as true then.
        said: Where photos come from, in words.
    """

    spec: ModelSpec
    paths: tuple[Path, ...]
    truth: tuple[Floats, ...] | None
    said: str

    def __len__(self) -> int:
        return len(self.paths)

    def batches(self, size: int, *, rest: bool = True) -> Iterator[Pixels]:
        """The photos as the network sees them, in full and in the quick look where it takes one.

        They come one by one whatever is asked for, as their sizes differ.
        """
        decoder = DECODERS[self.spec.decoder](self.spec, self.spec.decoder_params["nms_threshold"])
        looks = (self.det_size,)
        if decoder.quick_size is not None:
            looks = (self.det_size, decoder.quick_size)
        for path in self.paths:
            image = load_image(path)
            for look in looks:
                canvas, _ = decoder.letterbox(image, look)
                yield canvas[None]

    @property
    def det_size(self) -> int:
        """The image's longer side as the network sees it, in pixels."""
        return int(self.spec.decoder_params["det_size"])

    @property
    def unit(self) -> str:
        """What a loss is counted in."""
        return "points of average precision"

    @property
    def threshold(self) -> float:
        """The score from which a detection is a face."""
        return float(self.spec.decoder_params["score_threshold"])

    @property
    def protocol(self) -> str:
        """What is measured, in words."""
        whose = "annotated faces" if self.truth is not None else "faces that fp32 finds"
        return (
            f"{len(self)} photos, {self.said}, {whose} of {VALIDATION_SIDE:g} px or more, "
            f"IoU {SAME_FACE}, det_size {self.det_size}, "
            f"score {self.threshold:g}"
        )

    def run(self, path: Path) -> list[Detections]:
        """Run a file over all photos, without a quick look, whose rule would see `CURVE_SCORE`."""
        detector = FaceDetector(
            path, backend="cpu", score_threshold=CURVE_SCORE, det_size=self.det_size
        )
        return [detector(load_image(photo)) for photo in self.paths]

    def compare(self, reference: list[Detections], other: list[Detections]) -> Compared:
        """How much worse one result is than another."""
        curves = [self._curve(found, reference) for found in (reference, other)]
        precisions = [percent(average_precision(curve)) for curve in curves]
        loss = precisions[0] - precisions[1]
        precision, recall = curves[1].at(self.threshold)
        pairs = zip(reference, other, strict=True)
        moved = [amount for a, b in pairs for amount in _moved(a, b, self.threshold)]
        damage = percent(np.mean(moved)) if moved else 0.0
        figures = {
            "average_precision_percent": precisions[1],
            "average_precision_loss_points": loss,
            "precision_percent": percent(precision),
            "recall_percent": percent(recall),
            "mean_change_percent": damage,
        }
        return Compared(loss=loss, damage=damage, figures=figures)

    def _curve(self, found: list[Detections], reference: list[Detections]) -> Curve:
        truth = self.truth or [faces.boxes[faces.scores >= self.threshold] for faces in reference]
        return curve_over_images(
            (faces.boxes, faces.scores, boxes, longer_sides(boxes) < VALIDATION_SIDE)
            for faces, boxes in zip(found, truth, strict=True)
        )


def _moved(a: Detections, b: Detections, threshold: float) -> Iterator[float]:
    """For each face of either: how much box, score and points differ, 1 where it is in one only.

    A face in both counts the box's lost IoU, the score's change, and the points' mean shift over
    the box's longer side; at most 1.
    """
    overlaps = iou(a.boxes, b.boxes)
    sure_a, sure_b = a.scores >= threshold, b.scores >= threshold
    for i in np.flatnonzero(sure_a):
        j = int(overlaps[i].argmax()) if len(b) else -1
        if j < 0 or overlaps[i, j] < SAME_FACE:
            yield 1.0
            continue
        change = 1 - overlaps[i, j] + abs(a.scores[i] - b.scores[j])
        if a.kps.shape[1]:
            side = longer_sides(a.boxes[i : i + 1])[0]
            change += np.linalg.norm(a.kps[i] - b.kps[j], axis=-1).mean() / side
        yield min(1.0, float(change))
    for j in np.flatnonzero(sure_b):
        if not len(a) or overlaps[:, j].max() < SAME_FACE:
            yield 1.0
