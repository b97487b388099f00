"""What an evaluation leaves behind: its table, its record as JSON values, its PNG pictures."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from facemark_sdk._version import __version__
from facemark_sdk.errors import FacemarkError
from facemark_sdk.evaluation.figures import Figures, figures, parts
from facemark_sdk.evaluation.judge import Judged, Norm, mean_shape
from facemark_sdk.evaluation.plots import ced_picture, landmarks_picture
from facemark_sdk.evaluation.predict import seed_of
from facemark_sdk.evaluation.sheet import Tile, draw_sheet
from facemark_sdk.files import sha256_of
from facemark_sdk.image import load_image
from facemark_sdk.metrics import group_means, landmark_means
from facemark_sdk.robustness import Protocol, perturb

WORST = 20
HEADINGS = (
    "faces",
    "missed",
    "NME %",
    "FR 0.08",
    "FR 0.10",
    "AUC 0.10",
    "LFR 0.1",
    "LFR 0.2",
)
"""Of the table's columns after the first, which says what a row is of."""
KEY = "FR: % of faces whose NME exceeds this, or that were missed. LFR: % of landmarks over this."


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """A finished evaluation and how it was made.

    Attributes:
        model: The model's name.
        model_file: Its file.
        model_layout: The layout of its points.
        backend: What it ran on.
        boxes: Where boxes came from, in words.
        norm: What errors are divided by.
        seed: Of all that was random.
        judged: By protocol, the same faces in the same order.
    """

    model: str
    model_file: Path
    model_layout: str
    backend: str
    boxes: str
    norm: Norm
    seed: int
    judged: Mapping[Protocol, Judged]

    @property
    def first(self) -> Protocol:
        """The protocol that the worst faces are of."""
        return next(iter(self.judged))

    def rows(self, protocol: Protocol) -> tuple[dict[str, Figures], dict[str, Figures], Figures]:
        """Figures by set, by subset and of all faces."""
        judged = self.judged[protocol]
        sets, subsets = parts(judged.faces)
        return (
            {name: figures(judged.only(mask)) for name, mask in sets.items()},
            {name: figures(judged.only(mask)) for name, mask in subsets.items()},
            figures(judged),
        )

    def said(self) -> str:
        """How it was measured, in one sentence."""
        judged = self.judged[self.first]
        sets, measured = " + ".join(parts(judged.faces)[0]), judged.layout.name
        annotated = sorted({face.layout.name for face in judged.faces} - {measured})
        mapped = f", annotations mapped from {' and '.join(annotated)}" if annotated else ""
        if self.model_layout != measured:
            mapped += f", predictions mapped from {self.model_layout}"
        return (
            f"{len(judged.faces)} faces of {sets}, boxes from {self.boxes}, "
            f"errors over {self.norm}, "
            f"{judged.layout.num_points} points of {measured}{mapped}; a face that is "
            "not found fails at every threshold and has, for the NME, the error of the mean face "
            "in the middle of its photo; perturbed photos have the boxes of the clean ones"
        )


def table(evaluation: Evaluation) -> list[list[tuple[str, ...]]]:
    """The rows by protocol, each a name and a cell a heading.

    The first is of all faces; the sets follow where there are several, then the subsets.
    """
    blocks = []
    for protocol in evaluation.judged:
        sets, subsets, every = evaluation.rows(protocol)
        named = [*(sets.items() if len(sets) > 1 else ()), *subsets.items()]
        rows = [(f"- {name}", *_cells(part)) for name, part in named]
        blocks.append([(protocol, *_cells(every)), *rows])
    return blocks


def table_page(evaluation: Evaluation) -> str:
    """The table in Markdown, with what its headings mean and how it was measured."""
    rows = [row for block in table(evaluation) for row in block]
    lines = [
        _markdown_row(evaluation.model, *HEADINGS),
        _markdown_row("---", *("---:",) * len(HEADINGS)),
        *(_markdown_row(*row) for row in rows),
        *("", KEY, ""),
        f"{evaluation.model} on {evaluation.backend}: {evaluation.said()}.",
    ]
    return "\n".join(lines) + "\n"


def record(evaluation: Evaluation) -> dict[str, Any]:
    """All figures with how they were made, ready for `json.dumps`.

    `results` holds for every protocol the figures of all faces, of `sets` and of `subsets`, and
    over the faces that were found the mean error of every landmark and group. `faces` says each
    face's NME.
    """
    judged = evaluation.judged[evaluation.first]
    return {
        "model": evaluation.model,
        "model_sha256": sha256_of(evaluation.model_file),
        "backend": evaluation.backend,
        "protocol": evaluation.said(),
        "boxes": evaluation.boxes,
        "norm": str(evaluation.norm),
        "layout": judged.layout.name,
        "model_layout": evaluation.model_layout,
        "seed": evaluation.seed,
        "versions": versions(),
        "results": {name: _result(evaluation, name) for name in evaluation.judged},
        "faces": _faces(evaluation),
    }


def pictures(evaluation: Evaluation) -> dict[str, bytes]:
    """PNG files by name: CED curves, mean errors on the mean face, the worst faces.

    Raises:
        FacemarkError: matplotlib is not installed, or a photo cannot be read again.
    """
    judged = evaluation.judged[evaluation.first]
    shape = mean_shape(judged.truth)
    means: dict[str, NDArray[np.float64]] = {
        name: landmark_means(part.only(part.found).errors)
        for name, part in evaluation.judged.items()
    }
    title = f"{evaluation.model}, {int(judged.found.sum())} faces found of {len(judged.faces)}"
    return {
        "ced.png": ced_picture(_curves(evaluation), evaluation.model, str(evaluation.norm)),
        "landmarks.png": landmarks_picture(shape, means, judged.layout, title),
        "worst.png": _worst(evaluation),
    }


def versions() -> dict[str, str]:
    """Versions of what figures may depend on."""
    packages = {"facemark_sdk": __version__, "python": platform.python_version()}
    packages |= {"numpy": np.__version__, "opencv": cv2.__version__}
    for package in ("onnxruntime", "onnxruntime-gpu"):
        try:
            packages["onnxruntime"] = version(package)
        except PackageNotFoundError:
            continue
    return packages


def _cells(part: Figures) -> tuple[str, ...]:
    return (
        str(part.faces),
        str(part.missed),
        f"{part.nme_percent:.2f}",
        *(f"{value:.2f}" for value in part.failure_percent.values()),
        f"{part.auc:.4f}",
        *(f"{part.landmark_failure_percent[key]:.2f}" for key in ("0.10", "0.20")),
    )


def _markdown_row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def _result(evaluation: Evaluation, protocol: Protocol) -> dict[str, Any]:
    sets, subsets, every = evaluation.rows(protocol)
    judged = evaluation.judged[protocol]
    errors = judged.only(judged.found).errors
    groups = group_means(errors, judged.layout)
    return {
        **dataclasses.asdict(every),
        "sets": {name: dataclasses.asdict(row) for name, row in sets.items()},
        "subsets": {name: dataclasses.asdict(row) for name, row in subsets.items()},
        "found_landmarks_nme_percent": (100 * landmark_means(errors)).tolist(),
        "found_groups_nme_percent": {name: 100 * mean for name, mean in groups.items()},
    }


def _faces(evaluation: Evaluation) -> list[dict[str, Any]]:
    nme = {name: (100 * judged.nme).tolist() for name, judged in evaluation.judged.items()}
    judged = evaluation.judged[evaluation.first]
    return [
        {
            "set": face.set_name,
            "image": face.image,
            "found": bool(judged.found[i]),
            "nme_percent": {name: values[i] for name, values in nme.items()},
        }
        for i, face in enumerate(judged.faces)
    ]


def _curves(evaluation: Evaluation) -> dict[str, Any]:
    """By protocol; of a single protocol by set as well."""
    if len(evaluation.judged) > 1:
        return {name: judged.rated_nme for name, judged in evaluation.judged.items()}
    judged = evaluation.judged[evaluation.first]
    sets, _ = parts(judged.faces)
    curves = {name: judged.rated_nme[mask] for name, mask in sets.items()}
    return {**curves, "all": judged.rated_nme} if len(sets) > 1 else curves


def _worst(evaluation: Evaluation) -> bytes:
    """The faces with the largest NME under the first protocol, those not found first."""
    judged = evaluation.judged[evaluation.first]
    order: Sequence[int] = np.lexsort((-judged.nme, judged.found))[:WORST].tolist()
    tiles = []
    for i in order:
        face = judged.faces[i]
        image = load_image(face.path)
        image = perturb(image, face.points, evaluation.first, seed_of(face, evaluation.seed))
        found = bool(judged.found[i])
        said = f"{100 * judged.nme[i]:.2f} %" if found else "not found"
        lines = (said, f"{face.set_name}/{Path(face.image).name}")
        tiles.append(Tile(image, judged.truth[i], judged.points[i] if found else None, lines))
    done, encoded = cv2.imencode(".png", draw_sheet(tiles))
    if not done:
        raise FacemarkError("cannot encode the sheet of the worst faces")
    return np.asarray(encoded).tobytes()
