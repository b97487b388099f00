"""Boxes in: whatever a caller holds becomes (N, 4) float64, or an error that says why not."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facemark_sdk.errors import FacemarkError

_FARTHEST = 1e9


def check_boxes(boxes: ArrayLike) -> NDArray[np.float64]:
    """Boxes as (N, 4) float64 xyxy; an empty list is (0, 4).

    Raises:
        FacemarkError: Wrong shape, values that are not finite, or a box without area.
    """
    try:
        checked = np.asarray(boxes, np.float64)
    except (TypeError, ValueError) as error:
        raise FacemarkError(f"boxes must be numbers of shape (N, 4): {error}") from None
    if checked.size == 0:
        return np.empty((0, 4))
    if checked.ndim != 2 or checked.shape[1] != 4:
        raise FacemarkError(
            f"boxes must have shape (N, 4), x1 y1 x2 y2 each, got {checked.shape}; "
            "one box is boxes=[[x1, y1, x2, y2]]"
        )
    if not (np.abs(checked) <= _FARTHEST).all():  # NaN fails the comparison too
        raise FacemarkError(
            f"boxes must be finite pixels of an image, at most {_FARTHEST:.0e} from its corner"
        )
    wide = checked[:, 2:] > checked[:, :2]
    if not wide.all():
        first = int(wide.all(axis=1).argmin())
        raise FacemarkError(
            f"boxes must be x1 y1 x2 y2 with x2 > x1 and y2 > y1, "
            f"got {checked[first].tolist()} as box {first}"
        )
    return checked
