"""Proof that a written file computes what the foreign one does, fed as its authors feed it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from facemark_export.foreign.foreign_file import Floats, ForeignFile
from facemark_export.foreign.reading import Reading
from facemark_export.parity import TOLERANCES, Differences, ParityReport, check_parity
from facemark_export.samples import structured_batches
from facemark_sdk.backends import create_backend
from facemark_sdk.detect.insightface import Heads, anchor_centres, decode_boxes, decode_points
from facemark_sdk.errors import CheckpointError
from facemark_sdk.spec import ModelSpec

FREE_BATCH = 3
"""Images that are run at once to see whether a graph takes any number."""
_SAME = 1e-3
"""Share of an output's largest value by which rounding may move it in a batch."""
_LOG_FATAL = 4
_ORT_FAILURES = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)

Pixels = NDArray[np.uint8]
Named = Mapping[str, Floats]


def structured_images(spec: ModelSpec) -> list[Pixels]:
    """Images (N, H, W, 3) of each size that is tried: the spec's, or a square and an oblong."""
    sides = [(spec.input.height, spec.input.width)]
    if not spec.input.width:
        stride = max(spec.decoder_params["strides"])
        sides = [(spec.decoder_params["det_size"],) * 2, (2 * stride, 3 * stride)]
    images = []
    for height, width in sides:
        sized = dataclasses.replace(spec.input, height=height, width=width)
        images.append(np.concatenate(structured_batches(dataclasses.replace(spec, input=sized))))
    return images


def takes_any_batch(
    file: ForeignFile, reading: Reading, model: onnx.ModelProto, images: Pixels
) -> bool:
    """Whether a graph whose batch was set free gives for several images what it gives for each.

    Args:
        file: The foreign file, which is run as its own batch demands.
        reading: What it is.
        model: The wrapped graph.
        images: (N, H, W, 3), several that differ.
    """
    options = ort.SessionOptions()
    options.log_severity_level = _LOG_FATAL  # failing is an answer here
    try:
        session = ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        arrays = session.run(list(reading.names), {"image": images})
    except _ORT_FAILURES:
        return False
    wanted = run_foreign(file, reading, images)
    return all(
        array.shape == wanted[name].shape
        and np.abs(array - wanted[name]).max() <= _SAME * max(1.0, np.abs(wanted[name]).max())
        for name, array in zip(reading.names, arrays, strict=True)
    )


def run_foreign(file: ForeignFile, reading: Reading, images: Pixels) -> dict[str, Floats]:
    """What the foreign file gives for images (N, H, W, 3), prepared in numpy, by our names.

    Raises:
        CheckpointError: It does not run on them.
    """
    filled = _filled(images, file.batch or 1)
    named = reading.named(file.run(reading.preprocessing(filled)), len(filled))
    return {name: array[: len(images)] for name, array in named.items()}


def prove(
    file: ForeignFile,
    reading: Reading,
    path: Path,
    batch: int | None,
    every: Sequence[Pixels],
) -> ParityReport:
    """Run both files on the same images and compare.

    Args:
        file: The foreign file.
        reading: What it is.
        path: The written file.
        batch: Images that it takes at once; None for any number.
        every: (N, H, W, 3) of each size, from `structured_images`.

    Raises:
        CheckpointError: A detector's scores are no probabilities.
    """
    backend = create_backend("cpu", path)
    batches = [part for images in every for part in _batches(images, batch)]
    reference = [run_foreign(file, reading, images) for images in batches]
    tolerance = TOLERANCES["fp32"]
    if reading.spec.task == "landmarks":
        return check_parity(reading.spec, batches, reference, backend, tolerance)
    heads = Heads.from_params(reading.spec.decoder_params)
    _check_probabilities(file, heads, reference)
    differences = Differences(tolerance)
    for images, ours in zip(batches, reference, strict=True):
        theirs = backend.run({"image": images})
        sides = images.shape[1:3]
        differences.add(
            (_points(ours, heads, sides), _scores(ours, heads)),
            (_points(theirs, heads, sides), _scores(theirs, heads)),
        )
        differences.add_maps(ours, theirs)
    return differences.report()


def _batches(images: Pixels, batch: int | None) -> list[Pixels]:
    """All images, in batches of the file's size, or of several sizes where it takes any."""
    if batch is None:
        return [
            images[:1],
            *(images[i : i + FREE_BATCH] for i in range(1, len(images), FREE_BATCH)),
        ]
    filled = _filled(images, batch)
    return np.split(filled, len(filled) // batch)


def _filled(images: Pixels, batch: int) -> Pixels:
    """So many images that they make whole batches: the first ones follow the last."""
    return np.resize(images, (-(-len(images) // batch) * batch, *images.shape[1:]))


def _check_probabilities(file: ForeignFile, heads: Heads, reference: Sequence[Named]) -> None:
    for stride in heads.strides:
        scores = np.concatenate([named[f"score_{stride}"].ravel() for named in reference])
        if not ((scores >= 0) & (scores <= 1)).all():
            raise CheckpointError(
                f"{file.path}: a detector's scores must be probabilities, those at stride {stride} "
                f"go from {scores.min():.3g} to {scores.max():.3g}"
            )


def _scores(outputs: Named, heads: Heads) -> Floats:
    """Scores (N, A) of all anchors."""
    levels = [outputs[f"score_{stride}"] for stride in heads.strides]
    return np.concatenate([level.reshape(len(level), -1) for level in levels], axis=1)


def _points(outputs: Named, heads: Heads, sides: tuple[int, int]) -> Floats:
    """Corners and kps (N, P, 2) of all anchors, on the canvas."""
    points = []
    for stride in heads.strides:
        distances = outputs[f"bbox_{stride}"]
        count = len(distances)
        centres = np.tile(anchor_centres(*sides, stride, heads.anchors), (count, 1))
        boxes = decode_boxes(distances.reshape(-1, 4), centres, stride)
        points.append(boxes.reshape(count, -1, 2))
        if heads.keypoints:
            offsets = outputs[f"kps_{stride}"].reshape(-1, 10)
            points.append(decode_points(offsets, centres, stride).reshape(count, -1, 2))
    return np.concatenate(points, axis=1)
