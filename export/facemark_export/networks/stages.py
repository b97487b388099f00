"""Networks with intermediate supervision: their maps come as stages, of which the last one counts.

(N, stages, maps, h, w) where a network has stages (HIH's hourglasses: COMPAT 3.1), else
(N, maps, h, w).
"""

from __future__ import annotations

from torch import Tensor

_RANK = 5


def stages(output: Tensor) -> tuple[Tensor, ...]:
    """The maps (N, maps, h, w) of every stage, first to last; one without stages is its own."""
    return tuple(output.unbind(1)) if output.dim() == _RANK else (output,)


def last_stage(output: Tensor) -> Tensor:
    """The output as decoders read it."""
    return output[:, -1] if output.dim() == _RANK else output
