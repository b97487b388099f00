"""Proof that an exported file computes what the checkpoint did: maps, argmaxes, pixels."""

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
from facemark_sdk.backends import create_backend
from facemark_sdk.decode import make_decoder
from facemark_sdk.detect import retinaface
from facemark_sdk.spec import ModelSpec

TOLERANCE_PX = 0.05

Arrays = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class ParityReport:
    """Differences between torch and the written file, over all test images.

    Attributes:
        images: How many images were compared, in batches of several sizes.
        calibrated: Whether real photos were among them.
        largest_map_difference: Over all raw outputs.
        largest_px: Largest distance between a decoded point and its twin, in input pixels.
        mean_px: Mean of those distances.
        argmax_flips: Landmarks whose best cell differs (0 for detectors).
        flip_margins: For each flip, by how much torch's best cell beat the other.
        tolerance_px: What `largest_px` may be.
    """

    images: int
    calibrated: bool
    largest_map_difference: float
    largest_px: float
    mean_px: float
    argmax_flips: int
    flip_margins: tuple[float, ...]
    tolerance_px: float = TOLERANCE_PX

    @property
    def passed(self) -> bool:
        """Whether the file may be kept."""
        return self.largest_px <= self.tolerance_px

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
    """
    backend = create_backend("cpu", path)
    batches = _structured(spec) + _photographed(spec, photos)
    map_differences, distances, margins = [], [], []
    for batch in batches:
        with torch.inference_mode():
            tensors = graph(torch.from_numpy(batch))
        ours = {n: t.numpy() for n, t in zip(graph.outputs, tensors, strict=True)}
        theirs = backend.run({"image": batch})
        map_differences += [float(np.abs(ours[n] - theirs[n]).max()) for n in graph.outputs]
        distances.append(_distances(spec, batch, ours, theirs))
        if "cls" in ours:
            margins += _flip_margins(ours["cls"], theirs["cls"])
    every = np.concatenate(distances)
    return ParityReport(
        images=sum(map(len, batches)),
        calibrated=bool(photos),
        largest_map_difference=max(map_differences),
        largest_px=float(every.max(initial=0.0)),
        mean_px=float(every.mean()) if every.size else 0.0,
        argmax_flips=len(margins),
        flip_margins=tuple(margins),
    )


def _structured(spec: ModelSpec) -> list[NDArray[np.uint8]]:
    """Batches of 1, 3 and 17: noise, smoothed noise, gradients, flat images."""
    batches = []
    for seed, count in enumerate((1, 3, 17)):
        batch = example_image(spec, count, seed).numpy()
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
    shape = example_image(spec, 1).shape
    images = [cv2.imread(str(photo)) for photo in photos]
    resized = [cv2.resize(i, (shape[2], shape[1])) for i in images if i is not None]
    return [np.stack(resized[i : i + 16]) for i in range(0, len(resized), 16)]  # type: ignore[misc]


def _distances(
    spec: ModelSpec, batch: NDArray[np.uint8], ours: Arrays, theirs: Arrays
) -> NDArray[np.float32]:
    """Distances of decoded points in input pixels: landmarks, or corners of likely boxes."""
    if spec.task == "landmarks":
        decode = make_decoder(spec)
        difference = decode(ours)[0] - decode(theirs)[0]
        return np.linalg.norm(difference * spec.input.width, axis=-1).ravel()
    priors = retinaface.priors(*batch.shape[1:3])
    likely = ours["scores"] > 0.02  # COMPAT 5.2
    points = []
    for outputs in (ours, theirs):
        every = np.broadcast_to(priors, (len(batch), *priors.shape))[likely]
        boxes = retinaface.decode_boxes(outputs["loc"][likely], every).reshape(-1, 2, 2)
        kps = retinaface.decode_points(outputs["landms"][likely], every)
        points.append(np.concatenate((boxes, kps), axis=1))
    return np.linalg.norm(points[0] - points[1], axis=-1).ravel()


def _flip_margins(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> list[float]:
    """By how much torch's best cell beats the one that the file chose, where they differ."""
    cells = ours.shape[-2] * ours.shape[-1]
    a, b = ours.reshape(-1, cells), theirs.reshape(-1, cells)
    best, other = a.argmax(1), b.argmax(1)
    rows = np.flatnonzero(best != other)
    return [float(a[r, best[r]] - a[r, other[r]]) for r in rows]
