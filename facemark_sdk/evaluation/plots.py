"""Curves and mean errors as pictures, by matplotlib."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facemark_sdk.errors import FacemarkError
from facemark_sdk.evaluation.figures import AUC_LIMIT
from facemark_sdk.layouts import Layout
from facemark_sdk.metrics import auc, auc_thresholds, ced, failure_rate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 120
_COLUMNS = 3
_NUMBERED = 5
"""So many of the worst landmarks have their number written beside them."""


def require_matplotlib() -> None:
    """See that pictures can be drawn.

    Raises:
        FacemarkError: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise FacemarkError(
            "a report's pictures need matplotlib, which is not installed. "
            'Install the extra: pip install "facemark-sdk[cpu,eval]"'
        ) from None


def ced_picture(curves: Mapping[str, ArrayLike], title: str, norm: str) -> bytes:
    """The CED curves of several sets of faces in one picture, their figures in the legend.

    Args:
        curves: By name, the NME (N,) of each face, infinite where it was not found.
        title: Stands above.
        norm: What errors are divided by, for the axis.

    Returns:
        A PNG file's bytes.
    """
    figure = _figure(7.5, 4.8 + 0.22 * len(curves))
    axes = figure.add_subplot()
    thresholds = auc_thresholds(AUC_LIMIT)
    for name, nme in curves.items():
        said = f"AUC {auc(nme, AUC_LIMIT):.3f}, FR {100 * failure_rate(nme, AUC_LIMIT):.2f} %"
        axes.plot(100 * thresholds, 100 * ced(nme, thresholds), label=_plain(f"{name}: {said}"))
    axes.set(
        xlabel=_plain(f"NME in % ({norm})"),
        ylabel="faces with at most this NME, %",
        title=_plain(title),
        xlim=(0, 100 * AUC_LIMIT),
        ylim=(0, 100),
    )
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", fontsize=9)
    return _png(figure)


def landmarks_picture(
    shape: NDArray[Any], means: Mapping[str, NDArray[np.float64]], layout: Layout, title: str
) -> bytes:
    """The mean error of each landmark as a coloured disc on the mean face, a panel a protocol.

    Args:
        shape: (L, 2) the mean face, y downwards.
        means: By protocol, the mean error (L,) of each landmark, fractions.
        layout: What the points are.
        title: Stands above.

    Returns:
        A PNG file's bytes.
    """
    columns = min(_COLUMNS, len(means))
    rows = -(-len(means) // columns)
    figure = _figure(5.4 * columns, 5 * rows + 0.3)
    for i, (name, mean) in enumerate(means.items()):
        axes: Any = figure.add_subplot(rows, columns, i + 1)
        for a, b in layout.edges:
            axes.plot(*shape[[a, b]].T, color="0.75", linewidth=1, zorder=1)
        discs = axes.scatter(
            *shape.T,
            c=100 * mean,
            s=70,
            cmap="viridis",
            edgecolors="0.2",
            linewidths=0.5,
            zorder=2,
        )
        for worst in np.argsort(-mean)[:_NUMBERED]:
            place = {"textcoords": "offset points", "fontsize": 8}
            axes.annotate(str(worst), shape[worst], (5, 5), **place)
        axes.set_title(f"{name}: mean {100 * mean.mean():.2f} %", fontsize=10)
        axes.set_aspect("equal")
        axes.margins(0.1)
        axes.invert_yaxis()
        axes.set_axis_off()
        figure.colorbar(discs, ax=axes, label="mean error, % of the norm", shrink=0.8)
    figure.suptitle(_plain(title), fontsize=11)
    return _png(figure)


def _figure(width: float, height: float) -> Figure:
    require_matplotlib()
    from matplotlib.figure import Figure  # no pyplot: it keeps state and may want a screen

    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


def _plain(text: str) -> str:
    """Text that matplotlib takes as it is: a dollar would begin a formula."""
    return text.replace("$", r"\$")
