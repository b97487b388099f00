"""What a file's raw outputs say, as points and scores that can be compared."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from facemark_sdk.decode import make_decoder
from facemark_sdk.decode.decoded import Floats
from facemark_sdk.detect import retinaface
from facemark_sdk.spec import ModelSpec

BEST_PRIORS = 200
"""Of a detector's priors, so many with the best scores are compared in each image."""

Outputs = Mapping[str, Floats]


class Points:
    """A model's outputs as points in input pixels and scores."""

    def __init__(self, spec: ModelSpec) -> None:
        """For the models of a spec, which says how to decode."""
        self.size = np.float32(spec.input.width)
        self.decode = make_decoder(spec) if spec.task == "landmarks" else None

    def __call__(
        self, batch: NDArray[np.uint8], outputs: Outputs, chosen_by: Outputs
    ) -> tuple[Floats, Floats]:
        """Points (N, P, 2) and scores (N, Q); `chosen_by` says which priors are the best."""
        if self.decode is None:
            return _best_priors(batch, outputs, chosen_by), outputs["scores"]
        found = self.decode(outputs)
        return found.points * self.size, found.scores

    def spreads(self, outputs: Outputs) -> Floats:
        """Covariances (N, L, 2, 2) in squared input pixels, of a decoder that gives them."""
        assert self.decode is not None
        spreads = self.decode(outputs).covariances
        assert spreads is not None
        return spreads * self.size**2


def _best_priors(batch: NDArray[np.uint8], outputs: Outputs, chosen_by: Outputs) -> Floats:
    """Corners and kps of each image's best priors."""
    priors = retinaface.priors(*batch.shape[1:3])
    points = []
    for n in range(len(batch)):
        best = np.argsort(-chosen_by["scores"][n], kind="stable")[:BEST_PRIORS]
        boxes = retinaface.decode_boxes(outputs["loc"][n, best], priors[best])
        kps = retinaface.decode_points(outputs["landms"][n, best], priors[best])
        points.append(np.concatenate((boxes.reshape(-1, 2, 2), kps), axis=1).reshape(-1, 2))
    return np.stack(points)
