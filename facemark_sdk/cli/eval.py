"""`facemark eval`: how good a landmark model is on annotated photos."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import track
from rich.table import Table

from facemark_sdk.cli.console import UsageError, write_whole
from facemark_sdk.detect.face_detector import FaceDetector
from facemark_sdk.errors import FacemarkError
from facemark_sdk.evaluation import (
    AnnotatedFace,
    BoxesOf,
    Norm,
    annotated_boxes,
    check_norm,
    common_layout,
    detected_boxes,
    judge,
    predict_faces,
    read_faces,
    tight_boxes,
    with_subset,
)
from facemark_sdk.evaluation.plots import require_matplotlib
from facemark_sdk.evaluation.report import (
    HEADINGS,
    KEY,
    Evaluation,
    pictures,
    record,
    table,
    table_page,
)
from facemark_sdk.landmark_model import LandmarkModel
from facemark_sdk.layouts import Layout, get_layout
from facemark_sdk.metrics import Normaliser
from facemark_sdk.models import DEFAULT_DETECTOR, resolve_model
from facemark_sdk.robustness import Protocol

_arg = tyro.conf.arg


@tyro.conf.configure(tyro.conf.subcommand(name="eval"))
@dataclass(frozen=True)
class Eval:
    """Measure a landmark model on annotated photos.

    NME, failure rates by face (FR) and by landmark, and the area under the error curve (AUC), by
    set and by the subsets that the annotations name.
    """

    model: Annotated[str, tyro.conf.Positional, _arg(metavar="MODEL")]
    """Landmark model: a bundled name (see `facemark models`) or an ONNX file."""

    data: Annotated[tuple[Path, ...], tyro.conf.Positional, _arg(metavar="DATA...")]
    """Folders with an annotations.jsonl: image, points, layout, and box, subsets, norm if known."""

    report: Annotated[Path | None, _arg(metavar="DIR")] = None
    """Write table.md, report.json, ced.png, landmarks.png and worst.png here, a folder, made if
    need be."""

    boxes: Literal["detector", "points", "annotated"] = "detector"
    """Where boxes come from: the detection that fits the annotated points best, the tight box of
    these points, or the annotations. A model's crop rule is made for boxes of a detector."""

    layout: Annotated[str | None, _arg(metavar="L")] = None
    """Landmark layout to measure in, if not the annotations' own: points in common, to which the
    model's and the annotated ones are mapped. Sets of several layouts then go together."""

    detector: Annotated[str, _arg(metavar="D")] = DEFAULT_DETECTOR
    """Face detector: a bundled name or an ONNX file; by default one for all CPUs, so that figures
    of one can be compared with those of another."""

    norm: Normaliser = "inter-ocular"
    """What errors are divided by: the distance of the outer eye corners or of the eyes' centres, a
    box's sqrt(width x height) or diagonal, the photo's width and height, or, given, the number that
    the annotations have as norm."""

    norm_box: Literal["points", "annotated"] = "points"
    """For --norm box and diagonal, whose box: the tight one of the true points or the annotated."""

    protocol: Annotated[tuple[Protocol, ...], tyro.conf.UseAppendAction] = ()
    """What is done to the photos, clean if not given: a black ellipse or motion blur on each face.
    The boxes stay those of the clean photo."""

    subset: Annotated[tuple[Path, ...], tyro.conf.UseAppendAction, _arg(metavar="FILE")] = ()
    """A subset with figures of its own: a file with a photo's name a line."""

    seed: Annotated[int, _arg(metavar="N")] = 0
    """Of the protocols' random numbers; the same seed gives the same photos."""

    backend: Annotated[str, _arg(metavar="B")] = "auto"
    """What the networks run on: auto, cpu, cuda or tensorrt."""

    threads: Annotated[int | None, _arg(metavar="N")] = None
    """CPU threads of each network; by default the runtime decides."""

    def run(self) -> int:
        """Do it and print the table."""
        if not self.data:
            raise UsageError("no data given; use: facemark eval MODEL DATA...")
        if self.seed < 0:
            raise UsageError(f"--seed must be 0 or more, got {self.seed}")
        self._check_report()
        faces = self._faces()
        norm = Norm(self.norm, self.norm_box)
        layout = common_layout(faces) if self.layout is None else get_layout(self.layout)
        check_norm(faces, norm, layout)
        evaluation = self._evaluate(faces, norm, layout)
        _show(evaluation)
        if self.report is not None:
            content = json.dumps(record(evaluation), indent=2, ensure_ascii=False) + "\n"
            for name, text in (("table.md", table_page(evaluation)), ("report.json", content)):
                write_whole(self.report / name, text.encode(errors="backslashreplace"))
            for name, picture in pictures(evaluation).items():
                write_whole(self.report / name, picture)
            print(f"report -> {self.report}")
        return 0

    def _check_report(self) -> None:
        """Fail before the work, not after it."""
        if self.report is None:
            return
        require_matplotlib()
        there = next(
            path for path in (self.report, *self.report.resolve().parents) if path.exists()
        )
        if not there.is_dir() or not os.access(there, os.W_OK):
            why = "is read-only" if there.is_dir() else "is no folder"
            raise FacemarkError(f"cannot write to {str(self.report)!r}: {str(there)!r} {why}")

    def _faces(self) -> list[AnnotatedFace]:
        folders = Counter(folder.resolve().name for folder in self.data)
        faces = []
        for folder in self.data:
            name = folder.resolve().name
            faces += read_faces(folder, name if folders[name] == 1 else str(folder))
        for path in self.subset:
            faces = with_subset(faces, path)
        return faces

    def _evaluate(self, faces: list[AnnotatedFace], norm: Norm, layout: Layout) -> Evaluation:
        model = LandmarkModel(self.model, backend=self.backend, threads=self.threads)
        boxes_of, said = self._boxes()
        protocols = tuple(dict.fromkeys(self.protocol)) or ("clean",)
        run = predict_faces(
            model,
            faces,
            boxes_of,
            layout=layout,
            protocols=protocols,
            seed=self.seed,
        )
        console = Console(stderr=True)
        silent = not console.is_terminal
        predictions = list(track(run, model.spec.name, len(faces), console=console, disable=silent))
        if all(prediction.points is None for prediction in predictions):
            raise FacemarkError(
                f"{said} found none of the {len(faces)} faces, so nothing is known of the "
                "landmarks; look at the photos, or take --boxes points"
            )
        return Evaluation(
            model=model.spec.name,
            model_file=resolve_model(self.model),
            model_layout=model.layout.name,
            backend=model.backend,
            boxes=said,
            norm=norm,
            seed=self.seed,
            judged={name: judge(predictions, name, norm, layout) for name in protocols},
        )

    def _boxes(self) -> tuple[BoxesOf, str]:
        if self.boxes == "points":
            return tight_boxes, "the true points"
        if self.boxes == "annotated":
            return annotated_boxes, "the annotations"
        detector = FaceDetector(self.detector, backend=self.backend, threads=self.threads)
        return detected_boxes(detector), f"detector {detector.spec.name}"


def _show(evaluation: Evaluation) -> None:
    console = Console(markup=False, highlight=False)
    shown = Table(box=SIMPLE, pad_edge=False, collapse_padding=True)
    shown.add_column(evaluation.model, overflow="fold", min_width=16)
    for heading in HEADINGS:
        shown.add_column(heading.replace(" ", "\n"), justify="right", no_wrap=True)
    for rows in table(evaluation):
        for row in rows:
            shown.add_row(*row)
        shown.add_section()
    console.print(shown)
    for line in (KEY, evaluation.said()):
        console.print(line, soft_wrap=not sys.stdout.isatty())
