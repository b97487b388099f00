"""Which layers stay in float: measured, first for the sake of time, then of accuracy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx

from facemark_export.onnx_file import save
from facemark_export.precision_compared import Compared
from facemark_export.precision_data import Measured
from facemark_export.precision_speed import milliseconds
from facemark_export.quantise import Pixels, Quantiser
from facemark_export.quantise_prepare import Layer
from facemark_sdk.spec import ModelSpec

SHARES = (1.0, 0.9)
"""Of the calibration's batches, those whose extremes ranges hold; what is best is measured."""
FIRST = 6
"""So many of the first layers are tried in float: few channels and many pixels are what ONNX
Runtime's integer convolutions are slower on than its float ones."""
FASTER = 0.97
"""A layer more in float must save so much of the time."""
PARTS = 64
"""Layers are tried one by one, or so many runs of neighbours where there are more."""
GAIN = 2 / 3
"""Keeping more layers in float pays when it leaves at most so much of damage x time."""
UNTIMED = 0.5
"""Share of the limit that a search which times nothing may use up: other faces judge."""
PATIENCE = 3
"""Steps in a row that do not pay, after which the search ends."""

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Step:
    """One try.

    Attributes:
        kept: Layers in float beyond those that are faster so, the worst first.
        damage: How far results moved on the search's faces.
        loss: What they lost there.
        time: The network's p50 over fp32's, both in turns; the geometric mean over image sizes.
            None where nothing is timed.
    """

    kept: int
    damage: float
    loss: float
    time: float | None


@dataclass(frozen=True)
class Search:
    """What was tried and chosen.

    Attributes:
        layers: How many there are.
        reach: Each of `SHARES` with the damage that it does when all layers are int8.
        first_ms: The network's p50 with none, one, two, ... of the first layers in float; the
            geometric mean over image sizes; empty where nothing is timed.
        faster: Layers that are in float because the network is faster so.
        alone: Each other layer (or run of layers) with its damage when it alone is int8, worst
            first; empty where nothing is timed and the loss is allowed with all layers in int8.
        steps: Then the worst were kept in float, so many at a time.
        kept: Layers that are in float because they hurt.
        samples: What the damage was measured on, in words.
    """

    layers: int
    reach: tuple[tuple[float, float], ...]
    first_ms: tuple[float, ...]
    faster: tuple[str, ...]
    alone: tuple[tuple[str, float], ...]
    steps: tuple[Step, ...]
    kept: tuple[str, ...]
    samples: str


class Trials:
    """Runs candidates: writes each with the spec, as the SDK reads it, and measures."""

    def __init__(
        self,
        fp32: onnx.ModelProto,
        spec: ModelSpec,
        samples: Measured,
        images: Sequence[Pixels],
        folder: Path,
    ) -> None:
        """Run the float network.

        Args:
            fp32: The float network.
            spec: Its spec, which candidates share.
            samples: Faces that are neither calibrated on nor judged on.
            images: What candidates are timed on, for each size as many as the network takes at
                once; none where they are for another runtime, and are not timed.
            folder: Where they are written.
        """
        self._spec, self._samples, self._folder = spec, samples, folder
        self._images = images
        self._fp32 = self.write(fp32, "fp32")
        self._reference = samples.run(self._fp32)

    @property
    def timed(self) -> bool:
        """Whether candidates are timed."""
        return bool(self._images)

    @property
    def protocol(self) -> str:
        """What damage is measured on, in words."""
        return self._samples.protocol

    def write(self, model: onnx.ModelProto, name: str) -> Path:
        """A candidate as a file."""
        path = self._folder / f"{name}.onnx"
        save(model, self._spec, path)
        return path

    def compare(self, model: onnx.ModelProto) -> Compared:
        """A candidate against the float network."""
        return self._compare(self.write(model, "candidate"))

    def step(self, kept: int, model: onnx.ModelProto) -> Step:
        """A candidate against the float network, in time as well."""
        path = self.write(model, "candidate")
        found, ratio = self._compare(path), None
        if self.timed:
            ours, reference = self.times([path, self._fp32])
            ratio = ours / reference
        return Step(kept, found.damage, found.loss, ratio)

    def _compare(self, path: Path) -> Compared:
        return self._samples.compare(self._reference, self._samples.run(path))

    def times(self, files: Sequence[Path]) -> tuple[float, ...]:
        """Each file's p50, as geometric mean over images, so that no size counts more."""
        times = np.log([milliseconds(files, batch) for batch in self._images])
        return tuple(float(time) for time in np.exp(times.mean(axis=0)))


def search(
    quantiser: Quantiser, trials: Trials, limit: float, progress: Progress
) -> tuple[onnx.ModelProto, Search]:
    """Choose which layers are int8.

    Activations first get the ranges that do the least damage. The first layers stay in float as far
    as that is faster. Of the others each is made int8 alone; in the order of the damage that this
    does, 0, 1, 2, 4, ... up to half of them are then kept in float while all others are int8. More
    are taken while the loss is over the limit, or when that leaves at most `GAIN` of damage x time.
    Where nothing is timed, float is taken for slower everywhere: it ends with the first that loses
    no more than `UNTIMED` of the limit.

    Args:
        quantiser: Makes the candidates.
        trials: Measures them.
        limit: The loss that is allowed.
        progress: Told what is being done.

    Returns:
        The chosen network, and how it was chosen.
    """
    progress("choosing how far activations range")
    reach = []
    for share in SHARES:
        quantiser.take_ranges(share)
        reach.append((share, trials.compare(quantiser.model(quantiser.layers)).damage))
    quantiser.take_ranges(min(reach, key=lambda tried: tried[1])[0])
    times = _first_layers(quantiser, trials, progress) if trials.timed else ()
    start = _fastest(times)
    parts = worst = _parts(quantiser.layers[start:])
    alone: list[float] = []
    steps: list[Step] = []
    best = 0
    patience, limit = (PATIENCE, limit) if trials.timed else (0, UNTIMED * limit)
    for kept in _steps(len(parts)):
        progress(f"measuring with {kept} of {len(parts)} layers in float")
        steps.append(trials.step(kept, quantiser.model(_joined(worst[kept:]))))
        if _pays(steps[best], steps[-1], limit):
            best = len(steps) - 1
        if steps[best].loss <= limit and len(steps) - 1 - best >= patience:
            break
        if not alone:
            alone = _damages(quantiser, trials, parts, progress)
            worst = [parts[i] for i in np.argsort(-np.array(alone), kind="stable")]
    count = steps[best].kept
    measured = zip(map(_name, parts), alone, strict=bool(alone))
    return quantiser.model(_joined(worst[count:])), Search(
        layers=len(quantiser.layers),
        reach=tuple(reach),
        first_ms=times,
        faster=_names(quantiser.layers[:start]),
        alone=tuple(sorted(measured, key=lambda part: -part[1])),
        steps=tuple(steps),
        kept=_names(_joined(worst[:count])),
        samples=trials.protocol,
    )


def _first_layers(quantiser: Quantiser, trials: Trials, progress: Progress) -> tuple[float, ...]:
    progress("timing the first layers in int8 and float")
    count = min(FIRST, len(quantiser.layers) - 1)
    files = [
        trials.write(quantiser.model(quantiser.layers[k:]), f"first{k}") for k in range(count + 1)
    ]
    return trials.times(files)


def _damages(
    quantiser: Quantiser, trials: Trials, parts: Sequence[Sequence[Layer]], progress: Progress
) -> list[float]:
    """What each part does when it alone is int8."""
    found = []
    for number, part in enumerate(parts, 1):
        progress(f"measuring layer {number} of {len(parts)} in int8")
        found.append(trials.compare(quantiser.model(part)).damage)
    return found


def _fastest(times: Sequence[float]) -> int:
    """How many of the first layers to keep in float."""
    best = 0
    for k, time in enumerate(times):
        if time < times[best] * FASTER ** (k - best):
            best = k
    return best


def _parts(layers: Sequence[Layer]) -> list[list[Layer]]:
    cuts = np.linspace(0, len(layers), min(len(layers), PARTS) + 1).round().astype(int)
    return [list(layers[a:b]) for a, b in pairwise(cuts)]


def _steps(parts: int) -> list[int]:
    """0, 1, 2, 4, ... up to half of the parts."""
    return [0, *(2**k for k in range(parts.bit_length()) if 2**k <= parts // 2)]


def _pays(best: Step, step: Step, limit: float) -> bool:
    if best.loss > limit:
        return step.loss < best.loss
    if best.time is None or step.time is None:  # what float costs is not known
        return False
    return step.loss <= limit and step.damage * step.time <= GAIN * best.damage * best.time


def _joined(parts: Sequence[Sequence[Layer]]) -> list[Layer]:
    return [layer for part in parts for layer in part]


def _name(part: Sequence[Layer]) -> str:
    return part[0].name if len(part) == 1 else f"{part[0].name} ... {part[-1].name}"


def _names(layers: Sequence[Layer]) -> tuple[str, ...]:
    return tuple(layer.name for layer in layers)
