"""Every call to TensorRT and CUDA that the SDK makes, against the real bindings; without a GPU.

The extra ``dev`` installs them on Linux: the lean runtime whole, of the full TensorRT the bindings
alone. The latter's libraries are gigabytes that pip gets from elsewhere, so empty functions stand
in for them: nothing is built or run here.
"""

from __future__ import annotations

import ast
import ctypes
import logging
import re
import shutil
import subprocess
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from facemark_sdk import BackendError
from facemark_sdk.backends import cuda, tensorrt
from facemark_sdk.backends.tensorrt import api

SOURCES = sorted(Path(tensorrt.__file__).parent.glob("*.py"))
CLASSES = {
    "trt": "",
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "config": "IBuilderConfig",
    "shape_range": "IOptimizationProfile",
    "engine": "ICudaEngine",
    "_engine": "ICudaEngine",
    "_runtime": "Runtime",
    "context": "IExecutionContext",
    "_context": "IExecutionContext",
    "severity": "ILogger.Severity",
}
"""What the variables of the sources are; "" is the module."""

BUILDER_ONLY = {
    "Builder",
    "INetworkDefinition",
    "OnnxParser",
    "IBuilderConfig",
    "NetworkDefinitionCreationFlag",
}
"""What the lean runtime has not."""

BINDINGS = {
    "tensorrt": ("tensorrt", "tensorrt_bindings"),
    "lean": ("tensorrt_lean", "tensorrt_lean_bindings"),
}
"""Modules, as installed by tensorrt(-lean) or by tensorrt(-lean)-cu13-bindings alone."""

HOW_TO_RUN = (
    "run: pip install -c constraints.txt tensorrt-cu13-bindings tensorrt-lean-cu13-bindings "
    "tensorrt-lean-cu13-libs cuda-bindings"
)

LIBRARY_FUNCTIONS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)
"""What the full bindings link to."""

WORDS = {
    "Builder.create_network": ["flags: "],
    "Builder.build_serialized_network": ["INetworkDefinition", "IBuilderConfig"],
    "OnnxParser.parse": ["model: ", "path: str"],
    "IBuilderConfig.add_optimization_profile": ["-> int", "-1"],
    "IBuilderConfig.clear_flag": ["BuilderFlag"],
    "IOptimizationProfile.set_shape": ["input: str, min: ", "opt: ", "max: "],
    "Runtime.deserialize_cuda_engine": ["serialized_engine: ", "None"],
    "ICudaEngine.get_tensor_name": ["index: "],
    "ICudaEngine.get_tensor_dtype": ["name: str"],
    "IExecutionContext.set_input_shape": ["name: str, shape: tuple", "-> bool"],
    "IExecutionContext.get_tensor_shape": ["name: str", "Dims"],
    "IExecutionContext.set_tensor_address": ["name: str, memory: ", "-> bool"],
    "IExecutionContext.execute_async_v3": ["stream_handle: ", "-> bool"],
    "ILogger.log": ["severity: ", "msg: str"],
}
"""What the signatures in the docstrings must hold, as the sources count on it."""


def uses() -> set[str]:
    """Dotted names in TensorRT that the sources use: ``Builder.create_network``, ``Runtime``."""
    found = set()
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text())):
            if not isinstance(node, ast.Attribute):
                continue
            owner = node.value
            if isinstance(owner, ast.Attribute) and isinstance(owner.value, ast.Name):
                # trt.BuilderFlag.TF32, self._engine.create_execution_context
                if owner.value.id == "trt":
                    found.add(f"{owner.attr}.{node.attr}")
                elif owner.value.id == "self" and owner.attr in CLASSES:
                    found.add(f"{CLASSES[owner.attr]}.{node.attr}")
            elif isinstance(owner, ast.Name) and owner.id in CLASSES:
                found.add(f"{CLASSES[owner.id]}.{node.attr}".lstrip("."))
    return found


def test_the_uses_are_found() -> None:
    """So that the tests below do not pass by looking at nothing."""
    assert {
        "Builder",
        "Builder.build_serialized_network",
        "BuilderFlag.TF32",
        "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
        "OnnxParser.parse",
        "IBuilderConfig.add_optimization_profile",
        "IOptimizationProfile.set_shape",
        "Runtime.deserialize_cuda_engine",
        "ICudaEngine.create_execution_context",
        "ICudaEngine.num_io_tensors",
        "IExecutionContext.execute_async_v3",
        "IExecutionContext.set_tensor_address",
        "ILogger.Severity",
        "ILogger.Severity.INTERNAL_ERROR",
        "nptype",
    } <= uses()
    assert len(uses()) >= 30


def load_stand_ins(bindings: Path, folder: Path) -> None:
    """Libraries of the names that the bindings ask for, with functions that do nothing."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler, and no TensorRT libraries")
    source = folder / "empty.c"
    source.write_text(
        "".join(f"void *{name}(void) {{ return 0; }}\n" for name in LIBRARY_FUNCTIONS)
    )
    for match in set(re.findall(rb"libnv\w+\.so\.\d+", bindings.read_bytes())):
        library = folder / match.decode()
        options = ("-shared", "-fPIC", f"-Wl,-soname,{library.name}")
        subprocess.run([compiler, *options, str(source), "-o", str(library)], check=True)
        ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)


@pytest.fixture(scope="module", params=list(BINDINGS))
def trt(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    whole, alone = BINDINGS[request.param]
    try:
        return import_module(whole)
    except ImportError:
        found = find_spec(alone)
    if found is None or found.origin is None:
        pytest.skip(f"neither {whole} nor {alone} can be imported; {HOW_TO_RUN}")
    if request.param == "tensorrt" and find_spec("tensorrt_libs") is None:
        bindings = Path(found.origin).with_name("tensorrt.so")
        load_stand_ins(bindings, tmp_path_factory.mktemp("libraries"))
    return import_module(alone)


@pytest.fixture
def lean(trt: ModuleType) -> bool:
    return trt.__name__.startswith("tensorrt_lean")


def resolve(module: ModuleType, name: str) -> Any:
    thing: Any = module
    for part in name.split("."):
        thing = getattr(thing, part)
    return thing


def test_every_name_is_there(trt: ModuleType, lean: bool) -> None:
    wanted = {name for name in uses() if not (lean and name.partition(".")[0] in BUILDER_ONLY)}
    missing = []
    for name in sorted(wanted):
        try:
            resolve(trt, name)
        except AttributeError:
            missing.append(name)
    assert not missing, f"TensorRT {trt.__version__}"


def test_every_signature_is_as_we_call_it(trt: ModuleType, lean: bool) -> None:
    assert set(WORDS) - {"ILogger.log"} <= uses()
    for name, words in WORDS.items():
        if not (lean and name.partition(".")[0] in BUILDER_ONLY):
            document = resolve(trt, name).__doc__
            assert [word for word in words if word not in document] == [], name


def test_types_shapes_and_flags(trt: ModuleType) -> None:
    for ours, theirs in (("uint8", "UINT8"), ("float32", "FLOAT"), ("float16", "HALF")):
        assert np.dtype(trt.nptype(getattr(trt.DataType, theirs))) == np.dtype(ours)
    assert tuple(trt.Dims([2, 256, 256, 3])) == (2, 256, 256, 3)
    assert trt.__version__.partition(".")[0] in api.MAJORS
    if hasattr(trt, "NetworkDefinitionCreationFlag"):
        assert isinstance(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED), int)


def test_our_logger_is_one_of_theirs(trt: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    logger = api.logger(trt)
    assert isinstance(logger, trt.ILogger)
    with caplog.at_level(logging.INFO, "facemark"):
        logger.log(trt.ILogger.Severity.WARNING, "slow tactic")
        logger.log(trt.ILogger.Severity.ERROR, "no\nmemory")
        logger.log(trt.ILogger.Severity.VERBOSE, "chatter")
    assert [record.message for record in caplog.records] == ["TensorRT: slow tactic"]
    assert logger.take_errors() == "no memory"
    assert logger.take_errors() == "TensorRT gave no reason"


class TestCudaPython:
    @pytest.fixture
    def runtime(self) -> ModuleType:
        return pytest.importorskip(
            "cuda.bindings.runtime",
            exc_type=ImportError,
            reason=f"no cuda.bindings.runtime; {HOW_TO_RUN}",
        )

    def test_every_name_is_there(self, runtime: ModuleType) -> None:
        tree = ast.parse(Path(cuda.__file__).read_text())
        (source,) = (n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "CudaPython")
        called = {
            node.args[0].value
            for node in ast.walk(source)
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "_call"
            and isinstance(node.args[0], ast.Constant)
        }
        used = {
            node.attr
            for node in ast.walk(source)
            if isinstance(node, ast.Attribute) and node.attr.startswith("cuda")
        } - {"cudaMemcpyHostToDevice", "cudaMemcpyDeviceToHost", "cudaSuccess"}
        assert {"cudaMalloc", "cudaMallocHost", "cudaMemcpyAsync", "cudaGetDevice"} <= called
        assert {"cudaFree", "cudaFreeHost", "cudaStreamDestroy"} <= used
        for name in called | used:
            assert hasattr(runtime, name), name
        assert runtime.cudaMemcpyKind.cudaMemcpyHostToDevice == 1
        assert runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost == 2
        assert runtime.cudaError_t.cudaSuccess == 0
        properties = runtime.cudaDeviceProp()
        assert isinstance(properties.name, bytes)
        assert isinstance(properties.major, int) and isinstance(properties.minor, int)

    def test_calls_without_a_gpu_are_answered(self, runtime: ModuleType) -> None:
        """The arguments' kinds are those that the bindings take: the driver's error comes back."""
        if runtime.cudaGetDeviceCount()[0] == runtime.cudaError_t.cudaSuccess:
            pytest.skip("there is a GPU")
        kind = runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        flags = runtime.cudaStreamNonBlocking
        array = np.zeros(4, np.uint8)
        for status, *values in (
            runtime.cudaGetDeviceProperties(cuda.GPU_INDEX),
            runtime.cudaGetDevice(),
            runtime.cudaMalloc(16),
            runtime.cudaMallocHost(16),
            runtime.cudaStreamCreateWithFlags(flags),
            runtime.cudaMemcpyAsync(16, array.ctypes.data, array.nbytes, kind, 0),
            runtime.cudaStreamSynchronize(0),
        ):
            assert status != runtime.cudaError_t.cudaSuccess
            assert len(values) <= 1
            answer = runtime.cudaGetErrorString(status)
            assert answer[0] == runtime.cudaError_t.cudaSuccess
            assert isinstance(answer[1], bytes)

    def test_a_machine_without_a_gpu_is_a_clear_error(self, runtime: ModuleType) -> None:
        if runtime.cudaGetDeviceCount()[0] == runtime.cudaError_t.cudaSuccess:
            pytest.skip("there is a GPU")
        cuda.open_cuda.cache_clear()
        with pytest.raises(BackendError, match=r"CUDA failed in .*nvidia-smi"):
            cuda.open_cuda()
