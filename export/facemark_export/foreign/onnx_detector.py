"""Detectors in insightface's layouts: RetinaFace, SCRFD, det_10g and the like (COMPAT 5.1)."""

from __future__ import annotations

import numpy as np

from facemark_export.foreign.foreign_file import ForeignFile, Preprocessing
from facemark_export.foreign.reading import Output, Reading, common_fields
from facemark_sdk.detect.face_detector import check_score_threshold
from facemark_sdk.detect.insightface import DET_SIZE, NMS_THRESHOLD, SCORE_THRESHOLD, Heads
from facemark_sdk.errors import CheckpointError
from facemark_sdk.spec import ModelSpec

PREPROCESSING = Preprocessing(mean=(127.5,) * 3, std=(128.0,) * 3)
"""COMPAT 5.1."""
_THREE, _FIVE = (8, 16, 32), (8, 16, 32, 64, 128)
LAYOUTS = {
    6: Heads(_THREE, anchors=2, keypoints=False),
    9: Heads(_THREE, anchors=2, keypoints=True),
    10: Heads(_FIVE, anchors=1, keypoints=False),
    15: Heads(_FIVE, anchors=1, keypoints=True),
}
"""By the number of outputs (COMPAT 5.1)."""


def read_detector(
    file: ForeignFile,
    *,
    name: str | None,
    det_size: int | None,
    score_threshold: float | None,
    licence: str | None = None,
    preprocessing: Preprocessing = PREPROCESSING,
) -> Reading:
    """Understand a file with 6, 9, 10 or 15 outputs by running it once.

    Args:
        file: The file.
        name: For the spec; the file's own when None.
        det_size: The square canvas' side where the file takes any size; 640 when None.
        score_threshold: 0.5 when None.
        licence: Of the weights, where it is known.
        preprocessing: Where the file's publisher states another than usual.

    Raises:
        CheckpointError: The outputs are not those of a detector, or `det_size` is of no use.
        FacemarkError: `score_threshold` is out of range.
    """
    heads = LAYOUTS[len(file.outputs)]
    largest = max(heads.strides)
    sides = file.sides or (DET_SIZE if det_size is None else det_size,) * 2
    if file.sides and det_size not in (None, max(file.sides)):
        raise CheckpointError(
            f"{file.path} takes {file.sides[1]} x {file.sides[0]} pixels only, det_size cannot be "
            f"{det_size}"
        )
    if sides[0] < largest or (not file.sides and sides[0] % largest):
        raise CheckpointError(f"det_size must be a multiple of {largest}, got {det_size}")
    dimensions = _dimensions(file, heads, sides)
    free = file.sides is None and _takes(file, heads, 2 * largest)
    outputs = tuple(
        Output(f"{kind}_{stride}", width)
        for kind, width in heads.widths.items()
        for stride in heads.strides
    )
    return Reading(
        kind="detector in insightface's layout",
        preprocessing=preprocessing,
        outputs=outputs,
        spec=ModelSpec(
            task="detection",
            family="insightface",
            architecture=f"{len(heads.strides)} levels, anchors: {heads.anchors}",
            decoder="insightface",
            decoder_params={
                "det_size": max(sides),
                "strides": list(heads.strides),
                "anchors": heads.anchors,
                "keypoints": heads.keypoints,
                "nms_threshold": NMS_THRESHOLD,
                "score_threshold": check_score_threshold(
                    SCORE_THRESHOLD if score_threshold is None else score_threshold
                ),
            },
            layout="kps5",
            crop=None,
            **common_fields(file, preprocessing, (0, 0) if free else sides, name, licence),
        ),
        one_by_one=2 in dimensions,
    )


def _dimensions(file: ForeignFile, heads: Heads, sides: tuple[int, int]) -> set[int]:
    """Run the file on black and see that it gives what the layout says; how many axes there are.

    Raises:
        CheckpointError: It does not.
    """
    batch = file.batch or 1
    shapes = [array.shape for array in file.run(np.zeros((batch, 3, *sides), np.float32))]
    rows = [(sides[0] // stride) * (sides[1] // stride) * heads.anchors for stride in heads.strides]
    wanted = [(count, width) for width in heads.widths.values() for count in rows]
    for shape, (count, width) in zip(shapes, wanted, strict=True):
        if shape != (batch, count, width) and (batch > 1 or shape != (count, width)):
            expected = ", ".join(f"{count} x {width}" for count, width in wanted)
            raise CheckpointError(
                f"{file.path} has {len(shapes)} outputs like a detector of insightface, which at "
                f"{sides[1]} x {sides[0]} pixels must be {expected} (all scores, all boxes, then "
                f"all key-points, each by stride), but they are {file.found(shapes)}"
            )
    return {len(shape) for shape in shapes}


def _takes(file: ForeignFile, heads: Heads, side: int) -> bool:
    """Whether a file that declares no size really takes another one."""
    try:
        return bool(_dimensions(file, heads, (side, side)))
    except CheckpointError:
        return False
