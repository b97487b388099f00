"""What is compared: models x backends x threads x batch sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product


@dataclass(frozen=True, slots=True)
class Configuration:
    """One of the ways to run a model.

    Attributes:
        model: A bundled model's name or the path of a file, as it was given.
        backend: ``auto``, ``cpu``, ``cuda``, ``tensorrt``.
        threads: CPU threads; None leaves it to the runtime.
        batch: Faces that the network sees at once.
    """

    model: str
    backend: str
    threads: int | None
    batch: int


def combine(
    models: Sequence[str],
    backends: Sequence[str],
    threads: Sequence[int | None],
    batches: Sequence[int],
) -> list[Configuration]:
    """All combinations, each once, in the order given; the batch size changes fastest."""
    return list(
        dict.fromkeys(Configuration(*each) for each in product(models, backends, threads, batches))
    )
