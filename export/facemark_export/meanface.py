"""PIPNet's mean face: where the landmarks lie on average in the training crops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facemark_sdk.decode.pip import nearest_neighbours, padded_opinions
from facemark_sdk.errors import CheckpointError

_LONGEST_LINE = 1 << 20
"""Characters that are read at most: a thousand times what 106 landmarks take."""


def read_meanface(path: Path, landmarks: int) -> NDArray[np.float64]:
    """Read a ``meanface.txt``: 2L numbers x0 y0 x1 y1 ... on the first line (COMPAT 1.3).

    Args:
        path: The file; lines after the first are not read.
        landmarks: L.

    Returns:
        (L, 2) float64, fractions of the training crop.

    Raises:
        CheckpointError: No such file, or its first line is not 2L finite numbers.
    """
    try:
        with path.open(encoding="ascii") as file:
            words = file.readline(_LONGEST_LINE).split()
        values = np.array([float(word) for word in words], np.float64)
    except OSError as error:
        raise CheckpointError(f"mean face {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise CheckpointError(
            f"mean face {path} must be plain text with numbers only on its first line: {error}"
        ) from None
    if len(values) != 2 * landmarks:
        raise CheckpointError(
            f"mean face {path} has {len(values)} numbers on its first line, {landmarks} landmarks "
            f"need {2 * landmarks}: x0 y0 x1 y1 ...; pass the one of the same training set"
        )
    if not np.isfinite(values).all():
        raise CheckpointError(f"mean face {path} has numbers that are not finite")
    return values.reshape(-1, 2)


def pip_tables(mean_face: ArrayLike, neighbours: int) -> dict[str, Any]:
    """The tables of a ``pip`` decoder that the mean face gives (COMPAT 1.3).

    Args:
        mean_face: (L, 2); only ratios of distances matter.
        neighbours: C.

    Returns:
        ``neighbours`` (L, C) and ``opinions``, L lists, as JSON values.
    """
    table = nearest_neighbours(mean_face, neighbours)
    return {"neighbours": table.tolist(), "opinions": padded_opinions(table)}
