"""An ONNX file as another project wrote it: what it takes, what it gives, how it is run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from facemark_sdk.backends import Backend, create_backend
from facemark_sdk.errors import BackendError, CheckpointError
from facemark_sdk.files import sha256_of
from facemark_sdk.spec import METADATA_KEY, Precision

Floats = NDArray[np.float32]

LEAST_OPSET = 7
"""The oldest that ONNX Runtime runs; also the first whose arithmetic broadcasts as numpy does."""
_INTEGER_OPS = {"QLinearConv", "QLinearMatMul", "ConvInteger", "QuantizeLinear", "DequantizeLinear"}


@dataclass(frozen=True)
class Preprocessing:
    """What a network's authors do to RGB pixels 0..255: (v / divisor - mean) / std.

    Attributes:
        mean: Per channel, red first.
        std: Likewise.
        divisor: Applied before, in a step of its own, so that rounding is theirs.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    divisor: float = 1.0

    def __call__(self, images: NDArray[np.uint8]) -> Floats:
        """BGR (N, H, W, 3) uint8 -> RGB (N, 3, H, W) float32."""
        rgb = images[..., ::-1].astype(np.float32) / np.float32(self.divisor)
        normal = (rgb - np.float32(self.mean)) / np.float32(self.std)
        return np.ascontiguousarray(normal.transpose(0, 3, 1, 2))


@dataclass(frozen=True)
class ForeignFile:
    """A foreign file, loaded.

    Attributes:
        path: The file.
        model: Its graph.
        backend: The same in ONNX Runtime.
        sha256: Of the file.
        batch: Images it takes at once; None for any number.
        sides: Height and width of its input; None for any.
    """

    path: Path
    model: onnx.ModelProto
    backend: Backend
    sha256: str
    batch: int | None
    sides: tuple[int, int] | None

    @property
    def input(self) -> str:
        """The input's name."""
        return self.backend.inputs[0].name

    @property
    def outputs(self) -> tuple[str, ...]:
        """The outputs' names, in order."""
        return tuple(tensor.name for tensor in self.backend.outputs)

    @property
    def precision(self) -> Precision:
        """Of the weights."""
        if any(node.op_type in _INTEGER_OPS for node in self.model.graph.node):
            return "int8"
        kinds = {tensor.data_type for tensor in self.model.graph.initializer}
        return "fp16" if onnx.TensorProto.FLOAT16 in kinds else "fp32"

    def run(self, images: Floats) -> list[Floats]:
        """The outputs for images (N, 3, H, W), one by one, or so many as it takes at once.

        Raises:
            CheckpointError: The file does not run on images of this size.
        """
        step = self.batch or 1
        try:
            parts = [
                list(self.backend.run({self.input: images[i : i + step]}).values())
                for i in range(0, len(images), step)
            ]
        except BackendError as error:
            raise CheckpointError(
                f"{self.path} does not run on images of {images.shape[3]} x {images.shape[2]}: "
                f"{error}"
            ) from None
        return [np.concatenate(rows) for rows in zip(*parts, strict=True)]

    def found(self, shapes: Sequence[tuple[int | str | None, ...]] | None = None) -> str:
        """The outputs in words, with their shapes as declared, or with these."""
        declared = [tensor.shape for tensor in self.backend.outputs]
        return ", ".join(
            f"{name} ({' x '.join(map(str, shape))})"
            for name, shape in zip(self.outputs, shapes or declared, strict=True)
        )


def open_foreign(path: Path) -> ForeignFile:
    """Load a file that takes one float image and has no facemark spec yet.

    Raises:
        CheckpointError: No such file, no ONNX model or one of a very old version, with a spec
            already, or with another input or outputs.
        ModelError: ONNX Runtime cannot load it.
    """
    try:
        model = onnx.load(path)
        sha256 = sha256_of(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None
    except (DecodeError, ValueError, onnx.checker.ValidationError) as error:
        raise CheckpointError(f"{path} is damaged or no ONNX file: {error}") from None
    opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)
    if not model.graph.node:
        raise CheckpointError(f"{path} is damaged or no ONNX file: it holds no graph")
    if opset < LEAST_OPSET:
        raise CheckpointError(
            f"{path} has ONNX opset {opset}, ONNX Runtime runs {LEAST_OPSET} and later; export it "
            "again with a newer one"
        )
    if any(entry.key == METADATA_KEY for entry in model.metadata_props):
        raise CheckpointError(
            f"{path} carries a facemark spec already; use it as it is, see `facemark info {path}`"
        )
    backend = create_backend("cpu", path)
    if len(backend.inputs) != 1:
        names = ", ".join(tensor.name for tensor in backend.inputs)
        raise CheckpointError(f"{path} must have one input, an image; it has {names or 'none'}")
    (tensor,) = backend.inputs
    shape = tensor.shape
    if tensor.dtype != "float" or len(shape) != 4 or (isinstance(shape[1], int) and shape[1] != 3):
        raise CheckpointError(
            f"{path}: input {tensor.name!r} must be float (N, 3, H, W), "
            f"it is {tensor.dtype} ({', '.join(map(str, shape))})"
        )
    others = {tensor.dtype for tensor in backend.outputs} - {"float"}
    if others:
        raise CheckpointError(f"{path}: outputs must be float, some are {', '.join(others)}")
    batch, _, height, width = (side if isinstance(side, int) else None for side in shape)
    if (height is None) != (width is None):
        raise CheckpointError(
            f"{path}: height and width of input {tensor.name!r} must both be fixed or both "
            f"be free, they are {shape[2]} and {shape[3]}"
        )
    sides = None if height is None or width is None else (height, width)
    return ForeignFile(path, model, backend, sha256, batch, sides)
