"""Predictions held against the truth: errors of every face and landmark under one protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from facemark_sdk.errors import DataError, FacemarkError, LayoutError
from facemark_sdk.evaluation.annotations import AnnotatedFace, common_layout
from facemark_sdk.evaluation.boxes import annotated_box
from facemark_sdk.evaluation.predict import Prediction
from facemark_sdk.layouts import Layout
from facemark_sdk.metrics import Normaliser, mean_per_face, scales
from facemark_sdk.robustness import Protocol

MISSED_SIZE = 0.5
"""A face that was not found is guessed so large, over the shorter side of its photo."""


@dataclass(frozen=True, slots=True)
class Norm:
    """What errors are divided by.

    Attributes:
        by: The distance (`facemark_sdk.metrics`).
        box: Whose box it is, for ``box`` and ``diagonal``: the tight one of the true points or the
            annotated one.
    """

    by: Normaliser = "inter-ocular"
    box: Literal["points", "annotated"] = "points"

    def scales(
        self, faces: Sequence[AnnotatedFace], sizes: NDArray[np.float32], layout: Layout
    ) -> NDArray[np.float64]:
        """What differences are divided by, (N, 2), in photos of `sizes` (N, 2).

        Distances between points and tight boxes are those of the points in `layout`.

        Raises:
            LayoutError: The layout lacks the points that the norm needs.
            DataError: A face lacks an annotation that the norm needs.
            FacemarkError: A distance is zero.
        """
        annotated = self.box == "annotated" and self.by in ("box", "diagonal")
        return scales(
            np.stack([face.points_in(layout) for face in faces]),
            layout,
            self.by,
            boxes=[annotated_box(face) for face in faces] if annotated else None,
            sizes=sizes,
            distances=[_given(face) for face in faces] if self.by == "given" else None,
        )

    def __str__(self) -> str:
        if self.by in ("box", "diagonal"):
            return f"{self.by} of the {'true points' if self.box == 'points' else 'annotated box'}"
        return "the annotated norm" if self.by == "given" else self.by


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """N faces with their errors under one protocol.

    A face that was not found has, for means, the errors of the mean face in the middle of its
    photo, and infinite ones for all rates: it is a failure at every threshold.

    Attributes:
        faces: The annotations, N.
        layout: What the L points are.
        truth: (N, L, 2) float32, pixels: the annotations in this layout.
        points: (N, L, 2) float32, pixels: predictions, guesses where not found.
        found: (N,) whether the face was found.
        differences: (N, L, 2) float64, prediction less truth over the norm.
    """

    faces: tuple[AnnotatedFace, ...]
    layout: Layout
    truth: NDArray[np.float32]
    points: NDArray[np.float32]
    found: NDArray[np.bool_]
    differences: NDArray[np.float64]

    @property
    def errors(self) -> NDArray[np.float64]:
        """(N, L) errors for means."""
        return np.asarray(np.linalg.norm(self.differences, axis=-1))

    @property
    def rated_errors(self) -> NDArray[np.float64]:
        """(N, L) errors for rates, infinite where the face was not found."""
        return np.where(self.found[:, None], self.errors, np.inf)

    @property
    def nme(self) -> NDArray[np.float64]:
        """(N,) NME of each face, for means."""
        return mean_per_face(self.errors)

    @property
    def rated_nme(self) -> NDArray[np.float64]:
        """(N,) NME of each face, for rates, infinite where it was not found."""
        return mean_per_face(self.rated_errors)

    def only(self, chosen: NDArray[np.bool_]) -> Judged:
        """The chosen faces, a mask (N,)."""
        return Judged(
            faces=tuple(face for face, take in zip(self.faces, chosen, strict=True) if take),
            layout=self.layout,
            truth=self.truth[chosen],
            points=self.points[chosen],
            found=self.found[chosen],
            differences=self.differences[chosen],
        )


def judge(
    predictions: Sequence[Prediction], protocol: Protocol, norm: Norm, layout: Layout | None = None
) -> Judged:
    """Errors of all faces under a protocol.

    Args:
        predictions: What `predict_faces` made in the same layout.
        protocol: Which of their pictures counts.
        norm: What errors are divided by.
        layout: What is measured: annotations are mapped to it; None takes their own.

    Raises:
        FacemarkError: There is no face, the layout lacks points that the norm needs, a box is not
            annotated, or a distance is zero.
        LayoutError: There is no mapping from an annotation's layout.
    """
    if not predictions:
        raise FacemarkError("there are no faces to say anything of: the set is empty")
    faces = tuple(prediction.face for prediction in predictions)
    layout = layout or common_layout(faces)
    truth = np.stack([face.points_in(layout) for face in faces])
    sizes = np.array([prediction.size for prediction in predictions], np.float32)
    points = _in_the_middle(mean_shape(truth), sizes)
    found = np.array([prediction.points is not None for prediction in predictions])
    for i, prediction in enumerate(predictions):
        if prediction.points is not None:
            points[i] = prediction.points[protocol]
    differences = (points - truth.astype(np.float64)) / norm.scales(faces, sizes, layout)[:, None]
    return Judged(faces, layout, truth, points, found, differences)


def check_norm(faces: Sequence[AnnotatedFace], norm: Norm, layout: Layout | None = None) -> None:
    """See that every face can be judged in a layout, before a model runs over them.

    Raises:
        LayoutError: The layout lacks the points that the norm needs; or there is no mapping to it,
            or there are several layouts and none is given.
        DataError: A face lacks an annotation or has a distance of zero; it says where.
    """
    layout = layout or common_layout(faces)
    for face in faces:
        try:  # sizes are known when the photo is read, and never zero
            norm.scales([face], np.ones((1, 2), np.float32), layout)
        except (LayoutError, DataError):
            raise
        except FacemarkError as error:
            raise DataError(f"{face.where}: {error}") from None


def mean_shape(truth: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean (L, 2) of faces (N, L, 2), each centred by its box and divided by its longer side.

    The result's own longer side is 1 again, its box centred at 0.
    """
    return np.asarray(_unit(_unit(truth).mean(axis=0, keepdims=True))[0])


def _given(face: AnnotatedFace) -> float:
    if face.norm is None:
        raise DataError(f"{face.where}: no 'norm' is annotated, take another distance")
    return face.norm


def _unit(shapes: NDArray[np.float32]) -> NDArray[np.float32]:
    low, high = shapes.min(axis=1, keepdims=True), shapes.max(axis=1, keepdims=True)
    longer = (high - low).max(axis=2, keepdims=True)
    return np.asarray((shapes - (low + high) / 2) / longer, np.float32)


def _in_the_middle(shape: NDArray[np.float32], sizes: NDArray[np.float32]) -> NDArray[np.float32]:
    """A unit shape (L, 2) in the middle of photos (N, 2): (N, L, 2)."""
    middle, side = (sizes - 1) / 2, sizes.min(axis=1) * np.float32(MISSED_SIZE)
    return np.asarray(shape * side[:, None, None] + middle[:, None], np.float32)
