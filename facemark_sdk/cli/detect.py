"""`facemark detect`: photos in, drawn pictures and JSON lines out."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import tyro

from facemark_sdk.cli.console import UsageError, complain, write_whole
from facemark_sdk.detector import Detector
from facemark_sdk.draw import draw
from facemark_sdk.errors import FacemarkError
from facemark_sdk.image import Image, load_image
from facemark_sdk.result import Face

_arg = tyro.conf.arg


@tyro.conf.configure(tyro.conf.subcommand(name="detect"))
@dataclass(frozen=True)
class Detect:
    """Find faces and their landmarks in photos; draw them, write them as JSON, or both."""

    images: Annotated[tuple[Path, ...], tyro.conf.Positional, _arg(metavar="IMAGE...")]
    """Photos to look at."""

    output: Annotated[Path | None, _arg(aliases=["-o"], metavar="OUT")] = None
    """Where the drawn picture goes: a file for one photo, a folder, made if need be, else."""

    json: Annotated[Path | None, _arg(metavar="OUT.jsonl")] = None
    """Also write JSON lines: an object a photo, with image, width, height and faces."""

    model: Annotated[str | None, _arg(metavar="M")] = None
    """Landmark model: a bundled name (see `facemark models`), an ONNX file or an engine; by default
    pipnet_lite0_68_int8 on CPUs made for int8 (VNNI, AMX, ARM), else pipnet_lite0_68."""

    detector: Annotated[str | None, _arg(metavar="D")] = None
    """Face detector, likewise; by default retinaface_mnet025_int8 or retinaface_mnet025."""

    backend: Annotated[str, _arg(metavar="B")] = "auto"
    """What the networks run on: auto, cpu, cuda or tensorrt."""

    threads: Annotated[int | None, _arg(metavar="N")] = None
    """CPU threads of each network; by default the runtime decides."""

    score_threshold: Annotated[float | None, _arg(metavar="SCORE")] = None
    """Leave out faces that the detector scores lower, 0 to 1; by default the detector's own."""

    max_faces: Annotated[int | None, _arg(metavar="N")] = None
    """Keep only that many faces of each photo, the largest; by default all."""

    det_size: Annotated[int | None, _arg(metavar="N")] = None
    """Longer side of a photo as the detector sees it, in pixels; larger finds smaller faces and
    takes longer. By default the detector's own: RetinaFace models look at a small copy first, and
    only where it shows no face, a small one or a doubtful one at their own size."""

    def run(self) -> int:
        """Do it; 1 when a photo failed, after the others were done."""
        outputs = self._outputs()
        self._check_json(outputs)
        detector = Detector(
            self.model,
            self.detector,
            backend=self.backend,
            threads=self.threads,
            score_threshold=self.score_threshold,
            max_faces=self.max_faces,
            det_size=self.det_size,
        )
        records, failed = [], False
        try:
            for path, output in zip(self.images, outputs, strict=True):
                try:
                    records.append(_detect(detector, path, output))
                except FacemarkError as error:
                    complain(error)
                    failed = True
        finally:  # an interrupted run keeps what it has done
            if self.json is not None:
                lines = "".join(f"{line}\n" for line in records)
                write_whole(self.json, lines.encode(errors="backslashreplace"))
        return int(failed)

    def _check_json(self, outputs: Sequence[Path | None]) -> None:
        if self.json is None:
            return
        others = {path.resolve() for path in (*self.images, *outputs) if path is not None}
        if not self.json.name or self.json.is_dir() or self.json.resolve() in others:
            raise UsageError(f"--json must be a file of its own, got {str(self.json)!r}")
        folder = next(parent for parent in self.json.resolve().parents if parent.exists())
        if not os.access(folder, os.W_OK):
            raise FacemarkError(f"cannot write {str(self.json)!r}: {str(folder)!r} is read-only")

    def _outputs(self) -> Sequence[Path | None]:
        if not self.images:
            raise UsageError("no image given; use: facemark detect IMAGE... -o OUT")
        if self.output is None:
            return [None] * len(self.images)
        if len(self.images) == 1 and self.output.suffix and not self.output.is_dir():
            if not _is_writable(self.output):
                raise UsageError(
                    f"OpenCV cannot write {self.output.suffix!r} pictures; use .png or .jpg"
                )
            outputs = [self.output]
        elif self.output.is_file() or (_is_writable(self.output) and not self.output.is_dir()):
            raise UsageError(f"for several photos -o must be a folder, got {str(self.output)!r}")
        else:
            outputs = _names_in(self.output, self.images)
        inputs = {path.resolve() for path in self.images}
        for output in outputs:
            if output.resolve() in inputs:
                raise UsageError(f"{str(output)!r} would overwrite a photo; choose another OUT")
        return outputs


def _detect(detector: Detector, path: Path, output: Path | None) -> str:
    """Process one photo and say so; returns its JSON line."""
    image = load_image(path)
    faces = detector(image)
    said = {0: "no face", 1: "1 face"}.get(len(faces), f"{len(faces)} faces")
    if output is None:
        print(f"{path}: {said}")
    else:
        _write_picture(output, draw(image, faces))
        print(f"{path}: {said} -> {output}")
    return json.dumps(_record(path, image, faces), ensure_ascii=False)


def _record(path: Path, image: Image, faces: Sequence[Face]) -> dict[str, Any]:
    return {
        "image": str(path),
        "width": image.shape[1],
        "height": image.shape[0],
        "faces": [face.to_dict() for face in faces],
    }


def _names_in(folder: Path, images: Sequence[Path]) -> list[Path]:
    """A file in `folder` for each photo, with its name; photos of one name are numbered."""
    taken: set[str] = set()
    outputs = []
    for image in images:
        suffix = image.suffix if _is_writable(image) else ".png"
        name, number = f"{image.stem}{suffix}", 1
        while name.casefold() in taken:
            number += 1
            name = f"{image.stem}_{number}{suffix}"
        taken.add(name.casefold())
        outputs.append(folder / name)
    return outputs


def _is_writable(path: Path) -> bool:
    """Whether OpenCV has an encoder for the path's extension."""
    if not path.suffix or not path.suffix.isascii():
        return False
    try:
        return bool(cv2.haveImageWriter(f"x{path.suffix}"))  # other names can crash OpenCV 5
    except cv2.error:
        return False


def _write_picture(path: Path, picture: Image) -> None:
    try:
        done, encoded = cv2.imencode(path.suffix, picture)
    except cv2.error as error:
        raise FacemarkError(f"cannot encode {str(path)!r}: {error.err or error}") from None
    if not done:
        raise FacemarkError(f"cannot encode {str(path)!r} as a {path.suffix} picture")
    write_whole(path, np.asarray(encoded).tobytes())
