"""What issue 5 wants to see, judged by the medians of one run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from field import (
    BOXES,
    BOXES_32,
    DEFAULT,
    DETECTION,
    DLIB,
    EAGER_LOOP,
    FINDER,
    FRAME_1,
    FRAME_4,
    FRAME_9,
    FRAME_32,
    MANY,
    MESH,
    NETWORK,
    NETWORK_32,
    NUMPY,
    POINTS,
    PRODUCT,
    R18,
    R18_INT8,
    RUNTIME,
    TORCH,
    WHOLE,
)
from flops import count_flops
from rates import FLOPS
from turns import Measured, quotient

Times = Mapping[tuple[str, str], Measured]

INT8_GAIN = 4
"""Times as many int8 as float32 operations a second that the processor can do."""


@dataclass(frozen=True)
class Claim:
    """A wish and what was measured.

    Attributes:
        said: What is compared.
        value: The figure.
        wanted: The bound.
        at_least: Whether more is better.
        unit: ``x``, ``%`` or ``ms``.
    """

    said: str
    value: float
    wanted: float
    at_least: bool
    unit: str

    @property
    def met(self) -> bool:
        """Whether the figure is within the bound."""
        return self.value >= self.wanted if self.at_least else self.value <= self.wanted


class NotMeasured(LookupError):
    """A contender that a wish needs did not run."""


class _Ran(dict[tuple[str, str], Measured]):
    """Those that ran; the others' absence is told from any other missing key."""

    def __missing__(self, key: tuple[str, str]) -> Measured:
        raise NotMeasured(key)


def claims(times: Times, r18: Path, int8: Path | None) -> Iterator[Claim]:
    """All that can be judged; what was not measured is left out."""
    for make in (_eager, _rates(r18, int8), _default, _around, _crowd, _dlib, _mesh):
        try:
            yield from make(_Ran(times))
        except NotMeasured:
            continue


def small_networks(times: Times) -> Iterator[str]:
    """Where we stand against YuNet and PFLD, of which only the networks can be run here."""
    ours = times.get((WHOLE, f"{DEFAULT} + {FINDER}"))
    if ours is None:
        return
    detectors = {n: t for (group, n), t in times.items() if group == DETECTION and "YuNet" in n}
    points = {n: t for (group, n), t in times.items() if group == NETWORK and "PFLD" in n}
    for (detector, first), (network, second) in product(detectors.items(), points.items()):
        both = first.percentile(50) + second.percentile(50)
        yield (
            f"{detector}, and {network}, networks alone: {both:.2f} ms; Detector, everything "
            f"included, takes {ours.percentile(50) / both:.2f} times as long"
        )


def _eager(times: Times) -> Iterator[Claim]:
    eager = times[POINTS, EAGER_LOOP]
    said = "faster than PyTorch eager with the published decode, uint8 crop to points"
    yield Claim(f"R18 fp32: {said}", quotient(eager, times[POINTS, R18]), 1.5, True, "x")
    if (POINTS, R18_INT8) in times:
        int8 = quotient(eager, times[POINTS, R18_INT8])
        yield Claim(f"R18 int8: {said}", int8, 5.0, True, "x")


def _rates(r18: Path, int8: Path | None) -> Callable[[Times], Iterator[Claim]]:
    def make(times: Times) -> Iterator[Claim]:
        network = times[NETWORK, R18]
        percent = 100 * count_flops(r18) / FLOPS
        products = {n: times[PRODUCT, n] for n in (NUMPY, TORCH, RUNTIME) if (PRODUCT, n) in times}
        for library, square in sorted(products.items(), key=lambda item: item[1].percentile(50)):
            said = f"{library}'s matrix-product rate"
            share = percent * quotient(square, network)
            yield Claim(f"R18 fp32: share of {said}", share, 95, True, "%")
            if int8 is not None and (NETWORK, R18_INT8) in times:
                # the float network's operations: int8 files pad a kernel here and there
                share = percent * quotient(square, times[NETWORK, R18_INT8]) / INT8_GAIN
                yield Claim(f"R18 int8: share of {INT8_GAIN} x {said}", share, 75, True, "%")

    return make


def _default(times: Times) -> Iterator[Claim]:
    r18 = times[NETWORK, R18]
    network = 100 * quotient(times[NETWORK, DEFAULT], r18)
    yield Claim(f"{DEFAULT}: network, of R18's fp32", network, 20, False, "%")
    whole = 100 * quotient(times[WHOLE, f"{DEFAULT} + {FINDER}"], r18)
    yield Claim("Detector on 640x480, one face, of R18's fp32 network", whole, 55, False, "%")


def _around(times: Times) -> Iterator[Claim]:
    one, four, nine = (
        times[MANY, name].inner_median("around") for name in (FRAME_1, FRAME_4, FRAME_9)
    )
    yield Claim("around the two networks, one face", one, 1.0, False, "ms")
    # The second look that four faces as well as nine take, and one does not, is no face's.
    further = _faces(times[MANY, FRAME_9]) - _faces(times[MANY, FRAME_4])
    said = "around the two networks, each further face (nine in a frame against four)"
    yield Claim(said, (nine - four) / further, 0.2, False, "ms")


def _crowd(times: Times) -> Iterator[Claim]:
    alone = times[MANY, NETWORK_32]
    said = "32 faces in one frame, by the network alone at batch 32"
    yield Claim(f"{said}: boxes given", quotient(times[MANY, BOXES_32], alone), 1.1, False, "x")
    yield Claim(f"{said}: with detection", quotient(times[MANY, FRAME_32], alone), 1.1, False, "x")


def _dlib(times: Times) -> Iterator[Claim]:
    whole = times[WHOLE, f"{DEFAULT} + {FINDER}"]
    yield Claim(
        "frame to points, faster than dlib", quotient(times[WHOLE, DLIB], whole), 1, True, "x"
    )


def _mesh(times: Times) -> Iterator[Claim]:
    boxes = quotient(times[BOXES, DEFAULT], times[BOXES, f"{MESH}, tracking"])
    yield Claim("landmarks in given boxes, by mediapipe's mesh", boxes, 2.0, False, "x")


def _faces(measured: Measured) -> int:
    """Faces that a contender says it finds."""
    return int(measured.said.split()[0])
