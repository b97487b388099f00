"""How true a barycentre's covariances are: truths inside their ellipses, and the factor to mend it.

    python benchmarks/covariance_calibration.py --data ../shared/data --docs docs \
        --model NAME MODEL.onnx [NAME MODEL.onnx ...]

Runs models whose decoder gives covariances over the photos that training holds out, boxes by the
annotated points. A truth lies inside the s-sigma ellipse when its Mahalanobis distance from the
point, under the point's covariance, is at most s; were errors Gaussian and covariances right,
39.3 % lay inside 1 sigma and 86.5 % inside 2. The factor is fitted on every other photo and checked
on the rest. Writes covariances.json and covariances.png into DOCS/reproduction and the section
between its markers in DOCS/reproduction.md.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import tyro
from numpy.typing import NDArray

from facemark_export.training.landmark_data import read_faces, split_by_photo
from facemark_sdk import LandmarkModel
from facemark_sdk.evaluation.boxes import tight_box
from facemark_sdk.evaluation.plots import DPI, require_matplotlib
from facemark_sdk.files import replace_file
from reproduction.markers import between

Floats = NDArray[np.float64]

FOLDERS = ("landmarks68/helen_train", "landmarks68/afw")
SIGMAS = (1.0, 2.0)
SECTION = "covariances"


@dataclass(frozen=True, slots=True)
class Calibration:
    """How true a model's covariances are.

    Attributes:
        name: The model's.
        faces: On how many held-out faces, all halves together.
        inside: Of all faces, the share of truths in % inside each of `SIGMAS`.
        scale: What `facemark-export --covariance-scale` takes, fitted on the first half.
        before: The shares in % of the second half, as they are.
        after: The same with the factor.
        scale_of_all: The factor fitted on all faces.
        curve: By nominal share in % (1 to 99) the observed one of the second half, before and
            after.
    """

    name: str
    faces: int
    inside: list[float]
    scale: float
    before: list[float]
    after: list[float]
    scale_of_all: float
    curve: dict[str, list[float]]


def main(data: Path, model: dict[str, Path], docs: Path = Path("docs")) -> None:
    """Measure, draw and write.

    Args:
        data: The folder of all data folders (../shared/data).
        model: By name, exported models whose decoder is a barycentre.
        docs: The folder of reproduction.md.
    """
    require_matplotlib()
    calibrations = []
    for name, file in model.items():
        squared, photos = measured(LandmarkModel(file, backend="cpu"), data)
        calibrations.append(calibration(name, squared, photos))
        print(name, calibrations[-1].inside, f"factor {calibrations[-1].scale:.3f}", flush=True)
    folder = docs / "reproduction"
    folder.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(asdict(c)) for c in calibrations)
    record = f"[\n{lines}\n]\n"
    replace_file(folder / "covariances.json", lambda t: t.write_text(record))
    drawn = picture(calibrations)
    replace_file(folder / "covariances.png", lambda t: t.write_bytes(drawn))
    page = docs / "reproduction.md"
    text = between(page.read_text(), SECTION, table(calibrations))
    replace_file(page, lambda t: t.write_text(text))


def measured(model: LandmarkModel, data: Path) -> tuple[Floats, list[str]]:
    """Squared Mahalanobis distances (N, L) of held-out faces, and the photo of each.

    Covariances are the decoder's own: without the factor that a model's spec states.
    """
    squared, photos = [], []
    for name in FOLDERS:
        layout = model.layout
        _, faces = split_by_photo(read_faces(data / name, layout.name, layout.num_points))
        for face in faces:
            found = model.predict(face.image(), tight_box(face.points)[None])
            if found.covariances is None:
                sys.exit(f"{model.spec.name} gives no covariances: its decoder is no barycentre")
            errors = face.points.astype(np.float64) - found.points[0]
            squared.append(squared_distances(errors, found.covariances[0]))
            photos.append(f"{name}/{face.photo}")
    stated = float(model.spec.decoder_params.get("covariance_scale", 1.0))
    return np.stack(squared) * stated, photos


def squared_distances(errors: NDArray[np.floating], covariances: NDArray[np.floating]) -> Floats:
    """Squared Mahalanobis distances.

    Args:
        errors: (..., 2).
        covariances: (..., 2, 2), symmetric.

    Returns:
        (...,); infinite where the ellipse has no area.
    """
    x, y = np.moveaxis(errors.astype(np.float64), -1, 0)
    spread = covariances.astype(np.float64)
    xx, xy, yy = spread[..., 0, 0], spread[..., 0, 1], spread[..., 1, 1]
    determinant = xx * yy - xy * xy
    area = determinant > 0
    squared = (yy * x * x - 2 * xy * x * y + xx * y * y) / np.where(area, determinant, 1.0)
    return np.where(area, squared, np.inf)


def nominal_share(sigmas: float) -> float:
    """The share of a two-dimensional Gaussian inside its ellipse of so many sigmas."""
    return float(-np.expm1(-(sigmas**2) / 2))


def shares_inside(squared: Floats) -> list[float]:
    """The share in % inside each of `SIGMAS`."""
    return [100 * float((squared <= sigmas**2).mean()) for sigmas in SIGMAS]


def fitted_scale(squared: Floats) -> float:
    """The factor on covariances that brings both ellipses' shares nearest to the nominal ones.

    Each of the two alone would have its own factor: the quantile of the squared distances at the
    nominal share, over the squared number of sigmas. This is their geometric mean, which
    few wild errors do not move, as they would the Gaussian's likelihood.
    """
    factors = [
        np.quantile(squared, nominal_share(sigmas), method="inverted_cdf") / sigmas**2
        for sigmas in SIGMAS
    ]
    return float(np.sqrt(np.prod(factors)))


def first_half(photos: Sequence[str]) -> NDArray[np.bool_]:
    """Which faces (N,) the factor is fitted on: those of every other photo by name."""
    chosen = set(sorted({*photos})[::2])
    return np.array([photo in chosen for photo in photos])


def calibration(name: str, squared: Floats, photos: Sequence[str]) -> Calibration:
    """Fit on one half of the photos, check on the other.

    Args:
        name: The model's.
        squared: (N, L) squared Mahalanobis distances.
        photos: N names; faces of one photo are in one half.
    """
    half = first_half(photos)
    scale = fitted_scale(squared[half])
    rest = squared[~half]
    nominal = np.arange(1, 100)
    limits = -2 * np.log1p(-nominal / 100)

    def observed(distances: Floats) -> list[float]:
        rising = np.sort(distances, axis=None)
        inside = np.searchsorted(rising, limits, side="right")
        return [round(float(x), 2) for x in 100 * inside / rising.size]

    return Calibration(
        name=name,
        faces=len(squared),
        inside=shares_inside(squared),
        scale=scale,
        before=shares_inside(rest),
        after=shares_inside(rest / scale),
        scale_of_all=fitted_scale(squared),
        curve={
            "nominal": nominal.astype(float).tolist(),
            "before": observed(rest),
            "after": observed(rest / scale),
        },
    )


def table(calibrations: Sequence[Calibration]) -> str:
    """Markdown, with the picture."""
    ideal = " / ".join(f"{100 * nominal_share(s):.1f}" for s in SIGMAS)
    lines = [
        f"| truths in % inside 1 / 2 sigma (ideal {ideal}) | all faces | checked half | factor | "
        "checked half, with it | factor of all faces |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for c in calibrations:
        all_faces, before, after = (
            " / ".join(f"{share:.1f}" for share in shares)
            for shares in (c.inside, c.before, c.after)
        )
        factor, of_all = f"{c.scale:.2f}", f"{c.scale_of_all:.2f}"
        lines.append(f"| {c.name} | {all_faces} | {before} | {factor} | {after} | {of_all} |")
    return "\n".join([*lines, "", "![Nominal and observed shares](reproduction/covariances.png)"])


def picture(calibrations: Sequence[Calibration]) -> bytes:
    """A PNG file's bytes: nominal against observed shares, before and after."""
    from matplotlib.figure import Figure  # no pyplot: it keeps state and may want a screen

    figure = Figure(figsize=(10, 5), dpi=DPI, layout="constrained")
    sides: Mapping[str, str] = {"before": "as the decoder gives them", "after": "with the factor"}
    for axes, (key, title) in zip(figure.subplots(1, 2, sharey=True), sides.items(), strict=True):
        axes.plot([0, 100], [0, 100], "k:", label="ideal")
        for c in calibrations:
            label = c.name if key == "before" else f"{c.name}: x {c.scale:.2f}"
            axes.plot(c.curve["nominal"], c.curve[key], label=label)
        for sigmas in SIGMAS:
            axes.axvline(100 * nominal_share(sigmas), color="0.8", linewidth=1)
        axes.set(
            title=f"Covariances {title}",
            xlabel="share of a Gaussian inside the ellipse, %",
            xlim=(0, 100),
            ylim=(0, 100),
        )
        axes.legend(loc="lower right", fontsize=9)
    figure.axes[0].set_ylabel("truths inside the ellipse, % (checked half)")
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


if __name__ == "__main__":
    tyro.cli(main)
