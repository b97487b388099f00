"""What is compared: models x backends x threads x batch sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from facemark_sdk.backends import describe_file
from facemark_sdk.models import list_models, read_spec, resolve_model
from facemark_sdk.spec import Task


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

    @property
    def said(self) -> str:
        """For people, in one line."""
        return (
            f"{self.model} ({self.backend}, threads {self.threads or 'auto'}, batch {self.batch})"
        )


def bundled_models(task: Task) -> list[str]:
    """Names of the bundled models for a task, in alphabetical order.

    Raises:
        ModelError: One says nothing of itself that this version can read.
    """
    paths = {name: resolve_model(name) for name in list_models()}
    return [
        name for name, path in paths.items() if read_spec(describe_file(path), path).task == task
    ]


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
