"""From another project's ONNX file to a proven one that describes itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from facemark_export.foreign.foreign_file import ForeignFile, open_foreign
from facemark_export.foreign.insightface_zoo import LICENCE, SCHEME, find_in_zoo
from facemark_export.foreign.onnx_detector import LAYOUTS, PREPROCESSING, read_detector
from facemark_export.foreign.proof import (
    FREE_BATCH,
    prove,
    structured_images,
    takes_any_batch,
)
from facemark_export.foreign.reading import Reading
from facemark_export.foreign.torchlm_pipnet import OUTPUTS, read_pipnet
from facemark_export.foreign.wrap import wrap
from facemark_export.parity import ParityReport
from facemark_sdk.errors import CheckpointError
from facemark_sdk.files import replace_file


@dataclass(frozen=True)
class ImportReport:
    """What a foreign file was, and the proof that the written one computes the same.

    Attributes:
        source: The foreign file's name.
        kind: What it was, in words.
        batch: Images that the written file takes at once; None for any number.
        check: Of the written file against the foreign one.
    """

    source: str
    kind: str
    batch: int | None
    check: ParityReport

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        return {
            "source": self.source,
            "kind": self.kind,
            "batch": self.batch,
            **self.check.to_dict(),
        }


def import_onnx(
    source: str | Path,
    out: Path,
    *,
    name: str | None = None,
    meanface: Path | None = None,
    layout: str | None = None,
    det_size: int | None = None,
    score_threshold: float | None = None,
    notice: Callable[[str], None],
) -> ImportReport:
    """Write a foreign ONNX file anew, with our input and a spec, and a report beside it.

    Read are detectors in insightface's layouts (COMPAT 5.1) and PIPNets of torchlm (COMPAT 1.1).

    Args:
        source: The file, or ``insightface:PACK[/FILE.onnx]`` (extra: insightface).
        out: The ONNX file; ``OUT.report.json`` is written beside it.
        name: The model's name in its spec; the file's when None.
        meanface: For PIPNet: the mean face of its training set.
        layout: For PIPNet: the landmarks' layout, where their number does not settle it.
        det_size: For detectors that take any size: the canvas' side; 640 when None.
        score_threshold: For detectors; 0.5 when None.
        notice: Told what must be known before anything is written: a licence.

    Raises:
        CheckpointError: The file cannot be read, is of no known kind, an option is missing, is for
            another kind or does not fit, or the written file would compute something else.
        ModelError: ONNX Runtime cannot load the file.
        LayoutError: The layout is unknown.
        FacemarkError: `score_threshold` is out of range.
    """
    zoo = find_in_zoo(str(source), notice) if str(source).startswith(SCHEME) else None
    file = open_foreign(Path(source) if zoo is None else zoo.path)
    if out.exists() and out.samefile(file.path):
        raise CheckpointError(f"{out} is the source itself; choose another file to write")
    if set(file.outputs) == set(OUTPUTS):
        _refuse("detectors", det_size=det_size, score_threshold=score_threshold)
        reading = read_pipnet(file, name=name, meanface=meanface, layout=layout)
    elif len(file.outputs) in LAYOUTS:
        _refuse("PIPNets", meanface=meanface, layout=layout)
        reading = read_detector(
            file,
            name=name or (zoo and zoo.name),
            det_size=det_size,
            score_threshold=score_threshold,
            licence=LICENCE if zoo else None,
            preprocessing=zoo.preprocessing if zoo else PREPROCESSING,
        )
    else:
        raise CheckpointError(
            f"{file.path} has {len(file.outputs)} outputs: {file.found()}; known are "
            f"{', '.join(map(str, LAYOUTS))} outputs of insightface's detectors, or "
            f"{', '.join(OUTPUTS)} of torchlm's PIPNets"
        )
    return _write(file, reading, out)


def _write(file: ForeignFile, reading: Reading, out: Path) -> ImportReport:
    images = structured_images(reading.spec)
    batch, model = _wrapped(file, reading, images[0][:FREE_BATCH])
    reports: list[ImportReport] = []

    def write(temporary: Path) -> None:
        onnx.save(model, temporary)
        found = prove(file, reading, temporary, batch, images)
        if not found.passed:
            raise CheckpointError(
                f"{file.path} and the written file: {found.in_words()}; {out} is not written"
            )
        reports.append(ImportReport(file.path.name, reading.kind, batch, found))

    out.parent.mkdir(parents=True, exist_ok=True)
    replace_file(out, write)
    text = json.dumps({"model": out.name, **reports[0].to_dict()}, indent=2) + "\n"
    replace_file(out.with_name(f"{out.name}.report.json"), lambda t: t.write_text(text))
    return reports[0]


def _wrapped(
    file: ForeignFile, reading: Reading, images: NDArray[np.uint8]
) -> tuple[int | None, onnx.ModelProto]:
    """The wrapped graph, its batch free where it really is, and what the batch is."""
    if not reading.one_by_one:
        free = wrap(file, reading, None)
        if takes_any_batch(file, reading, free, images):
            return None, free
    batch = file.batch or 1
    if reading.spec.task == "detection" and batch > 1:
        raise CheckpointError(
            f"{file.path} takes {batch} images at once only, a detector here must take one; "
            "export it again with a batch of 1 or a dynamic one"
        )
    return batch, wrap(file, reading, batch)


def _refuse(kind: str, **options: object) -> None:
    for name, value in options.items():
        if value is not None:
            raise CheckpointError(f"{name} is for {kind}, which this file is not")
