"""Run what is compared in turns, so that a slow moment of the machine is shared by all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

REPEAT, WARM_UP, TURN = 100, 10, 10


@dataclass(frozen=True, slots=True)
class Protocol:
    """How often everything runs.

    Attributes:
        repeat: Runs that count.
        warm_up: Runs of each before them.
        turn: Runs of one in a row. One more before them is not counted: it finds the processor's
            caches full of the others' weights.
    """

    repeat: int = REPEAT
    warm_up: int = WARM_UP
    turn: int = TURN

    @property
    def turns(self) -> tuple[int, ...]:
        """Runs that count in each turn."""
        full, rest = divmod(self.repeat, self.turn)
        return (self.turn,) * full + ((rest,) if rest else ())


def measure(
    subjects: Sequence[Callable[[], dict[str, float]]],
    protocol: Protocol,
    track: Callable[[Sequence[int]], Iterable[int]] = iter,
) -> list[list[dict[str, float]]]:
    """Times of `protocol.repeat` runs of each subject.

    Every other round goes through the subjects backwards, so that none is always the one that
    follows the same other.

    Args:
        subjects: Each call is one run and gives milliseconds by stage.
        protocol: How often.
        track: Shows progress; passes on the turns it is given.

    Returns:
        For each subject, what its runs gave, in their order.
    """
    times: list[list[dict[str, float]]] = [[] for _ in subjects]
    for subject in subjects:
        for _ in range(protocol.warm_up):
            subject()
    backwards = False
    for runs in track(protocol.turns):
        for index in _order(len(subjects), backwards):
            subjects[index]()
            times[index] += [subjects[index]() for _ in range(runs)]
        backwards = not backwards
    return times


def _order(count: int, backwards: bool) -> Iterator[int]:
    return iter(range(count)[::-1] if backwards else range(count))
