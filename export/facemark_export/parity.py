"""Proof that an exported file computes what the checkpoint did: maps, argmaxes, pixels, scores."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from facemark_export.graph import ExportGraph, example_image
from facemark_sdk import load_image
from facemark_sdk.backends import create_backend
from facemark_sdk.decode import make_decoder
from facemark_sdk.detect import retinaface
from facemark_sdk.spec import ModelSpec

TOLERANCE_PX = 0.05
TOLERANCE_SCORE = 1e-3
BEST_PRIORS = 200
"""Of a detector's priors, so many with the best scores are compared in each image."""
_BATCH = 16

Arrays = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class ParityReport:
    """Differences between torch and the written file, over all test images.

    Attributes:
        structured_images: Noise, blurred noise, ramps and flat images that were compared.
        photos: Real photos that were compared.
        largest_map_difference: Over all raw outputs.
        points: Points that were compared: landmarks, or corners and kps of the best priors.
        largest_px: Largest distance between a decoded point and its twin, in input pixels.
        mean_px: Mean of those distances.
        largest_score_difference: Of landmark scores, or of face probabilities.
        argmax_flips: Landmarks whose best cell differs (0 for detectors).
        flip_margins: For each flip, by how much torch's best cell beat the other.
        tolerance_px: What `largest_px` may be.
        tolerance_score: What `largest_score_difference` may be.
    """

    structured_images: int
    photos: int
    largest_map_difference: float
    points: int
    largest_px: float
    mean_px: float
    largest_score_difference: float
    argmax_flips: int
    flip_margins: tuple[float, ...]
    tolerance_px: float = TOLERANCE_PX
    tolerance_score: float = TOLERANCE_SCORE

    @property
    def passed(self) -> bool:
        """Whether the file may be kept. NaN fails."""
        return (
            self.points > 0
            and self.largest_px <= self.tolerance_px
            and self.largest_score_difference <= self.tolerance_score
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        return {**dataclasses.asdict(self), "passed": self.passed}


def check_parity(
    graph: ExportGraph, spec: ModelSpec, path: Path, photos: Sequence[Path] = ()
) -> ParityReport:
    """Run torch and ONNX Runtime on the same images and compare.

    Args:
        graph: The torch side, in evaluation mode.
        spec: Says how to decode.
        path: The written file.
        photos: Real images, resized to the input; structured images are always used.

    Raises:
        ImageError: A photo cannot be read.
    """
    backend = create_backend("cpu", path)
    structured, photographed = _structured(spec), _photographed(spec, photos)
    map_differences, distances, score_differences, margins = [], [], [], []
    for batch in structured + photographed:
        with torch.inference_mode():
            tensors = graph(torch.from_numpy(batch))
        ours = {n: t.numpy() for n, t in zip(graph.outputs, tensors, strict=True)}
        theirs = backend.run({"image": batch})
        map_differences += [float(np.abs(ours[n] - theirs[n]).max()) for n in graph.outputs]
        compare = _landmarks if spec.task == "landmarks" else _detections
        points, scores = compare(spec, batch, ours, theirs)
        distances.append(np.linalg.norm(points, axis=-1).ravel())
        score_differences.append(float(np.abs(scores).max()))
        if "cls" in ours:
            margins += _flip_margins(ours["cls"], theirs["cls"])
    every = np.concatenate(distances)
    return ParityReport(
        structured_images=sum(map(len, structured)),
        photos=sum(map(len, photographed)),
        largest_map_difference=max(map_differences),
        points=every.size,
        largest_px=float(every.max()),
        mean_px=float(every.mean()),
        largest_score_difference=max(score_differences),
        argmax_flips=len(margins),
        flip_margins=tuple(margins),
    )


def _structured(spec: ModelSpec) -> list[NDArray[np.uint8]]:
    """Batches of 1, 3 and 17, of several sizes where the graph takes any."""
    batches = []
    for seed, count in enumerate((1, 3, 17)):
        batch = example_image(spec, count, seed).numpy()
        if not spec.input.width:
            batch = np.ascontiguousarray(batch[:, : 256 - 96 * seed, : 320 - 64 * seed])
        for i in range(1, count):
            kind = i % 4
            if kind in (1, 2):
                blurred = cv2.GaussianBlur(batch[i], (0, 0), 4.0 * kind)
                batch[i] = cv2.normalize(blurred, None, 0, 255, cv2.NORM_MINMAX)  # type: ignore[call-overload]
            elif kind == 3:
                ramp = np.linspace(0, 255, batch.shape[2]).astype(np.uint8)
                batch[i] = ramp[None, :, None]
            elif i % 8 == 0:
                batch[i] = 16 * i % 256
        batches.append(batch)
    return batches


def _photographed(spec: ModelSpec, photos: Sequence[Path]) -> list[NDArray[np.uint8]]:
    height, width = example_image(spec, 1).shape[1:3]
    resized = [cv2.resize(load_image(photo), (width, height)) for photo in photos]
    return [np.stack(resized[i : i + _BATCH]) for i in range(0, len(resized), _BATCH)]  # type: ignore[misc]


def _landmarks(
    spec: ModelSpec, batch: NDArray[np.uint8], ours: Arrays, theirs: Arrays
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Differences of points in input pixels, and of scores, through the SDK's own decoder."""
    decode = make_decoder(spec)
    a, b = decode(ours), decode(theirs)
    return (a.points - b.points) * np.float32(spec.input.width), a.scores - b.scores


def _detections(
    spec: ModelSpec, batch: NDArray[np.uint8], ours: Arrays, theirs: Arrays
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Differences of corners and kps of the best priors in input pixels, and of all scores."""
    priors = retinaface.priors(*batch.shape[1:3])
    points = []
    for n in range(len(batch)):
        best = np.argsort(-ours["scores"][n], kind="stable")[:BEST_PRIORS]
        decoded = []
        for outputs in (ours, theirs):
            boxes = retinaface.decode_boxes(outputs["loc"][n, best], priors[best])
            kps = retinaface.decode_points(outputs["landms"][n, best], priors[best])
            decoded.append(np.concatenate((boxes.reshape(-1, 2, 2), kps), axis=1))
        points.append(decoded[0] - decoded[1])
    return np.concatenate(points), ours["scores"] - theirs["scores"]


def _flip_margins(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> list[float]:
    """By how much torch's best cell beats the one that the file chose, where they differ."""
    cells = ours.shape[-2] * ours.shape[-1]
    a, b = ours.reshape(-1, cells), theirs.reshape(-1, cells)
    best, other = a.argmax(1), b.argmax(1)
    rows = np.flatnonzero(best != other)
    return [float(a[r, best[r]] - a[r, other[r]]) for r in rows]
