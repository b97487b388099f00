"""Errors of points over a distance that says how large the face is.

The distances of the papers and of the published implementations:

- ``inter-ocular``: between the outer eye corners of the truth (300W 36-45, WFLW 60-72, COFW 8-9;
  COMPAT 1.7, 2.6).
- ``inter-pupil``: between the eyes' centres, "distance of eye centers" (Not all points are created
  equal, section 4): the pupils where the layout has them, else the mean of each eye's points.
- ``box``: sqrt(width x height) of a box (Subpixel, section 4: d_box), the tight box of the true
  points unless others are given.
- ``diagonal``: that box's diagonal (d_diag there; Menpo 2D in PIPNet 4.1.3).
- ``image``: the image's width for x and its height for y, which is AFLW's norm 1 on coordinates
  that are fractions of the crop (COMPAT 1.7, 3.3) where the images are the crops.
- ``given``: a number for each face, such as the column box_size of HRNet's AFLW (COMPAT 2.6).

The others, too, are taken by PIPNet over fractions of the crop instead of pixels (COMPAT 1.7): for
its figures on crops that are not square, give coordinates divided by the crop's sides.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facemark_sdk.crop import check_boxes
from facemark_sdk.errors import FacemarkError, LayoutError
from facemark_sdk.layouts import Layout

Normaliser = Literal["inter-ocular", "inter-pupil", "box", "diagonal", "image", "given"]
NORMALISERS: tuple[Normaliser, ...] = get_args(Normaliser)


def normalised_errors(
    points: NDArray[Any],
    truth: NDArray[Any],
    layout: Layout,
    by: Normaliser = "inter-ocular",
    *,
    boxes: ArrayLike | None = None,
    sizes: ArrayLike | None = None,
    distances: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """Each landmark's distance to the truth over a distance of the face (Wasserstein, equation 2).

    Args:
        points: (N, L, 2) predictions.
        truth: (N, L, 2) annotations in the same coordinates.
        layout: What the L points are.
        by: The distance, see above.
        boxes: (N, 4) xyxy, for ``box`` and ``diagonal``; None takes the truth's own.
        sizes: (N, 2) width and height of each image, for ``image``.
        distances: (N,) for ``given``.

    Returns:
        (N, L) float64 fractions.

    Raises:
        LayoutError: The layout has other points, or does not name those that `by` needs.
        FacemarkError: Malformed arrays, values that are not finite, or a distance of zero.
    """
    differences = normalised_differences(
        points, truth, layout, by, boxes=boxes, sizes=sizes, distances=distances
    )
    return np.asarray(np.linalg.norm(differences, axis=-1))


def normalised_differences(
    points: NDArray[Any],
    truth: NDArray[Any],
    layout: Layout,
    by: Normaliser = "inter-ocular",
    *,
    boxes: ArrayLike | None = None,
    sizes: ArrayLike | None = None,
    distances: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """The vectors (N, L, 2) whose lengths `normalised_errors` gives: prediction less truth.

    Arguments and errors are those of `normalised_errors`.
    """
    scale = scales(truth, layout, by, boxes=boxes, sizes=sizes, distances=distances)
    points = _checked(points, layout, "points")
    if len(points) != len(scale):
        raise FacemarkError(f"points are of {len(points)} faces, truth of {len(scale)}")
    return np.asarray((points - np.asarray(truth, np.float64)) / scale[:, None])


def scales(
    truth: NDArray[Any],
    layout: Layout,
    by: Normaliser = "inter-ocular",
    *,
    boxes: ArrayLike | None = None,
    sizes: ArrayLike | None = None,
    distances: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """What differences in x and y are divided by, (N, 2); the two differ for ``image`` alone.

    Arguments and errors are those of `normalised_errors`.
    """
    truth = _checked(truth, layout, "truth")
    if by not in NORMALISERS:
        raise FacemarkError(f"unknown normaliser {by!r}; known: {', '.join(NORMALISERS)}")
    if by == "image":
        scale = _per_face(sizes, (len(truth), 2), "sizes, width and height of each face's image")
    elif by == "given":
        given = _per_face(distances, (len(truth),), "distances, one a face")
        scale = np.repeat(given[:, None], 2, axis=1)
    elif by in ("box", "diagonal"):
        sides = _sides(truth, boxes)
        distance = np.sqrt(sides.prod(axis=1)) if by == "box" else np.linalg.norm(sides, axis=1)
        scale = np.repeat(distance[:, None], 2, axis=1)
    else:
        ends = _eye_corners(layout) if by == "inter-ocular" else _eye_points(layout)
        right, left = (truth[:, list(end)].mean(axis=1) for end in ends)
        scale = np.repeat(np.linalg.norm(right - left, axis=1)[:, None], 2, axis=1)
    zero = np.flatnonzero(~(scale > 0).all(axis=1))
    if zero.size:
        raise FacemarkError(
            f"the distance {by!r} that errors are divided by is zero for face {zero[0]} "
            f"(of {len(truth)}, counted from 0); correct its annotation or take another distance"
        )
    return scale


def _checked(points: NDArray[Any], layout: Layout, name: str) -> NDArray[np.float64]:
    try:
        checked = np.asarray(points, np.float64)
    except (TypeError, ValueError) as error:
        raise FacemarkError(f"{name} must be numbers of shape (N, L, 2): {error}") from None
    if checked.ndim != 3 or checked.shape[2] != 2:
        raise FacemarkError(f"{name} must have shape (N, L, 2), got {checked.shape}")
    if checked.shape[1] != layout.num_points:
        raise LayoutError(
            f"{name} have {checked.shape[1]} landmarks a face, layout {layout.name!r} has "
            f"{layout.num_points}; give the layout that says what the points are"
        )
    if not np.isfinite(checked).all():
        raise FacemarkError(f"{name} must be finite")
    return checked


def _per_face(values: ArrayLike | None, wanted: tuple[int, ...], what: str) -> NDArray[np.float64]:
    shape = None if values is None else np.shape(values)
    if shape != wanted:
        raise FacemarkError(f"the normaliser needs {what}, of shape {wanted}, got {shape}")
    return np.asarray(values, np.float64)


def _sides(truth: NDArray[np.float64], boxes: ArrayLike | None) -> NDArray[np.float64]:
    """Width and height (N, 2) of the given boxes, or of the tight ones."""
    if boxes is None:
        return np.asarray(truth.max(axis=1) - truth.min(axis=1))
    checked = check_boxes(boxes)
    if len(checked) != len(truth):
        raise FacemarkError(f"boxes are of {len(checked)} faces, truth of {len(truth)}")
    return checked[:, 2:] - checked[:, :2]


def _eye_corners(layout: Layout) -> tuple[tuple[int, ...], ...]:
    if layout.eye_corners is None:
        raise LayoutError(
            f"layout {layout.name!r} has no eye corners to normalise errors by; "
            "give the layout that says what the points are (such as 'ibug68'), or normalise by box"
        )
    return tuple((corner,) for corner in layout.eye_corners)


def _eye_points(layout: Layout) -> tuple[tuple[int, ...], ...]:
    """The points of the right and of the left eye whose means are its centre."""
    ends = []
    for side in ("right", "left"):
        pupils = [i for i, name in enumerate(layout.names) if name.startswith(f"{side}_pupil")]
        ends.append(tuple(pupils) or layout.groups.get(f"{side}_eye", ()))
    if not all(ends):
        raise LayoutError(
            f"layout {layout.name!r} has neither pupils nor eyes to normalise errors by; "
            "give the layout that says what the points are (such as 'ibug68'), or normalise by box"
        )
    return tuple(ends)
