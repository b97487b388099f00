"""Engines that were built from ONNX files before, on disk."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

from facemark_sdk._version import __version__
from facemark_sdk.backends.cuda import open_cuda
from facemark_sdk.backends.tensorrt.api import here, import_tensorrt
from facemark_sdk.backends.tensorrt.build import build_engine
from facemark_sdk.backends.tensorrt.engine_file import (
    FORMAT,
    Built,
    EngineRecord,
    read_engine,
    write_engine,
)
from facemark_sdk.errors import ModelError
from facemark_sdk.files import replace_file, sha256_of

_KEY_LETTERS = 24

_log = logging.getLogger("facemark")
_building = threading.Lock()


def cache_folder() -> Path:
    """``facemark/engines`` in the user's cache folder, by the habits of the system."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "facemark" / "engines"


def cached_name(model: Path, onnx_sha256: str, built: Built) -> str:
    """The file's name: one for each model file, TensorRT, GPU, platform and facemark-sdk."""
    key = json.dumps([FORMAT, __version__, onnx_sha256, asdict(built)])
    return f"{model.stem}-{hashlib.sha256(key.encode()).hexdigest()[:_KEY_LETTERS]}.engine"


@dataclass(frozen=True, slots=True)
class Cached:
    """The engine of an ONNX file.

    Attributes:
        record: What it is.
        plan: The engine itself.
        file: Where it was read from; None where it was built now.
    """

    record: EngineRecord
    plan: bytes
    file: Path | None


def cached_engine(model: Path, folder: Path | None, *, refused: bytes | None = None) -> Cached:
    """The engine of an ONNX file for this machine, from the cache or built now and kept.

    Args:
        model: The ONNX file.
        folder: Of the cache; None for `cache_folder`.
        refused: A plan that does not load, which is built again where it is still the cache's.

    Raises:
        ModelError: The file is damaged or without a spec.
        BackendError: Something that it takes is missing, or TensorRT cannot build it.
    """
    built = here(import_tensorrt(), open_cuda().gpu)
    sha256 = sha256_of(model)
    path = (folder or cache_folder()) / cached_name(model, sha256, built)
    with _building:  # two threads that load one model build it once
        if path.is_file():
            try:
                record, plan = read_engine(path)
            except ModelError as error:
                _log.warning("building it again: %s", error)
            else:
                if plan != refused:
                    return Cached(record, plan, path)
        _log.info("building a TensorRT engine from %s, which takes a while", model.name)
        record, plan = build_engine(model)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, lambda temporary: write_engine(temporary, record, plan))
        except OSError as error:
            _log.warning("the engine is not kept, as %s cannot be written: %s", path, error)
        else:
            _log.info("kept the engine as %s", path)
    return Cached(record, plan, None)
