"""What a recipe must give the loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn

from facemark_sdk.spec import ModelSpec

Forward = Callable[[Tensor], Any]


class Task(Protocol):
    """What a recipe trains: network, batches, losses, validation."""

    network: nn.Module
    spec: ModelSpec
    metric: str
    higher_is_better: bool

    def __len__(self) -> int:
        """Training samples an epoch."""

    def epoch_indices(self, rng: np.random.Generator) -> np.ndarray:
        """The samples of one epoch, in the order in which they are seen."""

    def make_batch(self, indices: np.ndarray, rng: np.random.Generator) -> dict[str, Tensor]:
        """Augmented samples and targets; ``image`` is uint8 BGR (N, H, W, 3).

        Of several processes each makes its own part of a batch. What `rng` draws is the same in
        all of them; ``rng.spawn(len(indices))`` gives every sample a generator of its own, the
        same one however many processes share the batch.
        """

    def losses(self, outputs: Any, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Named, weighted scalars, which the loop sums; means over the batch's samples."""

    def validate(self, forward: Forward) -> dict[str, float]:
        """Figures on held-out data, `metric` among them."""
