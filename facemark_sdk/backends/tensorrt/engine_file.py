"""Engine files: a TensorRT plan behind a record of what it is and where it runs.

Little-endian: 8 bytes of magic, 4 of format version, 4 of the record's length, the record's
SHA-256, the record (JSON), the plan. The record holds the plan's length and SHA-256.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from facemark_sdk.backends.base import TensorInfo
from facemark_sdk.backends.tensorrt.profile import Profile
from facemark_sdk.errors import FacemarkError, ModelError
from facemark_sdk.spec import METADATA_KEY

MAGIC = b"FACEMARK"
FORMAT = 1

_HEAD = struct.Struct("<8sII32s")
_NUMBERS = "biuf"
"""numpy's kinds of element types that a tensor may have."""


@dataclass(frozen=True, slots=True)
class Built:
    """On what an engine was built, which is on what it runs.

    Attributes:
        tensorrt: TensorRT's version, all four numbers.
        gpu: The GPU's name.
        capability: Its compute capability, as ``9.0``.
        platform: Operating system and processor, as ``Linux x86_64``.
    """

    tensorrt: str
    gpu: str
    capability: str
    platform: str


@dataclass(frozen=True, slots=True)
class EngineRecord:
    """All that an engine file says of itself; a `Described` model file.

    Attributes:
        spec: The spec of the ONNX file that it was built from, as JSON.
        inputs: The ONNX file's, with names for the sides that may vary.
        outputs: Likewise, in the graph's order.
        profile: The shapes that it takes.
        built: On what.
        onnx_sha256: Of the ONNX file.
    """

    spec: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    profile: Profile
    built: Built
    onnx_sha256: str

    @property
    def metadata(self) -> Mapping[str, str]:
        """The spec, under the key that it has in an ONNX file."""
        return {METADATA_KEY: self.spec}


def is_engine(path: Path) -> bool:
    """Whether a file begins as an engine file does; what cannot be read is none."""
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def write_engine(path: Path, record: EngineRecord, plan: bytes) -> None:
    """Write an engine file; the caller renames."""
    content = {
        **dataclasses.asdict(record),
        "spec": json.loads(record.spec),
        "profile": record.profile.to_dict(),
        "plan_bytes": len(plan),
        "plan_sha256": hashlib.sha256(plan).hexdigest(),
    }
    text = json.dumps(content, separators=(",", ":")).encode()
    with path.open("wb") as file:
        file.write(_HEAD.pack(MAGIC, FORMAT, len(text), hashlib.sha256(text).digest()))
        file.write(text)
        file.write(plan)


def read_record(path: Path) -> EngineRecord:
    """What an engine file says of itself; of the plan only the length is checked.

    Raises:
        ModelError: No engine file, of a newer format, truncated or damaged.
    """
    with _opened(path) as file:
        return _read(path, file)[0]


def read_engine(path: Path) -> tuple[EngineRecord, bytes]:
    """An engine file's record and plan, which is what was written.

    Raises:
        ModelError: No engine file, of a newer format, truncated or damaged.
    """
    with _opened(path) as file:
        record, sha256 = _read(path, file)
        plan = file.read()
    if hashlib.sha256(plan).hexdigest() != sha256:
        raise _damaged(path, "its plan's checksum does not match")
    return record, plan


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise ModelError(f"engine {str(path)!r} cannot be read: {error.strerror}") from None


def _read(path: Path, file: BinaryIO) -> tuple[EngineRecord, str]:
    """The record and the plan's SHA-256; the file then stands at the plan's start."""
    size = path.stat().st_size
    head = file.read(_HEAD.size)
    if not head.startswith(MAGIC):
        raise ModelError(
            f"{str(path)!r} is no facemark engine (a plan of trtexec has no spec); "
            "facemark-export --engine makes one"
        )
    if len(head) < _HEAD.size:
        raise _damaged(path, "it is truncated")
    _, version, length, digest = _HEAD.unpack(head)
    if version != FORMAT:
        raise ModelError(
            f"engine {str(path)!r} has format {version}, this version of facemark-sdk reads "
            f"{FORMAT}; use the facemark-sdk that wrote it, or build it again"
        )
    if size < _HEAD.size + length:
        raise _damaged(path, "it is truncated")
    text = file.read(length)
    if hashlib.sha256(text).digest() != digest:
        raise _damaged(path, "its record's checksum does not match")
    try:
        content = json.loads(text)
        record, plan_bytes, sha256 = _record(content)
    except (ValueError, KeyError, TypeError, AttributeError, FacemarkError) as error:
        raise _damaged(path, f"its record is not readable ({error})") from None
    if size != _HEAD.size + length + plan_bytes:
        raise _damaged(path, f"it is truncated or too long: {size} bytes")
    return record, sha256


def _record(content: Mapping[str, Any]) -> tuple[EngineRecord, int, str]:
    """The record, the plan's length and its SHA-256; ValueError, TypeError for what is none."""
    plan_bytes, texts = content["plan_bytes"], (content["plan_sha256"], content["onnx_sha256"])
    if type(plan_bytes) is not int:
        raise TypeError(f"plan_bytes must be a whole number, is {plan_bytes!r}")
    if not all(isinstance(text, str) for text in (*texts, *content["built"].values())):
        raise TypeError("plan_sha256, onnx_sha256 and what is in built must be text")
    if len(content["inputs"]) != 1 or not content["outputs"]:
        raise ValueError("inputs must be one image, outputs one or more")
    record = EngineRecord(
        spec=json.dumps(content["spec"], separators=(",", ":"), sort_keys=True),
        inputs=_tensors(content["inputs"]),
        outputs=_tensors(content["outputs"]),
        profile=Profile.from_dict(content["profile"]),
        built=Built(**content["built"]),
        onnx_sha256=content["onnx_sha256"],
    )
    return record, plan_bytes, content["plan_sha256"]


def _tensors(entries: list[Mapping[str, Any]]) -> tuple[TensorInfo, ...]:
    return tuple(_tensor(entry["name"], entry["dtype"], entry["shape"]) for entry in entries)


def _tensor(name: object, dtype: object, shape: Sequence[object]) -> TensorInfo:
    if not (isinstance(name, str) and isinstance(dtype, str)):
        raise TypeError(f"a tensor's name and dtype must be text, are {name!r} and {dtype!r}")
    sides = tuple(side for side in shape if side is None or type(side) in (int, str))
    if len(sides) != len(shape):
        raise TypeError(f"the shape of {name!r} must be whole numbers and names, is {shape!r}")
    tensor = TensorInfo(name, dtype, cast("tuple[int | str | None, ...]", sides))
    if tensor.numpy_dtype.kind not in _NUMBERS:  # numpy's TypeError where it does not know it
        raise TypeError(f"the dtype of {name!r} must be one of numbers, is {dtype!r}")
    return tensor


def _damaged(path: Path, what: str) -> ModelError:
    return ModelError(f"engine {str(path)!r} is damaged: {what}; build it again from its ONNX file")
