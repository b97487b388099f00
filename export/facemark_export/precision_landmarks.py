"""How much a landmark network's precision changes its points, on the crops of real faces."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from facemark_export.parity import ARGMAX_MAPS
from facemark_export.precision_compared import Compared, percent
from facemark_sdk import LandmarkModel, crop
from facemark_sdk.crop import Affines
from facemark_sdk.landmark_model import MAX_BATCH
from facemark_sdk.layouts import get_layout
from facemark_sdk.metrics import Normaliser, mean_per_face, normalised_errors
from facemark_sdk.spec import ModelSpec

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]


class Placed(NamedTuple):
    """What a network makes of N faces.

    Attributes:
        points: (N, L, 2) in pixels of the photo.
        cells: (N, M) best cell of each map that the decoder looks for one in; None without such.
    """

    points: Floats
    cells: NDArray[np.intp] | None


@dataclass(frozen=True, eq=False)
class Crops:
    """N faces as a network sees them.

    Attributes:
        spec: The network's.
        crops: (N, S, S, 3) uint8.
        affines: How points in a crop lie in its photo.
        truth: (N, L, 2) annotated points in pixels of the photo; None where none are annotated.
        said: Where faces and boxes come from, in words.
    """

    spec: ModelSpec
    crops: Pixels
    affines: Affines
    truth: Floats | None
    said: str

    def __len__(self) -> int:
        return len(self.crops)

    def batches(self, size: int, *, rest: bool = True) -> Iterator[Pixels]:
        """All crops, so many at a time, and what remains, unless a batch must be whole.

        Args:
            size: Crops at a time.
            rest: Whether the last ones come, too, where they are fewer.
        """
        end = len(self) if rest else len(self) - len(self) % size
        for start in range(0, end, size):
            yield self.crops[start : start + size]

    @property
    def norm(self) -> Normaliser:
        """What errors are divided by."""
        known = get_layout(self.spec.layout).eye_corners is not None
        return "inter-ocular" if known else "box"

    @property
    def unit(self) -> str:
        """What a loss is counted in."""
        return "points of NME" if self.truth is not None else "% mean shift of the points"

    @property
    def protocol(self) -> str:
        """What is measured, in words."""
        return f"{len(self)} faces, {self.said}, errors over the {self.norm} distance"

    def run(self, path: Path) -> Placed:
        """Run a file over all crops."""
        model = LandmarkModel(path, backend="cpu")
        points, cells = [], []
        for start in range(0, len(self), MAX_BATCH):
            outputs = model.infer(self.crops[start : start + MAX_BATCH])
            points.append(model.decode(outputs).points)
            best = [_best_cells(outputs[name]) for name in ARGMAX_MAPS if name in outputs]
            if best:
                cells.append(np.concatenate(best, axis=1))
        placed = crop.to_image(np.concatenate(points), self.affines, integer=False)
        return Placed(placed, np.concatenate(cells) if cells else None)

    def compare(self, reference: Placed, other: Placed) -> Compared:
        """How much worse one result is than another."""
        shift = percent(self._errors(other.points, reference.points).mean())
        figures = {"mean_shift_percent": shift}
        loss = shift
        if self.truth is not None:
            nmes = [
                percent(mean_per_face(self._errors(found.points, self.truth)).mean())
                for found in (reference, other)
            ]
            loss = nmes[1] - nmes[0]
            figures = {"nme_percent": nmes[1], "nme_loss_points": loss, **figures}
        if reference.cells is not None and other.cells is not None:
            figures["argmax_flips_share"] = float((reference.cells != other.cells).mean())
        return Compared(loss=loss, damage=shift, figures=figures)

    def _errors(self, points: Floats, truth: Floats) -> NDArray[np.float64]:
        return normalised_errors(points, truth, get_layout(self.spec.layout), self.norm)


def _best_cells(maps: Floats) -> NDArray[np.intp]:
    """(N, M) of maps (N, M, H, W)."""
    return maps.reshape(*maps.shape[:-2], -1).argmax(axis=-1).reshape(len(maps), -1)
