"""TensorRT, cuda-python and pycuda as they look from Python, on the CPU.

The GPU's memory is the process's own; work that is put into a stream is done when somebody waits
for the stream, as late as a GPU may do it; a plan is the ONNX file, which ONNX Runtime runs.
"""

from __future__ import annotations

import ctypes
import enum
import json
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from facemark_sdk.backends import cuda

GPU = "Fake GPU"
CAPABILITY = (9, 0)
DTYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32", "tensor(float16)": "float16"}


class Memory:
    """What was allocated and is not freed yet, and what waits in streams."""

    def __init__(self) -> None:
        self.blocks: dict[int, Any] = {}
        self.streams: dict[int, list[Callable[[], None]]] = {}

    def allocate(self, nbytes: int) -> int:
        block = (ctypes.c_uint8 * nbytes)()
        address = ctypes.addressof(block)
        self.blocks[address] = block
        return address

    def free(self, address: int) -> None:
        del self.blocks[address]

    def stream(self) -> int:
        handle = 1000 + len(self.streams)
        self.streams[handle] = []
        return handle

    def wait(self, handle: int) -> None:
        for work in self.streams[handle]:
            work()
        self.streams[handle].clear()

    def copy(self, target: int, source: int, nbytes: int, handle: int) -> None:
        self.streams[handle].append(lambda: ctypes.memmove(target, source, nbytes))

    def array(self, address: int, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        block = self.blocks[address]
        assert len(block) >= nbytes, "a buffer is too small"
        return np.frombuffer(block, np.uint8)[:nbytes].view(dtype).reshape(shape)


def fake_cuda_python(memory: Memory, *, failing: str = "") -> ModuleType:
    """``cuda.bindings.runtime``; the function that is `failing` finds no driver."""
    status = enum.IntEnum("cudaError_t", {"cudaSuccess": 0, "cudaErrorInsufficientDriver": 35})
    ok = status.cudaSuccess
    runtime = ModuleType("cuda.bindings.runtime")
    runtime.cudaError_t = status
    runtime.cudaStreamNonBlocking = 1
    runtime.cudaMemcpyKind = enum.IntEnum(
        "cudaMemcpyKind", {"cudaMemcpyHostToDevice": 1, "cudaMemcpyDeviceToHost": 2}
    )
    properties = SimpleNamespace(name=GPU.encode(), major=CAPABILITY[0], minor=CAPABILITY[1])
    functions = {
        "cudaGetDeviceProperties": lambda device: (ok, properties),
        "cudaGetDevice": lambda: (ok, 0),
        "cudaSetDevice": lambda device: (ok,),
        "cudaStreamCreateWithFlags": lambda flags: (ok, memory.stream()),
        "cudaStreamDestroy": lambda stream: (ok,),
        "cudaStreamSynchronize": lambda stream: (ok, *filter(None, [memory.wait(stream)])),
        "cudaMalloc": lambda nbytes: (ok, memory.allocate(nbytes)),
        "cudaFree": lambda address: (ok, memory.free(address)),
        "cudaMallocHost": lambda nbytes: (ok, memory.allocate(nbytes)),
        "cudaFreeHost": lambda address: (ok, memory.free(address)),
        "cudaMemcpyAsync": lambda target, source, nbytes, kind, stream: (
            ok,
            *filter(None, [memory.copy(target, source, nbytes, stream)]),
        ),
        "cudaGetErrorString": lambda error: (ok, b"CUDA driver version is insufficient"),
    }
    if failing:
        functions[failing] = lambda *arguments: (status.cudaErrorInsufficientDriver, None)
    for name, function in functions.items():
        setattr(runtime, name, function)
    return runtime


def fake_pycuda(memory: Memory) -> ModuleType:
    """``pycuda.driver``, whose calls need the context to be pushed."""
    driver = ModuleType("pycuda.driver")
    driver.Error = type("Error", (Exception,), {})
    pushed: list[int] = []

    def needs_context() -> None:
        if not pushed:
            raise driver.Error("invalid device context")

    class Context:
        def push(self) -> None:
            pushed.append(1)

        @staticmethod
        def pop() -> None:
            pushed.pop()

    class Device:
        def __init__(self, index: int) -> None:
            self.index = index

        def retain_primary_context(self) -> Context:
            return Context()

        def name(self) -> str:
            return GPU

        def compute_capability(self) -> tuple[int, int]:
            return CAPABILITY

    class Stream:
        def __init__(self) -> None:
            needs_context()
            self.handle = memory.stream()

        def synchronize(self) -> None:
            needs_context()
            memory.wait(self.handle)

    class Allocation(int):
        def __del__(self) -> None:
            memory.free(int(self))

    def mem_alloc(nbytes: int) -> Allocation:
        needs_context()
        return Allocation(memory.allocate(nbytes))

    def memcpy_htod_async(dest: int, src: np.ndarray, stream: Stream) -> None:
        needs_context()
        memory.copy(int(dest), src.ctypes.data, src.nbytes, stream.handle)

    def memcpy_dtoh_async(dest: np.ndarray, src: int, stream: Stream) -> None:
        needs_context()
        memory.copy(dest.ctypes.data, int(src), dest.nbytes, stream.handle)

    driver.init = lambda: None
    driver.pagelocked_empty = np.empty
    for thing in (Device, Stream, mem_alloc, memcpy_htod_async, memcpy_dtoh_async):
        setattr(driver, thing.__name__, thing)
    return driver


def fake_tensorrt(memory: Memory, version: str = "11.4.0.106") -> ModuleType:
    """``tensorrt``; `built` lists what was built: the network's flags, cleared flags, shapes."""
    trt = ModuleType("tensorrt")
    trt.__spec__ = ModuleSpec("tensorrt", None)  # torch asks for it
    trt.__version__ = version
    trt.built = []
    trt.refuses_to_parse = trt.refuses_to_build = False
    mark = f"PLAN {version} ".encode()

    class ILogger:
        Severity = enum.Enum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"])

        def log(self, severity: Any, msg: str) -> None:
            raise NotImplementedError

    class Network:
        def __init__(self, flags: int) -> None:
            self.flags, self.content = flags, b""

        def get_input(self, index: int) -> SimpleNamespace:
            assert index == 0
            return SimpleNamespace(name="image")

    class OnnxParser:
        def __init__(self, network: Network, logger: ILogger) -> None:
            self.network, self.logger = network, logger

        def parse(self, model: bytes, path: str | None = None) -> bool:
            self.network.content = model
            if trt.refuses_to_parse:
                self.logger.log(ILogger.Severity.ERROR, "Assertion failed:\nshiftIsAllZeros")
            return not trt.refuses_to_parse

    class Profile:
        def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
            self.shapes = {input: [list(min), list(opt), list(max)]}

    class Config:
        def __init__(self) -> None:
            self.cleared: list[str] = []

        def clear_flag(self, flag: enum.Enum) -> None:
            self.cleared.append(flag.name)

        def add_optimization_profile(self, profile: Profile) -> int:
            self.profile = profile
            return 0

    class Builder:
        def __init__(self, logger: ILogger) -> None:
            self.logger = logger

        def create_network(self, flags: int = 0) -> Network:
            return Network(flags)

        def create_builder_config(self) -> Config:
            return Config()

        def create_optimization_profile(self) -> Profile:
            return Profile()

        def build_serialized_network(self, network: Network, config: Config) -> bytes | None:
            if trt.refuses_to_build:
                self.logger.log(ILogger.Severity.ERROR, "out of memory")
                return None
            trt.built.append((network.flags, config.cleared, config.profile.shapes))
            return mark + json.dumps(config.profile.shapes).encode() + b"\n" + network.content

    class Context:
        def __init__(self, session: ort.InferenceSession, shapes: dict[str, Any]) -> None:
            self.session, self.shapes = session, shapes
            self.addresses: dict[str, int] = {}
            self.given: dict[str, tuple[int, ...]] = {}

        def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
            least, _, most = self.shapes[name]
            self.given[name] = shape
            self.found: list[np.ndarray] = self.session.run(None, {name: np.zeros(shape, np.uint8)})
            return all(a <= side <= b for a, side, b in zip(least, shape, most, strict=True))

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            names = [tensor.name for tensor in self.session.get_outputs()]
            return self.found[names.index(name)].shape

        def set_tensor_address(self, name: str, memory: int) -> bool:
            self.addresses[name] = memory
            return True

        def execute_async_v3(self, stream_handle: int) -> bool:
            memory.streams[stream_handle].append(self.compute)
            return True

        def compute(self) -> None:
            images = {
                name: memory.array(self.addresses[name], shape, "uint8")
                for name, shape in self.given.items()
            }
            outputs = self.session.run(None, images)
            for tensor, output in zip(self.session.get_outputs(), outputs, strict=True):
                address = self.addresses[tensor.name]
                memory.array(address, output.shape, output.dtype.name)[...] = output

    class Engine:
        def __init__(self, plan: bytes) -> None:
            head, _, model = plan.partition(b"\n")
            self.shapes = json.loads(head)
            self.session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
            self.tensors = {
                tensor.name: DTYPES[tensor.type]
                for tensor in (*self.session.get_inputs(), *self.session.get_outputs())
            }
            self.num_io_tensors = len(self.tensors)

        def get_tensor_name(self, index: int) -> str:
            return list(self.tensors)[index]

        def get_tensor_dtype(self, name: str) -> str:
            return self.tensors[name]

        def create_execution_context(self) -> Context:
            return Context(self.session, self.shapes)

    class Runtime:
        def __init__(self, logger: ILogger) -> None:
            self.logger = logger

        def deserialize_cuda_engine(self, serialized_engine: bytes) -> Engine | None:
            if not serialized_engine.startswith(mark):
                self.logger.log(ILogger.Severity.ERROR, "Serialization assertion failed")
                return None
            return Engine(serialized_engine[len(mark) :])

    trt.NetworkDefinitionCreationFlag = enum.IntEnum("Flag", {"STRONGLY_TYPED": 1})
    trt.BuilderFlag = enum.Enum("BuilderFlag", ["TF32"])
    trt.nptype = np.dtype
    for thing in (ILogger, OnnxParser, Builder, Runtime):
        setattr(trt, thing.__name__, thing)
    return trt


def install(monkeypatch: pytest.MonkeyPatch, **modules: ModuleType | None) -> None:
    """Have Python find these instead of what is installed: ``tensorrt``, ``runtime``, ``driver``.

    None, and one that is not given, cannot be imported.
    """
    names = {
        "tensorrt": "tensorrt",
        "runtime": "cuda.bindings.runtime",
        "driver": "pycuda.driver",
    }
    for key, name in names.items():
        monkeypatch.setitem(sys.modules, name, modules.get(key))
    cuda.open_cuda.cache_clear()
