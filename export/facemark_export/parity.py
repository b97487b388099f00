"""Proof that an exported file computes what the checkpoint did: maps, argmaxes, pixels, scores."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from facemark_export.graph import ExportGraph
from facemark_export.parity_points import Points
from facemark_sdk.backends import Backend
from facemark_sdk.decode.decoded import Floats
from facemark_sdk.errors import FacemarkError, ModelError
from facemark_sdk.spec import ModelSpec, Precision

ARGMAX_MAPS = ("cls", "heatmaps", "offsets")
"""Outputs whose best cell a decoder looks for."""

_REACH = 512.0
"""Pixels: points that lie farther out are compared in proportion, as float32 holds them."""

Pixels = NDArray[np.uint8]
Arrays = dict[str, Floats]


class ParityError(FacemarkError):
    """The exported file does not compute what its source does."""


@dataclass(frozen=True)
class Tolerance:
    """What a file may differ by from torch.

    Attributes:
        px: Largest distance of a point from its twin, in input pixels; farther from the crop than
            its side, in proportion.
        score: Largest difference of a score.
        rounding: Share of an output's range by which its values may differ and still count as the
            same but for rounding. In images whose outputs all agree so far, a point that moves or
            a score that changes by more than the above is a tie: two cells were as good as equal.
        ties: Share of the points that may be ties.
    """

    px: float
    score: float
    rounding: float
    ties: float


TOLERANCES: dict[Precision, Tolerance] = {
    "fp32": Tolerance(px=0.05, score=1e-3, rounding=2e-5, ties=0.10),
    # Eleven bits leave many cells as good as equal; what counts is that the outputs agree. Those of
    # pipnet_lite0_68 differ by 0.1 % of their range on a face, by up to 0.9 % on noise.
    "fp16": Tolerance(px=0.5, score=0.02, rounding=1e-2, ties=1.0),
}
_BARE = 5
"""Flat images and ramps leave a network little but its own rounding (3 % of the range in fp16):
their outputs may differ by so many times `Tolerance.rounding`."""
DECODE_TOLERANCE = Tolerance(px=1e-3, score=1e-4, rounding=0.0, ties=0.0)
"""Of the decoder inside the graph against numpy's, on the same maps."""


@dataclass(frozen=True)
class ParityReport:
    """Differences between a source and the written file, over all test images.

    Attributes:
        images: Images that were compared.
        largest_map_difference: Over all raw outputs; None where none were compared.
        points: Points that were compared: landmarks, or corners and kps of the best priors.
        largest_px: Largest distance between a decoded point and its twin, in input pixels, ties
            left out.
        mean_px: Mean of the distances, ties included.
        median_px: Likewise: ties are few, so that it tells when all points move a little.
        ties: Points farther than the tolerance in images whose outputs agree but for rounding.
        largest_score_difference: Of landmark scores, or of face probabilities; those of images
            whose outputs agree are rounding, however large, and left out above the tolerance.
        argmax_flips: Maps whose best cell differs (0 for detectors).
        flip_margins: For each flip, by how much torch's best cell beat the other.
        tolerance: What the differences may be.
    """

    images: int
    largest_map_difference: float | None
    points: int
    largest_px: float
    mean_px: float
    median_px: float
    ties: int
    largest_score_difference: float
    argmax_flips: int
    flip_margins: tuple[float, ...]
    tolerance: Tolerance

    @property
    def passed(self) -> bool:
        """Whether the file may be kept. NaN fails."""
        return (
            self.points > 0
            and max(self.largest_px, self.median_px) <= self.tolerance.px
            and self.largest_score_difference <= self.tolerance.score
            and self.ties <= self.tolerance.ties * self.points
        )

    def in_words(self) -> str:
        """The differences beside what they may be."""
        allowed = self.tolerance
        return (
            f"differ by {self.largest_px:.3f} px, {self.median_px:.3f} in the median (tolerance "
            f"{allowed.px}), and "
            f"{self.largest_score_difference:.4f} in scores (tolerance {allowed.score}), with "
            f"{self.ties} ties of {self.points} points (tolerance {allowed.ties:.0%})"
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        return {"passed": self.passed, **dataclasses.asdict(self)}


def torch_outputs(graph: ExportGraph, batches: Iterable[Pixels]) -> list[Arrays]:
    """What the checkpoint itself computes, batch by batch; `graph` is in evaluation mode."""
    found = []
    for batch in batches:
        with torch.inference_mode():
            tensors = graph(torch.from_numpy(batch))
        found.append({n: t.numpy() for n, t in zip(graph.outputs, tensors, strict=True)})
    return found


def check_parity(
    spec: ModelSpec,
    batches: Sequence[Pixels],
    reference: Sequence[Arrays],
    backend: Backend,
    tolerance: Tolerance,
) -> ParityReport:
    """Run a written file on the images and compare with its source.

    Args:
        spec: Says how to decode.
        batches: (N, H, W, 3) each.
        reference: What the source gives for the same batches, from `torch_outputs` for example.
        backend: The written file, its raw outputs.
        tolerance: What differences are allowed.
    """
    decode = Points(spec)
    differences = Differences(tolerance)
    for batch, ours in zip(batches, reference, strict=True):
        theirs = backend.run({"image": batch})
        for name, values in theirs.items():
            if not np.isfinite(values).all() and np.isfinite(ours[name]).all():
                raise ModelError(
                    f"output {name!r} overflows in {spec.precision}: its source's values, up to "
                    f"{np.abs(ours[name]).max():.3g}, are finite and the file's are not"
                )
        rounding = np.where(_are_bare(batch), _BARE, 1) * tolerance.rounding
        same = _agreeing(ours, theirs, rounding)
        differences.add(decode(batch, ours, ours), decode(batch, theirs, ours), same)
        differences.add_maps(ours, theirs)
    return differences.report()


def check_graph_decoder(
    spec: ModelSpec, batches: Sequence[Pixels], network: Backend, whole: Backend
) -> ParityReport:
    """Compare a file with its decoder inside with numpy's decoder on the same network's outputs.

    Args:
        spec: The network's, with the decoder by its own name.
        batches: (N, H, W, 3) each.
        network: The file without its decoder.
        whole: The file with it.
    """
    decode = Points(spec)
    differences = Differences(DECODE_TOLERANCE)
    for batch in batches:
        maps = network.run({"image": batch})
        found = whole.run({"image": batch})
        inside = (found["points"], found["scores"])
        differences.add(decode(batch, maps, maps), inside)
        if "covariances" in found:
            differences.add_spreads(decode.spreads(maps), found["covariances"])
    return differences.report()


class Differences:
    """Differences as they come in, batch by batch."""

    def __init__(self, tolerance: Tolerance) -> None:
        self.tolerance = tolerance
        self.margins: list[float] = []
        self.maps: list[float] = []
        self.distances: list[Floats] = []
        self.scores: list[float] = []
        self.largest, self.ties, self.images = 0.0, 0, 0

    def add(
        self,
        ours: tuple[Floats, Floats],
        theirs: tuple[Floats, Floats],
        same: NDArray[np.bool_] | None = None,
    ) -> None:
        """Take in a batch: points (N, P, 2) and scores (N, Q), and in which images outputs agree.

        Args:
            ours: What should be.
            theirs: What is.
            same: (N,); None for in no image.
        """
        if same is None:
            same = np.zeros(len(ours[0]), bool)
        tolerance = self.tolerance
        reach = np.maximum(1.0, np.abs(ours[0]).max(axis=-1) / _REACH)
        distances = np.linalg.norm(ours[0] - theirs[0], axis=-1) / reach
        ties = (distances > tolerance.px) & same[:, None]
        self.distances.append(distances)
        changes = np.abs(ours[1] - theirs[1])
        rounded = (changes > tolerance.score) & same[:, None]
        self.scores.append(float(np.where(rounded, 0.0, changes).max()))
        self.largest = max(self.largest, float(np.where(ties, 0.0, distances).max()))
        self.ties += int(ties.sum())
        self.images += len(distances)

    def add_maps(self, ours: Mapping[str, Floats], theirs: Mapping[str, Floats]) -> None:
        """Take in raw outputs by name."""
        self.maps.extend(float(np.abs(ours[name] - theirs[name]).max()) for name in ours)
        for name in ARGMAX_MAPS:
            if name in ours:
                self.margins.extend(_flip_margins(ours[name], theirs[name]))

    def add_spreads(self, ours: Floats, theirs: Floats) -> None:
        """Take in covariances: over their own size, in units of a point's deviation."""
        size = 1.0 + np.trace(ours, axis1=-2, axis2=-1)
        change = np.abs(ours - theirs).max(axis=(-2, -1)) / size
        self.distances.append(change)
        self.largest = max(self.largest, float(change.max()))

    def report(self) -> ParityReport:
        """All that came in."""
        every = np.concatenate([part.ravel() for part in self.distances])
        # max() would leave a NaN out
        largest = self.largest if np.isfinite(every).all() else float("nan")
        return ParityReport(
            images=self.images,
            # unlike max(), NaN stays
            largest_map_difference=float(np.max(self.maps)) if self.maps else None,
            points=every.size,
            largest_px=largest,
            mean_px=float(every.mean()),
            median_px=float(np.median(every)) if every.size else 0.0,
            ties=self.ties,
            largest_score_difference=float(np.max(self.scores)),
            argmax_flips=len(self.margins),
            flip_margins=tuple(self.margins),
            tolerance=self.tolerance,
        )


def _are_bare(batch: Pixels) -> NDArray[np.bool_]:
    """Which images (N,) have nothing but one row again and again, as flat ones and ramps."""
    return (batch == batch[:, :1]).all(axis=(1, 2, 3))


def _agreeing(ours: Arrays, theirs: Arrays, rounding: NDArray[np.float64]) -> NDArray[np.bool_]:
    """In which images (N,) every output's values agree to within `rounding` of its range."""
    agree = []
    for name, a in ours.items():
        axes = tuple(range(1, a.ndim))
        span = a.max(axis=axes) - a.min(axis=axes)
        agree.append(np.abs(a - theirs[name]).max(axis=axes) <= rounding * span)
    return np.all(agree, axis=0)


def _flip_margins(ours: Floats, theirs: Floats) -> Iterator[float]:
    """By how much torch's best cell beats the one that the file chose, where they differ."""
    cells = ours.shape[-2] * ours.shape[-1]
    a, b = ours.reshape(-1, cells), theirs.reshape(-1, cells)
    best, other = a.argmax(1), b.argmax(1)
    for row in np.flatnonzero(best != other):
        yield float(a[row, best[row]] - a[row, other[row]])
