"""`Face`: what the SDK says about one face."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facemark_sdk.layouts import Layout, convert, get_layout, mapping_weights


@dataclass(frozen=True, slots=True, eq=False)
class Face:
    """One face in one image. All coordinates are pixels of that image, 0-based.

    A pixel's centre has whole coordinates. Boxes and points may lie outside the image, as a
    face at the border goes on beyond it; nothing is cut, so nothing is lost.

    Attributes:
        bbox: (4,) float32, x1 y1 x2 y2, as the detector gives it.
        score: The detector's score, 0..1.
        kps: (5, 2) float32, the detector's points: eyes, nose tip, mouth corners; (0, 2) where the
            detector gives none.
        landmarks: (L, 2) float32, sub-pixel; under a crop rule with `integer` HRNet's published
            whole pixels, which count from 1.
        landmark_scores: (L,) float32 in 0..1, one a point: how clearly the network saw it.
        layout: What the L points are.
        landmark_covariances: (L, 2, 2) float32, in squared pixels, where the model's decoder knows
            how far each point may be off; else None.
    """

    bbox: NDArray[np.float32]
    score: float
    kps: NDArray[np.float32]
    landmarks: NDArray[np.float32]
    landmark_scores: NDArray[np.float32]
    layout: Layout
    landmark_covariances: NDArray[np.float32] | None = None

    def to_layout(self, name: str) -> Face:
        """The same face with its landmarks in another layout.

        A point made of several has the mean of their scores, weighted as its x is. Covariances
        are dropped, as those of several points together are not known.

        Raises:
            LayoutError: The layout is unknown, or there is no mapping to it.
        """
        if name == self.layout.name:
            return self
        weights = mapping_weights(self.layout.name, name)[0]
        scores = weights @ self.landmark_scores / weights.sum(axis=1)
        return replace(
            self,
            landmarks=convert(self.landmarks, self.layout.name, name),
            landmark_scores=scores.clip(0, 1),  # a sum may round to just above 1
            layout=get_layout(name),
            landmark_covariances=None,
        )

    def to_dict(self) -> dict[str, Any]:
        """The face as plain lists and numbers, ready for `json.dumps`."""
        record: dict[str, Any] = {
            "bbox": self.bbox.tolist(),
            "score": float(self.score),
            "kps": self.kps.tolist(),
            "landmarks": self.landmarks.tolist(),
            "landmark_scores": self.landmark_scores.tolist(),
            "layout": self.layout.name,
        }
        if self.landmark_covariances is not None:
            record["landmark_covariances"] = self.landmark_covariances.tolist()
        return record
