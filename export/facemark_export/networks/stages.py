"""Heatmaps as networks give them: their stages, of which the last one counts, and their cells.

(N, stages, maps, h, w) where a network has intermediate supervision (HIH's hourglasses:
COMPAT 3.1), else (N, maps, h, w).
"""

from __future__ import annotations

from torch import Tensor

HEATMAP_STRIDE = 4
"""Pixels a cell of every heatmap network (COMPAT 2.1, 3.1) but MapNet, whose stride can be
chosen."""
CELL_MIDDLE = 0.5
"""Where in the cell that holds it a position lies, in cells, for all that the cell says."""
_RANK = 5


def stages(output: Tensor) -> tuple[Tensor, ...]:
    """The maps (N, maps, h, w) of every stage, first to last; one without stages is its own."""
    return tuple(output.unbind(1)) if output.dim() == _RANK else (output,)


def last_stage(output: Tensor) -> Tensor:
    """The output as decoders read it."""
    return output[:, -1] if output.dim() == _RANK else output
