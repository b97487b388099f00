"""Detectors by name from insightface's model packs, through that project's own package."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from facemark_export.foreign.foreign_file import Preprocessing
from facemark_export.foreign.onnx_detector import LAYOUTS, PREPROCESSING
from facemark_sdk.errors import CheckpointError

SCHEME = "insightface:"
LICENCE = (
    "insightface's pretrained models: for non-commercial research only, whether downloaded "
    "automatically or by hand; see https://github.com/deepinsight/insightface"
)
"""From the README of the package."""
_SOURCE = re.compile(r"(?P<pack>\w[\w.-]*)(?:/(?P<file>\w[\w.-]*\.onnx))?", re.ASCII)
_DETECTION, _EMBEDDED = "detection", "embedded"
"""Words of a pack's manifest.json."""


@dataclass(frozen=True)
class ZooFile:
    """A detector of a pack.

    Attributes:
        path: The file.
        name: Pack and file, for the spec.
        preprocessing: What its publisher states.
    """

    path: Path
    name: str
    preprocessing: Preprocessing


def find_in_zoo(source: str, notice: Callable[[str], None]) -> ZooFile:
    """Find a detector, downloading its pack where it is not there (``~/.insightface/models``).

    Args:
        source: ``insightface:PACK`` or ``insightface:PACK/FILE.onnx``.
        notice: Told the licence before anything is downloaded or written.

    Raises:
        CheckpointError: The package is missing, the pack cannot be had, or has no such detector.
    """
    named = _SOURCE.fullmatch(source.removeprefix(SCHEME))
    if named is None:
        raise CheckpointError(
            f"{source!r} must be insightface:PACK or insightface:PACK/FILE.onnx, for example "
            "insightface:buffalo_l or insightface:buffalo_l/det_10g.onnx"
        )
    zoo, utils = _package()
    notice(LICENCE)
    pack, asked = named["pack"], named["file"]
    try:
        folder = Path(utils.ensure_available("models", pack))
        if zoo.has_model_package_manifest(folder):
            path, preprocessing = _by_manifest(zoo, folder)
        else:
            path, preprocessing = _by_outputs(folder, asked), PREPROCESSING
    # what the package raises: no such pack or network, a damaged archive, a bad manifest
    except (OSError, RuntimeError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"insightface's pack {pack!r} cannot be had: {error}") from None
    if asked not in (None, path.name):
        raise CheckpointError(f"the detector of insightface's pack {pack!r} is {path.name}")
    return ZooFile(path, f"{pack}_{path.stem}", preprocessing)


def _package() -> tuple[Any, Any]:
    """The package's modules for model packs and for downloads."""
    try:
        from insightface import model_zoo, utils
        from insightface.model_zoo import load_model_package  # noqa: F401  since version 2
    except ImportError as error:
        raise CheckpointError(
            f"models of insightface by name need its package, version 2 or newer ({error}): "
            'pip install "facemark-sdk[insightface]"'
        ) from None
    return model_zoo, utils


def _by_manifest(zoo: Any, folder: Path) -> tuple[Path, Preprocessing]:
    """The detector that the pack's manifest names, verified, and how it is fed."""
    task = zoo.load_model_package(folder).verify_task(_DETECTION)
    stated = task.metadata["preprocessing"]
    mean, std = (0.0, 1.0) if stated == _EMBEDDED else (stated["mean"], stated["std"])
    return Path(task.path), Preprocessing(mean=(mean,) * 3, std=(std,) * 3)


def _by_outputs(folder: Path, asked: str | None) -> Path:
    """The file asked for, or the only one with as many outputs as a detector has."""
    paths = sorted(folder.rglob("*.onnx"))
    named = [path for path in paths if path.name == asked]
    found = named or [path for path in paths if _outputs(path) in LAYOUTS]
    if len(found) == 1 and (named or asked is None):
        return found[0]
    listed = ", ".join(path.name for path in paths) or "no .onnx file"
    if asked is not None:
        raise CheckpointError(f"{folder} has no {asked}; it has {listed}")
    raise CheckpointError(
        f"{folder} has {len(found)} files with a detector's outputs, of {listed}; "
        + (
            "choose one: insightface:PACK/FILE.onnx"
            if found
            else "delete the folder to have the pack downloaded again, if that is wrong"
        )
    )


def _outputs(path: Path) -> int:
    try:
        return len(onnx.load(path, load_external_data=False).graph.output)
    except DecodeError:
        return 0
