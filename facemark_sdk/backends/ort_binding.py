"""ONNX Runtime with inputs and outputs that stay on the device from run to run (IO binding)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from facemark_sdk.backends.base import TensorInfo, check_inputs
from facemark_sdk.backends.pool import Pool

MAX_SHAPES = 8
"""Shapes of the inputs whose buffers a thread keeps; the one unused for longest goes first."""

Arrays = dict[str, NDArray[Any]]
Staging = Callable[[int], NDArray[np.uint8]]


class BoundSession:
    """A session run through IO bindings, each with buffers for one shape of the inputs."""

    def __init__(
        self,
        session: ort.InferenceSession,
        inputs: tuple[TensorInfo, ...],
        *,
        name: str,
        device: str,
        staging: Staging | None,
    ) -> None:
        """Prepare; buffers come with the first run of each shape.

        Args:
            session: Whose provider's memory is `device`.
            inputs: What it takes.
            name: The backend's, for errors.
            device: ``cuda``, or ``cpu``, which computes the same.
            staging: Gives so many bytes of page-locked memory, through which inputs go to the
                device; None copies them from where they are.
        """
        self._session, self._inputs, self._name = session, inputs, name
        self._device, self._staging = device, staging
        self._pool: Pool[OrderedDict[tuple[Any, ...], _Binding]] = Pool(OrderedDict)

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """Run once; several threads may at the same time.

        Raises:
            BackendError: An input has the wrong name, type or shape.
        """
        arrays = check_inputs(self._name, inputs, self._inputs)
        shapes = tuple(arrays[tensor.name].shape for tensor in self._inputs)
        with self._pool.borrow() as bindings:
            binding = bindings.pop(shapes, None)
            if binding is None:
                binding = _Binding(self._session, arrays, self._device, self._staging)
            found = binding.run(arrays)
            bindings[shapes] = binding
            while len(bindings) > MAX_SHAPES:
                bindings.popitem(last=False)
        return found


class _Binding:
    """Buffers on the device for inputs of one shape, and for the outputs that follow from it."""

    def __init__(
        self, session: ort.InferenceSession, arrays: Arrays, device: str, staging: Staging | None
    ) -> None:
        self._session = session
        self._names = [tensor.name for tensor in session.get_outputs()]
        self._binding = session.io_binding()
        self._inputs = {
            name: ort.OrtValue.ortvalue_from_shape_and_type(array.shape, array.dtype.type, device)
            for name, array in arrays.items()
        }
        self._staged = {
            name: staging(array.nbytes).view(array.dtype).reshape(array.shape)
            for name, array in arrays.items()
            if staging is not None and array.nbytes
        }
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        for name in self._names:
            self._binding.bind_output(name, device)  # allocated by the first run
        self._kept: list[ort.OrtValue] = []

    def run(self, arrays: Arrays) -> Arrays:
        for name, array in arrays.items():
            staged = self._staged.get(name, array)
            if staged is not array:
                np.copyto(staged, array)
            self._inputs[name].update_inplace(staged)
        self._session.run_with_iobinding(self._binding)
        if not self._kept:
            # What the first run allocated is written to by all that follow.
            self._kept = self._binding.get_outputs()
            for name, value in zip(self._names, self._kept, strict=True):
                self._binding.bind_ortvalue_output(name, value)
        return {
            name: _own(value.numpy()) for name, value in zip(self._names, self._kept, strict=True)
        }


def _own(array: NDArray[Any]) -> NDArray[Any]:
    """The array, copied where it only shows a buffer that the next run overwrites."""
    return array if array.flags.owndata else array.copy()
