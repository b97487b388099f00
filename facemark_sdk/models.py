"""Find model files: bundled ones by name, any other by path; open them with their spec."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path
from typing import TypeAlias

from facemark_sdk.backends import (
    Backend,
    Described,
    RuntimeOptions,
    create_backend,
    may_use_cuda,
    sums_int8_exactly,
)
from facemark_sdk.errors import ModelError
from facemark_sdk.spec import METADATA_KEY, ModelSpec, Task

ModelName: TypeAlias = "str | os.PathLike[str]"
"""A bundled model's name or the path of a model file."""

BUNDLE = "facemark_models"
MODEL_FILE = "model.onnx"

DEFAULT_LANDMARKS, DEFAULT_LANDMARKS_CPU = "pipnet_lite0_68", "pipnet_lite0_68_int8"
"""The same trunk; int8 is for CPUs, its card says how much faster and less exact."""
DEFAULT_DETECTOR, DEFAULT_DETECTOR_CPU = "retinaface_mnet025", "retinaface_mnet025_int8"
"""The same network, likewise."""


def list_models() -> list[str]:
    """Names of the models that ship with the package, in alphabetical order."""
    root = _bundle()
    return [] if root is None else sorted(path.parent.name for path in root.glob(f"*/{MODEL_FILE}"))


def resolve_model(name_or_path: ModelName) -> Path:
    """The file of a bundled model, or the path itself when it is a file.

    Raises:
        ModelError: Neither a bundled model nor a file.
    """
    bundled = list_models()
    root = _bundle()
    if root is not None and name_or_path in bundled:
        return root / os.fspath(name_or_path) / MODEL_FILE
    try:
        path = Path(name_or_path)
        if path.is_file():
            return path
    except (TypeError, ValueError, OSError):
        pass  # not a path, too long, or with a zero byte: answered like any other unknown name
    raise ModelError(
        f"no model {_shown(name_or_path)}: it is neither a file nor a bundled model; "
        f"bundled models: {', '.join(bundled) or 'none'}"
    )


def default_landmarks(backend: str) -> str:
    """Name of the landmark model that a backend runs where none is chosen: int8 where it is fast.

    Args:
        backend: As for `create_backend`; ``auto`` is a GPU's where ONNX Runtime is built for one.

    Raises:
        BackendError: ONNX Runtime is not installed.
    """
    return DEFAULT_LANDMARKS_CPU if _is_fast_in_int8(backend) else DEFAULT_LANDMARKS


def default_detector(backend: str) -> str:
    """Name of the face detector that a backend runs where none is chosen, as `default_landmarks`.

    Raises:
        BackendError: ONNX Runtime is not installed.
    """
    return DEFAULT_DETECTOR_CPU if _is_fast_in_int8(backend) else DEFAULT_DETECTOR


def _is_fast_in_int8(backend: str) -> bool:
    on_cpu = backend == "cpu" or (backend == "auto" and not may_use_cuda())
    return on_cpu and sums_int8_exactly()


def read_spec(described: Described, path: Path) -> ModelSpec:
    """What the model file says about itself.

    Args:
        described: The file, loaded (`create_backend`) or only read (`describe_file`).
        path: For messages.

    Raises:
        ModelError: It says nothing, or nothing that this version can read.
    """
    record = described.metadata.get(METADATA_KEY)
    if record is None:
        raise ModelError(
            f"model {str(path)!r} has no facemark spec in its metadata, so its input and outputs "
            "are unknown; facemark-export adds one: --ckpt makes the file from its checkpoint, "
            "--onnx from another project's ONNX file"
        )
    try:
        return ModelSpec.from_json(record)
    except ModelError as error:
        raise ModelError(f"model {str(path)!r}: {error}") from None


def open_model(
    name_or_path: ModelName,
    *,
    task: Task,
    backend: str,
    threads: int | None,
    options: RuntimeOptions | None = None,
) -> tuple[Backend, ModelSpec]:
    """Load a model for a task; `backend`, `threads` and `options` are `create_backend`'s.

    Raises:
        ModelError: Not found, damaged, without a spec, or for another task.
        BackendError: The runtime is not installed or does not start.
    """
    path = resolve_model(name_or_path)
    loaded = create_backend(backend, path, threads, options)
    spec = read_spec(loaded, path)
    if spec.task != task:
        raise ModelError(
            f"model {spec.name!r} is for {spec.task}, a model for {task} is wanted here"
        )
    return loaded, spec


def check_outputs(backend: Backend, spec: ModelSpec, needed: tuple[str, ...]) -> None:
    """See that the graph has the outputs that the spec's decoder reads.

    Raises:
        ModelError: One is missing.
    """
    there = [tensor.name for tensor in backend.outputs]
    missing = [name for name in needed if name not in there]
    if missing:
        raise ModelError(
            f"model {spec.name!r}: decoder {spec.decoder!r} needs the outputs {', '.join(needed)}, "
            f"the graph has {', '.join(there)}; export the model again"
        )


def _bundle() -> Path | None:
    try:
        return Path(str(resources.files(BUNDLE)))
    except ModuleNotFoundError:
        return None


def _shown(name_or_path: object) -> str:
    return repr(os.fspath(name_or_path) if isinstance(name_or_path, os.PathLike) else name_or_path)
