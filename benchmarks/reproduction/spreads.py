"""What the tables say of several runs: means, spreads, differences of the same faces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Run = Mapping[str, Any]

_DRAWS, _SHARE = 2000, 95
"""Of the bootstrap, and the share in % of its middle that the interval holds."""


def spread(values: Sequence[float], digits: int) -> str:
    """Mean and, of several values, their standard deviation."""
    mean = f"{np.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.{digits}f}"


def difference(runs: Sequence[Run], others: Sequence[Run]) -> str:
    """Mean NME of the same faces less that of other runs, with the interval of a bootstrap."""
    one, other = _sums_of_photos(runs), _sums_of_photos(others)
    low, high = bootstrap(one[:, 0] - other[:, 0], one[:, 1])
    mean = (one[:, 0] - other[:, 0]).sum() / one[:, 1].sum()
    return f"{mean:+.2f} ({low:+.2f} to {high:+.2f})"


def _sums_of_photos(runs: Sequence[Run]) -> NDArray[np.float64]:
    """By photo the sum of its faces' NME, averaged over runs, and how many faces: (P, 2)."""
    photos = sorted(runs[0]["nme_of_photos"])
    return np.array(
        [
            (
                np.mean([sum(run["nme_of_photos"][photo]) for run in runs]),
                len(runs[0]["nme_of_photos"][photo]),
            )
            for photo in photos
        ]
    )


def bootstrap(sums: NDArray[np.float64], counts: NDArray[np.float64]) -> tuple[float, float]:
    """The interval of sum / count when photos (P,) are drawn again with replacement."""
    drawn = np.random.default_rng(0).integers(0, len(sums), (_DRAWS, len(sums)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.percentile(means, ((100 - _SHARE) / 2, (100 + _SHARE) / 2))
    return float(low), float(high)


def markdown(heads: Sequence[str], lines: Sequence[Sequence[str]], words: int = 1) -> str:
    """A table whose first columns are words and the others numbers.

    Args:
        heads: Of the columns.
        lines: A cell a column.
        words: How many columns are words.
    """
    rule = ["---"] * words + ["---:"] * (len(heads) - words)
    return "\n".join("| " + " | ".join(line) + " |" for line in (heads, rule, *lines))
