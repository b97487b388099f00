"""Tables and picture of wasserstein_cost.py's figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wasserstein_batch import NETWORK

_DEBIASED = {True: "debiased", False: "not debiased"}


def tables(figures: Mapping[str, Any]) -> str:
    """All tables in Markdown."""
    faces, landmarks, side = figures["batch"]
    where = f"{figures['device']}, {figures['threads']} threads, PyTorch {figures['torch']}"
    network = next(row["seconds"] for row in figures["batches"] if row["name"] == NETWORK)
    exact = figures["exact_side"]
    parts = [
        f"Exact distances by linear programming on {exact} x {exact} cells; converged iterations. "
        "Far: fresh, restless, two-peaked and misplaced maps; near: within two cells.",
        _table(
            "epsilon, cells",
            "",
            "off, far, cells",
            "off, near, cells",
            "worst cosine of gradients, far",
            "near",
            rows=(
                (
                    f"{row['epsilon']:g}",
                    _DEBIASED[row["debias"]],
                    f"{row['off_far']:.2f}",
                    f"{row['off_near']:.2f}",
                    f"{row['cosine_far']:.3f}",
                    f"{row['cosine_near']:.3f}",
                )
                for row in figures["entropy"]
            ),
        ),
        "The default tolerance, float32, against converged float64.",
        _table(
            "epsilon, cells",
            "",
            "grids",
            "value off, cells",
            "gradient off",
            "ms a map",
            rows=(
                (
                    f"{row['epsilon']:g}",
                    _DEBIASED[row["debias"]],
                    "coarse, fine" if row["coarse_first"] else "fine",
                    f"{row['value_off']:.4f}",
                    f"{100 * row['gradient_off']:.1f} %",
                    f"{row['ms_a_map']:.2f}",
                )
                for row in figures["iterations"]
                if row["iterations"] is None
            ),
        ),
        "One half iteration; largest error of a potential at the solution.",
        _table(
            "epsilon, cells",
            "kernel",
            "off, cells",
            "ms a map",
            rows=(
                (
                    f"{row['epsilon']:g}",
                    row["kernel"],
                    f"{row['off']:.2g}" if "off" in row else "",
                    f"{row['ms_a_map']:.3f}",
                )
                for row in figures["kernels"]
            ),
        ),
        "Gradients after few iterations, not debiased, on one grid.",
        _table(
            "iterations",
            "",
            "gradient off",
            "ms a map",
            "kept for it, KiB a map",
            rows=(
                (
                    str(row["iterations"]),
                    "unrolled" if row["unrolled"] else "envelope",
                    f"{100 * row['gradient_off']:.2g} %",
                    f"{row['ms_a_map']:.2f}",
                    f"{row['kept_kib_a_map']:.0f}",
                )
                for row in figures["gradients"]
            ),
        ),
        f"A batch: {faces} x {landmarks} maps of {side} x {side} cells ({where}).",
        _table(
            "",
            "seconds",
            "of the network's",
            "memory, MB",
            rows=(
                (
                    row["name"],
                    f"{row['seconds']:.3g}",
                    f"{row['seconds'] / network:.2g}",
                    "" if row["mb"] is None else f"{row['mb']:.0f}",
                )
                for row in figures["batches"]
            ),
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _table(*heads: str, rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def plot(figures: Mapping[str, Any], path: Path) -> None:
    """Entropy, the accuracy/time curve, and the batch, side by side."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    picture, (entropy, curve, batch) = plt.subplots(1, 3, figsize=(17, 4.8), layout="constrained")
    for debias, style in ((True, "o-"), (False, "s--")):
        rows = [row for row in figures["entropy"] if row["debias"] is debias]
        at = [row["epsilon"] for row in rows]
        for what, colour in (("near", "tab:orange"), ("far", "tab:blue")):
            alike = [row[f"cosine_{what}"] for row in rows]
            entropy.plot(at, alike, style, color=colour, label=f"{what}, {_DEBIASED[debias]}")
    entropy.set(xscale="log", xlabel="epsilon, cells", ylabel="worst cosine with the exact")
    entropy.set_title("Direction of the gradient by entropy")
    entropy.legend()

    rows = [row for row in figures["iterations"] if row["debias"]]
    for number, epsilon in enumerate(sorted({row["epsilon"] for row in rows})):
        for coarse, style in ((True, "o-"), (False, "s--")):
            line = [r for r in rows if r["epsilon"] == epsilon and r["coarse_first"] is coarse]
            stopped = [r for r in line if r["iterations"] is None]
            line = sorted((r for r in line if r["iterations"]), key=lambda r: r["iterations"])
            label = f"epsilon {epsilon:g}" if coarse else None
            colour = f"C{number}"
            curve.plot(*_curve(line), style, color=colour, markersize=4, label=label)
            curve.plot(*_curve(stopped), "*", color=colour, markersize=13)
    curve.set(xscale="log", yscale="log", xlabel="ms a map", ylabel="worst error of a gradient")
    curve.set_title("Iterations (dashed: fine grid only; star: default)")
    curve.legend()

    rows = figures["batches"]
    batch.barh([row["name"] for row in rows][::-1], [row["seconds"] for row in rows][::-1])
    batch.set(xscale="log", xlabel="seconds")
    batch.set_title(
        "A batch: {} x {} maps of {side} x {side}".format(
            *figures["batch"][:2], side=figures["batch"][2]
        )
    )
    picture.savefig(path, dpi=110)
    plt.close(picture)


def _curve(rows: Sequence[Mapping[str, Any]]) -> tuple[list[float], list[float]]:
    return [row["ms_a_map"] for row in rows], [row["gradient_off"] for row in rows]
