"""The backend's logic, on a TensorRT and CUDA that are made of numpy and ONNX Runtime."""

from __future__ import annotations

import dataclasses
import gc
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from conftest import CROP, landmark_graph, landmark_spec, save
from fake_tensorrt import GPU, Memory, fake_cuda_python, fake_pycuda, fake_tensorrt, install

from facemark_sdk import BackendError, Detector, LandmarkModel, ModelError
from facemark_sdk.backends import RuntimeOptions, create_backend
from facemark_sdk.backends.cuda import open_cuda
from facemark_sdk.backends.tensorrt import cache
from facemark_sdk.backends.tensorrt.api import logger
from facemark_sdk.backends.tensorrt.build import build_engine
from facemark_sdk.backends.tensorrt.engine import TensorRTBackend
from facemark_sdk.backends.tensorrt.engine_file import read_engine, write_engine
from facemark_sdk.backends.tensorrt.profile import Profile


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch, memory: Memory) -> Iterator[ModuleType]:
    trt = fake_tensorrt(memory)
    install(monkeypatch, tensorrt=trt, runtime=fake_cuda_python(memory))
    yield trt
    open_cuda.cache_clear()


@pytest.fixture
def options(tmp_path: Path) -> RuntimeOptions:
    return RuntimeOptions(engine_cache=tmp_path / "cache")


def noise(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, CROP, CROP, 3), np.uint8)


def with_precision(path: Path, mean_face: np.ndarray, precision: str) -> Path:
    spec = dataclasses.replace(landmark_spec(mean_face), precision=precision)
    save(landmark_graph(mean_face), spec, path)
    return path


def assert_same(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
    assert list(ours) == list(theirs)
    for name, array in theirs.items():
        np.testing.assert_array_equal(ours[name], array, strict=True)


@pytest.mark.parametrize("count", [0, 1, 2, 64, 65, 130])
def test_gives_what_the_onnx_file_gives(
    trt: ModuleType, landmark_file: Path, options: RuntimeOptions, count: int
) -> None:
    """More images than the engine takes go through it in parts."""
    engine = create_backend("tensorrt", landmark_file, options=options)
    source = create_backend("cpu", landmark_file, 1)
    assert engine.name == "tensorrt"
    assert_same(engine.run({"image": noise(count)}), source.run({"image": noise(count)}))
    assert (engine.inputs, engine.outputs) == (source.inputs, source.outputs)
    assert engine.metadata == source.metadata


@pytest.mark.parametrize("count", [1, 3, 4, 5, 11])
@pytest.mark.parametrize("batch", [(4, 4, 4), (3, 4, 5)])
def test_batches_smaller_than_the_least_are_filled_up(
    trt: ModuleType, landmark_file: Path, batch: tuple[int, int, int], count: int
) -> None:
    record, plan = build_engine(landmark_file, Profile(batch))
    engine = TensorRTBackend(record, plan, source="x")
    assert engine.inputs[0].shape[0] == (4 if batch == (4, 4, 4) else "N")
    wanted = create_backend("cpu", landmark_file, 1).run({"image": noise(count)})
    assert_same(engine.run({"image": noise(count)}), wanted)


def test_results_stay_when_the_next_run_uses_the_same_buffers(
    trt: ModuleType, landmark_file: Path, options: RuntimeOptions, memory: Memory
) -> None:
    engine = create_backend("tensorrt", landmark_file, options=options)
    first = engine.run({"image": noise(3)})
    kept = {name: array.copy() for name, array in first.items()}
    blocks = len(memory.blocks)
    for count in (1, 2, 3):
        engine.run({"image": noise(count, seed=1)})
    assert_same(first, kept)
    assert len(memory.blocks) == blocks, "smaller batches need no new buffers"


def test_threads_share_an_engine(
    trt: ModuleType, landmark_file: Path, options: RuntimeOptions, memory: Memory
) -> None:
    engine = create_backend("tensorrt", landmark_file, options=options)
    source = create_backend("cpu", landmark_file, 1)
    batches = [noise(1 + n % 5, seed=n) for n in range(40)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda batch: engine.run({"image": batch}), batches))
    for batch, outputs in zip(batches, found, strict=True):
        assert_same(outputs, source.run({"image": batch}))
    assert len(memory.streams) <= 8


def test_memory_is_given_back(
    trt: ModuleType, landmark_file: Path, options: RuntimeOptions, memory: Memory
) -> None:
    engine = create_backend("tensorrt", landmark_file, options=options)
    outputs = engine.run({"image": noise(2)})
    assert memory.blocks
    del engine
    gc.collect()
    assert not memory.blocks
    assert outputs["cls"].shape == (2, 68, 4, 4)


def test_pycuda_where_cuda_python_is_missing(
    monkeypatch: pytest.MonkeyPatch, memory: Memory, landmark_file: Path, options: RuntimeOptions
) -> None:
    """Its calls fail unless the context is the thread's, in every thread."""
    install(monkeypatch, tensorrt=fake_tensorrt(memory), driver=fake_pycuda(memory))
    engine = create_backend("tensorrt", landmark_file, options=options)
    wanted = create_backend("cpu", landmark_file, 1).run({"image": noise(3)})
    with ThreadPoolExecutor(2) as pool:
        for found in pool.map(lambda _: engine.run({"image": noise(3)}), range(8)):
            assert_same(found, wanted)
    open_cuda.cache_clear()


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        {"picture": noise(1)},
        {"image": noise(1).astype(np.float32)},
        {"image": noise(1)[:, :8]},
        {"image": noise(1)[0]},
    ],
)
def test_wrong_inputs(
    trt: ModuleType, landmark_file: Path, options: RuntimeOptions, inputs: dict[str, np.ndarray]
) -> None:
    with pytest.raises(BackendError, match="backend 'tensorrt' failed"):
        create_backend("tensorrt", landmark_file, options=options).run(inputs)


def test_images_outside_the_profile(trt: ModuleType, detector_file: Path) -> None:
    record, plan = build_engine(detector_file, Profile((1, 1, 1), (32, 64, 128)))
    engine = TensorRTBackend(record, plan, source="x")
    assert engine.run({"image": np.zeros((1, 64, 128, 3), np.uint8)})["scores"].shape[0] == 1
    with pytest.raises(BackendError, match=r"32 x 32 x 3 to 128 x 128 x 3, got 64 x 160 x 3"):
        engine.run({"image": np.zeros((1, 64, 160, 3), np.uint8)})


def test_strongly_typed_and_no_flags_but_tf32(
    trt: ModuleType, landmark_file: Path, tmp_path: Path, mean_face: np.ndarray
) -> None:
    """fp32 is computed in fp32, not with TF32's ten bits; what else there is, is in the file."""
    build_engine(landmark_file)
    build_engine(with_precision(tmp_path / "half.onnx", mean_face, "fp16"), Profile((2, 3, 4)))
    sides = [CROP, CROP, 3]
    assert trt.built == [
        (2, ["TF32"], {"image": [[1, *sides], [8, *sides], [64, *sides]]}),
        (2, [], {"image": [[2, *sides], [3, *sides], [4, *sides]]}),
    ]


def test_an_engine_of_a_file_with_a_fixed_batch_says_so(
    trt: ModuleType, tmp_path: Path, mean_face: np.ndarray
) -> None:
    """What the engine takes is in its record; more images still go through in parts."""
    graph = landmark_graph(mean_face)
    graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    save(graph, landmark_spec(mean_face), tmp_path / "pair.onnx")
    record, plan = build_engine(tmp_path / "pair.onnx")
    assert record.profile == Profile((2, 2, 2))
    assert trt.built[-1][2] == {"image": [[2, CROP, CROP, 3]] * 3}
    write_engine(tmp_path / "pair.engine", record, plan)
    engine = create_backend("tensorrt", tmp_path / "pair.engine")
    assert engine.inputs[0].shape == (2, CROP, CROP, 3)
    wanted = create_backend("cpu", tmp_path / "pair.onnx", 1).run({"image": noise(2)})
    assert_same(engine.run({"image": noise(2)}), wanted)


def test_reasons_go_to_the_thread_that_failed(trt: ModuleType) -> None:
    log = logger(trt)
    log.take_errors()
    with ThreadPoolExecutor(1) as other:
        other.submit(log.log, trt.ILogger.Severity.ERROR, "theirs").result()
        log.log(trt.ILogger.Severity.ERROR, "mine")
        assert log.take_errors() == "mine"
        assert other.submit(log.take_errors).result() == "theirs"
    assert log.take_errors() == "TensorRT gave no reason"
    assert logger(trt) is log


def test_the_sdk_on_an_engine_file_alone(
    trt: ModuleType, landmark_file: Path, detector_file: Path, tmp_path: Path, photo: Path
) -> None:
    """`Detector(landmarks="x.engine")` needs no other argument."""
    path = tmp_path / "x.engine"
    write_engine(path, *build_engine(landmark_file))
    detector = Detector(landmarks=path, detector=detector_file)
    assert detector.landmark_model.backend == "tensorrt"
    assert detector.face_detector.backend != "tensorrt"
    crops = noise(3)
    found = detector.landmark_model.predict_crops(crops)
    wanted = LandmarkModel(landmark_file, backend="cpu").predict_crops(crops)
    np.testing.assert_array_equal(found.points, wanted.points)
    np.testing.assert_array_equal(found.scores, wanted.scores)


def test_auto_logs_that_it_takes_the_engine(
    trt: ModuleType, landmark_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "x.engine"
    write_engine(path, *build_engine(landmark_file))
    with caplog.at_level(logging.INFO, "facemark"):
        assert create_backend("auto", path).name == "tensorrt"
    assert "picks 'tensorrt'" in caplog.text


class TestCache:
    def test_builds_once(
        self, trt: ModuleType, landmark_file: Path, options: RuntimeOptions
    ) -> None:
        for _ in range(3):
            create_backend("tensorrt", landmark_file, options=options)
        assert len(trt.built) == 1
        (path,) = options.engine_cache.iterdir()
        assert path.name.startswith("tiny landmärks-")
        assert read_engine(path)[0].built.gpu == GPU

    def test_threads_build_once(
        self, trt: ModuleType, landmark_file: Path, options: RuntimeOptions
    ) -> None:
        with ThreadPoolExecutor(4) as pool:
            list(
                pool.map(
                    lambda _: create_backend("tensorrt", landmark_file, options=options), range(4)
                )
            )
        assert len(trt.built) == 1

    def test_another_file_tensorrt_or_gpu_is_another_engine(
        self,
        monkeypatch: pytest.MonkeyPatch,
        trt: ModuleType,
        memory: Memory,
        landmark_file: Path,
        options: RuntimeOptions,
        tmp_path: Path,
        mean_face: np.ndarray,
    ) -> None:
        create_backend("tensorrt", landmark_file, options=options)
        other = with_precision(tmp_path / landmark_file.name, mean_face, "fp16")
        create_backend("tensorrt", other, options=options)
        install(
            monkeypatch,
            tensorrt=fake_tensorrt(memory, "10.13.3.9"),
            runtime=fake_cuda_python(memory),
        )
        create_backend("tensorrt", landmark_file, options=options)
        assert len(list(options.engine_cache.iterdir())) == 3
        runtime = fake_cuda_python(memory)
        runtime.cudaGetDeviceProperties(0)[1].name = b"Other GPU"
        install(monkeypatch, tensorrt=fake_tensorrt(memory), runtime=runtime)
        create_backend("tensorrt", landmark_file, options=options)
        assert len(list(options.engine_cache.iterdir())) == 4

    def test_a_damaged_engine_is_built_again(
        self,
        trt: ModuleType,
        landmark_file: Path,
        options: RuntimeOptions,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        create_backend("tensorrt", landmark_file, options=options)
        (path,) = options.engine_cache.iterdir()
        path.write_bytes(path.read_bytes()[:-7])
        create_backend("tensorrt", landmark_file, options=options)
        assert len(trt.built) == 2
        assert "truncated" in caplog.text
        assert read_engine(path)

    def test_an_engine_that_tensorrt_refuses_is_built_again(
        self,
        trt: ModuleType,
        landmark_file: Path,
        options: RuntimeOptions,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """Its checksum is right, as where the driver has become another."""
        create_backend("tensorrt", landmark_file, options=options)
        (path,) = options.engine_cache.iterdir()
        record, plan = read_engine(path)
        write_engine(path, record, b"x" + plan)
        found = create_backend("tensorrt", landmark_file, options=options)
        assert len(trt.built) == 2
        assert f"cannot load {str(path)!r}" in caplog.text
        assert "building it again" in caplog.text
        assert read_engine(path)[1] == plan
        wanted = create_backend("cpu", landmark_file, 1).run({"image": noise(2)})
        assert_same(found.run({"image": noise(2)}), wanted)

    def test_threads_build_a_refused_engine_again_once(
        self, trt: ModuleType, landmark_file: Path, options: RuntimeOptions
    ) -> None:
        create_backend("tensorrt", landmark_file, options=options)
        (path,) = options.engine_cache.iterdir()
        record, plan = read_engine(path)
        write_engine(path, record, b"x" + plan)
        with ThreadPoolExecutor(4) as pool:
            jobs = [
                pool.submit(create_backend, "tensorrt", landmark_file, options=options)
                for _ in range(4)
            ]
        assert {job.result().name for job in jobs} == {"tensorrt"}
        assert len(trt.built) == 2

    def test_an_engine_that_is_refused_again_is_an_error(
        self,
        trt: ModuleType,
        landmark_file: Path,
        options: RuntimeOptions,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        create_backend("tensorrt", landmark_file, options=options)
        monkeypatch.setattr(trt.Runtime, "deserialize_cuda_engine", lambda self, plan: None)
        with pytest.raises(BackendError, match=r"cannot load .*TensorRT gave no reason"):
            create_backend("tensorrt", landmark_file, options=options)
        assert len(trt.built) == 2

    def test_a_folder_that_cannot_be_written_costs_only_the_copy(
        self,
        trt: ModuleType,
        landmark_file: Path,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        (tmp_path / "file").touch()
        options = RuntimeOptions(engine_cache=tmp_path / "file" / "cache")
        assert create_backend("tensorrt", landmark_file, options=options).run({"image": noise(1)})
        assert "is not kept" in caplog.text

    def test_the_folder_comes_from_the_environment(
        self,
        trt: ModuleType,
        landmark_file: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("FACEMARK_ENGINE_CACHE", str(tmp_path / "mine"))
        create_backend("tensorrt", landmark_file)
        assert len(list((tmp_path / "mine").iterdir())) == 1

    def test_the_folder_by_default(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(cache.sys, "platform", "linux")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert cache.cache_folder() == tmp_path / "facemark" / "engines"


class TestMismatch:
    @pytest.fixture
    def path(self, trt: ModuleType, landmark_file: Path, tmp_path: Path) -> Path:
        path = tmp_path / "elsewhere.engine"
        write_engine(path, *build_engine(landmark_file))
        return path

    def rebuilt(self, path: Path, **built: str) -> Path:
        record, plan = read_engine(path)
        changed = dataclasses.replace(record.built, **built)
        write_engine(path, dataclasses.replace(record, built=changed), plan)
        return path

    def test_other_tensorrt(self, path: Path) -> None:
        with pytest.raises(BackendError) as caught:
            create_backend("tensorrt", self.rebuilt(path, tensorrt="10.9.0.34"))
        message = str(caught.value)
        assert "elsewhere.engine" in message
        assert "TensorRT 10.9.0.34, here is 11.4.0.106" in message
        assert "facemark-export --engine" in message

    def test_other_kind_of_gpu(self, path: Path) -> None:
        with pytest.raises(BackendError, match=r"on Tiny GPU for .*capability 7.5, here is 9.0"):
            create_backend("tensorrt", self.rebuilt(path, gpu="Tiny GPU", capability="7.5"))

    def test_other_platform(self, path: Path) -> None:
        with pytest.raises(BackendError, match="platform Windows AMD64"):
            create_backend("tensorrt", self.rebuilt(path, platform="Windows AMD64"))

    def test_another_gpu_of_the_kind_is_logged(
        self, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        create_backend("tensorrt", self.rebuilt(path, gpu="Sister GPU"))
        assert "tuned on Sister GPU" in caplog.text

    def test_plan_that_tensorrt_refuses(self, path: Path) -> None:
        record, plan = read_engine(path)
        write_engine(path, record, b"x" + plan)
        with pytest.raises(BackendError, match=r"cannot load .*Serialization assertion failed"):
            create_backend("tensorrt", path)

    def test_plan_of_another_model(self, path: Path, trt: ModuleType, detector_file: Path) -> None:
        record, _ = read_engine(path)
        _, plan = build_engine(detector_file)
        write_engine(path, record, plan)
        with pytest.raises(BackendError, match=r"its record says .*cls float32"):
            create_backend("tensorrt", path)


class TestMissing:
    def test_tensorrt(self, monkeypatch: pytest.MonkeyPatch, landmark_file: Path) -> None:
        install(monkeypatch)
        with pytest.raises(
            BackendError, match=r"needs TensorRT 10 or 11.*facemark-sdk\[tensorrt\]"
        ):
            create_backend("tensorrt", landmark_file)

    @pytest.mark.parametrize("version", ["8.6.1", "9.3.0", "12.0.0.1"])
    def test_another_tensorrt(
        self, monkeypatch: pytest.MonkeyPatch, memory: Memory, landmark_file: Path, version: str
    ) -> None:
        install(monkeypatch, tensorrt=fake_tensorrt(memory, version))
        with pytest.raises(BackendError, match=f"needs TensorRT 10 or 11, {version} is installed"):
            create_backend("tensorrt", landmark_file)

    def test_cuda_library(
        self, monkeypatch: pytest.MonkeyPatch, memory: Memory, landmark_file: Path
    ) -> None:
        install(monkeypatch, tensorrt=fake_tensorrt(memory))
        with pytest.raises(BackendError, match=r"needs cuda-python \(or pycuda\).*pip install"):
            create_backend("tensorrt", landmark_file)

    def test_driver(
        self, monkeypatch: pytest.MonkeyPatch, memory: Memory, landmark_file: Path
    ) -> None:
        runtime = fake_cuda_python(memory, failing="cudaGetDeviceProperties")
        install(monkeypatch, tensorrt=fake_tensorrt(memory), runtime=runtime)
        with pytest.raises(
            BackendError, match=r"driver version is insufficient; check with nvidia-smi"
        ):
            create_backend("tensorrt", landmark_file)

    def test_memory_of_the_gpu(
        self,
        monkeypatch: pytest.MonkeyPatch,
        memory: Memory,
        landmark_file: Path,
        options: RuntimeOptions,
    ) -> None:
        runtime = fake_cuda_python(memory, failing="cudaMalloc")
        install(monkeypatch, tensorrt=fake_tensorrt(memory), runtime=runtime)
        engine = create_backend("tensorrt", landmark_file, options=options)
        with pytest.raises(BackendError, match="CUDA failed in cudaMalloc"):
            engine.run({"image": noise(1)})


class TestBuilding:
    def test_a_model_that_tensorrt_cannot_read(
        self, trt: ModuleType, tmp_path: Path, mean_face: np.ndarray
    ) -> None:
        """int8 for ONNX Runtime may be asymmetric; the message says what TensorRT wants."""
        trt.refuses_to_parse = True
        path = with_precision(tmp_path / "int8.onnx", mean_face, "int8")
        with pytest.raises(BackendError, match=r"cannot read .*shiftIsAllZeros.*zero points of 0"):
            build_engine(path)

    def test_an_engine_that_cannot_be_built(
        self, trt: ModuleType, landmark_file: Path, options: RuntimeOptions
    ) -> None:
        trt.refuses_to_build = True
        with pytest.raises(BackendError, match=r"cannot build an engine from .*out of memory"):
            create_backend("tensorrt", landmark_file, options=options)
        assert not options.engine_cache.exists()

    def test_a_model_without_a_spec(
        self, trt: ModuleType, tmp_path: Path, mean_face: np.ndarray, options: RuntimeOptions
    ) -> None:
        save(landmark_graph(mean_face), None, tmp_path / "foreign.onnx")
        with pytest.raises(ModelError, match="no facemark spec"):
            create_backend("tensorrt", tmp_path / "foreign.onnx", options=options)

    def test_a_damaged_model(
        self, trt: ModuleType, landmark_file: Path, tmp_path: Path, options: RuntimeOptions
    ) -> None:
        path = tmp_path / "cut.onnx"
        path.write_bytes(landmark_file.read_bytes()[:1000])
        with pytest.raises(ModelError, match=r"cut\.onnx"):
            create_backend("tensorrt", path, options=options)
