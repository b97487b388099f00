"""Memory on the GPU and page-locked memory on the host, by cuda-python or by pycuda."""

from __future__ import annotations

import ctypes
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facemark_sdk.backends.once import Once
from facemark_sdk.errors import BackendError

GPU_INDEX = 0
"""The GPU that is used: the first that CUDA_VISIBLE_DEVICES shows."""

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU as engine files name it; `capability` as in ``9.0``."""

    name: str
    capability: str


class Cuda(ABC):
    """The few calls to CUDA that running a model takes; threads may share one."""

    gpu: Gpu

    @abstractmethod
    def active(self) -> AbstractContextManager[None]:
        """Make the GPU the calling thread's, for the length of a block; the rest needs it."""

    @abstractmethod
    def stream(self) -> Any:
        """A queue of work for the GPU."""

    @abstractmethod
    def handle(self, stream: Any) -> int:
        """The queue as other libraries take it."""

    @abstractmethod
    def wait(self, stream: Any) -> None:
        """Return once all work in the queue is done."""

    @abstractmethod
    def device(self, nbytes: int) -> Any:
        """Memory on the GPU, freed with the object; `int` gives its address."""

    @abstractmethod
    def pinned(self, nbytes: int) -> Bytes:
        """Page-locked memory on the host, from which the GPU copies without help."""

    @abstractmethod
    def to_device(self, memory: Any, array: NDArray[Any], stream: Any) -> None:
        """Put a copy of a page-locked array to the GPU into the queue."""

    @abstractmethod
    def to_host(self, array: NDArray[Any], memory: Any, stream: Any) -> None:
        """Put a copy from the GPU to a page-locked array into the queue."""


class CudaPython(Cuda):
    """NVIDIA's cuda-python: ``cuda.bindings.runtime``."""

    def __init__(self) -> None:
        """Find the GPU.

        Raises:
            ImportError: cuda-python is not installed.
            BackendError: There is no GPU or no driver.
        """
        self._runtime = import_module("cuda.bindings.runtime")
        properties = self._call("cudaGetDeviceProperties", GPU_INDEX)
        self.gpu = Gpu(properties.name.decode(), f"{properties.major}.{properties.minor}")

    @contextmanager
    def active(self) -> Iterator[None]:
        """Make the GPU the calling thread's, for the length of a block."""
        before = self._call("cudaGetDevice")
        if before != GPU_INDEX:
            self._call("cudaSetDevice", GPU_INDEX)
        try:
            yield
        finally:
            if before != GPU_INDEX:
                self._call("cudaSetDevice", before)

    def stream(self) -> Any:
        """A queue of work for the GPU."""
        # Blocking streams would wait for whatever else the process does on the default stream.
        stream = self._call("cudaStreamCreateWithFlags", self._runtime.cudaStreamNonBlocking)
        return _Freed(int(stream), self._runtime.cudaStreamDestroy)

    def handle(self, stream: Any) -> int:
        """The queue as other libraries take it."""
        return int(stream)

    def wait(self, stream: Any) -> None:
        """Return once all work in the queue is done."""
        self._call("cudaStreamSynchronize", int(stream))

    def device(self, nbytes: int) -> Any:
        """Memory on the GPU."""
        return _Freed(int(self._call("cudaMalloc", nbytes)), self._runtime.cudaFree)

    def pinned(self, nbytes: int) -> Bytes:
        """Page-locked memory on the host."""
        address = int(self._call("cudaMallocHost", nbytes))
        block = (ctypes.c_uint8 * nbytes).from_address(address)
        weakref.finalize(block, self._runtime.cudaFreeHost, address)  # arrays hold the block
        return np.frombuffer(memoryview(block), np.uint8)

    def to_device(self, memory: Any, array: NDArray[Any], stream: Any) -> None:
        """Put a copy of a page-locked array to the GPU into the queue."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call(
            "cudaMemcpyAsync", int(memory), array.ctypes.data, array.nbytes, kind, int(stream)
        )

    def to_host(self, array: NDArray[Any], memory: Any, stream: Any) -> None:
        """Put a copy from the GPU to a page-locked array into the queue."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call(
            "cudaMemcpyAsync", array.ctypes.data, int(memory), array.nbytes, kind, int(stream)
        )

    def _call(self, function: str, *arguments: Any) -> Any:
        """Call a function of the CUDA runtime and give what it gives beside its status."""
        runtime = self._runtime
        status, *values = getattr(runtime, function)(*arguments)
        if status == runtime.cudaError_t.cudaSuccess:
            return values[0] if values else None
        _, text = runtime.cudaGetErrorString(status)
        raise _cuda_error(f"{function}: {text.decode()}")


class PyCuda(Cuda):
    """The community's pycuda: ``pycuda.driver``, in the context that TensorRT uses too."""

    def __init__(self) -> None:
        """Find the GPU.

        Raises:
            ImportError: pycuda is not installed, or finds no driver.
            BackendError: There is no GPU.
        """
        self._driver = import_module("pycuda.driver")
        with self._named_errors():
            self._driver.init()
            device = self._driver.Device(GPU_INDEX)
            self._context = device.retain_primary_context()
            major, minor = device.compute_capability()
            self.gpu = Gpu(device.name(), f"{major}.{minor}")

    @contextmanager
    def active(self) -> Iterator[None]:
        """Make the GPU the calling thread's, for the length of a block."""
        with self._named_errors():
            self._context.push()
            try:
                yield
            finally:
                self._context.pop()

    def stream(self) -> Any:
        """A queue of work for the GPU."""
        return self._driver.Stream()

    def handle(self, stream: Any) -> int:
        """The queue as other libraries take it."""
        return int(stream.handle)

    def wait(self, stream: Any) -> None:
        """Return once all work in the queue is done."""
        stream.synchronize()

    def device(self, nbytes: int) -> Any:
        """Memory on the GPU."""
        return self._driver.mem_alloc(nbytes)

    def pinned(self, nbytes: int) -> Bytes:
        """Page-locked memory on the host."""
        block: Bytes = self._driver.pagelocked_empty(nbytes, np.uint8)
        return block

    def to_device(self, memory: Any, array: NDArray[Any], stream: Any) -> None:
        """Put a copy of a page-locked array to the GPU into the queue."""
        self._driver.memcpy_htod_async(memory, array, stream)

    def to_host(self, array: NDArray[Any], memory: Any, stream: Any) -> None:
        """Put a copy from the GPU to a page-locked array into the queue."""
        self._driver.memcpy_dtoh_async(array, memory, stream)

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except self._driver.Error as error:
            raise _cuda_error(str(error)) from error


class _Freed:
    """An address or handle that is given back when the last reference to it goes."""

    def __init__(self, value: int, free: Callable[[int], object]) -> None:
        self._value = value
        weakref.finalize(self, free, value)

    def __int__(self) -> int:
        return self._value


@Once
def open_cuda() -> Cuda:
    """The GPU, by the library that is installed; cuda-python comes first.

    Raises:
        BackendError: Neither library is there, or no driver, or no GPU.
    """
    reasons = []
    for library in (CudaPython, PyCuda):
        try:
            return library()
        except ImportError as error:
            reasons.append(str(error))
    raise BackendError(
        "memory on the GPU, or page-locked for it, needs cuda-python (or pycuda); "
        f'pip install "cuda-bindings>=12.9,<14" ({"; ".join(reasons)})'
    )


def _cuda_error(text: str) -> BackendError:
    return BackendError(
        f"CUDA failed in {text}; check with nvidia-smi that there is an NVIDIA GPU and that its "
        "driver is new enough for the installed CUDA libraries"
    )
