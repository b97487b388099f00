"""What one precision of a network loses against another."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Compared:
    """One network's results held against those of the float one.

    Attributes:
        loss: What counts, in points (percent of the whole); what may be refused.
        damage: How far the results moved, whether for better or worse; finer than the loss.
        figures: Both, and what else is of interest, for the report.
    """

    loss: float
    damage: float
    figures: dict[str, float]


def percent(share: float) -> float:
    """A share in percent."""
    return 100 * float(share)
