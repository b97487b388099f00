from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import onnxruntime as ort
import pytest
from conftest import CROP

from facemark_sdk import BackendError, FaceDetector, LandmarkModel, ModelError, load_image
from facemark_sdk.backends import BACKENDS, RuntimeOptions, cpus, create_backend
from facemark_sdk.backends import ort as ort_backend
from facemark_sdk.backends.cpus import limited_cpus
from facemark_sdk.backends.once import Once
from facemark_sdk.backends.ort_binding import MAX_SHAPES, BoundSession
from facemark_sdk.backends.pool import Pool
from facemark_sdk.landmark_model import MAX_BATCH
from facemark_sdk.models import open_model, resolve_model

HAS_CUDA = ort_backend.has_cuda()
BUNDLED = "pipnet_lite0_68"


def cuda_starts() -> bool:
    """Whether ONNX Runtime is built for CUDA and finds a GPU with all that it needs."""
    if not HAS_CUDA:
        return False
    try:
        create_backend("cuda", resolve_model(BUNDLED))
    except BackendError:
        return False
    return True


ON_CUDA = pytest.param(
    "cuda", marks=pytest.mark.skipif(not cuda_starts(), reason="ONNX Runtime starts on no GPU")
)


def crops(count: int) -> np.ndarray:
    return np.full((count, CROP, CROP, 3), 40, np.uint8)


def test_runs_named_arrays(landmark_file: Path) -> None:
    backend = create_backend("cpu", landmark_file, 1)
    outputs = backend.run({"image": crops(3)})
    assert backend.name == "cpu"
    assert [tensor.name for tensor in backend.outputs] == list(outputs)
    assert outputs["cls"].shape == (3, 68, 4, 4)
    assert backend.inputs[0].dtype == "uint8"
    assert backend.inputs[0].shape == ("N", CROP, CROP, 3)


def test_one_session_in_many_threads(landmark_file: Path) -> None:
    backend = create_backend("cpu", landmark_file, 2)
    with ThreadPoolExecutor(8) as pool:
        results = list(
            pool.map(lambda n: backend.run({"image": crops(n)})["x"].shape[0], range(1, 40))
        )
    assert results == list(range(1, 40))


def test_one_bundled_model_in_many_threads() -> None:
    """Points of eight threads at once are those of one after the other, bit for bit."""
    model = LandmarkModel(backend="cpu", threads=2)
    rng = np.random.default_rng(0)
    size = model.size
    batches = [rng.integers(0, 256, (1 + n % 3, size, size, 3), np.uint8) for n in range(12)]
    serial = [model.predict_crops(batch) for batch in batches]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(model.predict_crops, batches))
    for ours, theirs in zip(together, serial, strict=True):
        np.testing.assert_array_equal(ours.points, theirs.points)
        np.testing.assert_array_equal(ours.scores, theirs.scores)


@pytest.mark.skipif(HAS_CUDA, reason="onnxruntime-gpu is installed")
def test_cuda_without_the_gpu_wheel_names_the_extra(landmark_file: Path) -> None:
    with pytest.raises(BackendError, match=r"facemark-sdk\[gpu\]"):
        create_backend("cuda", landmark_file)


@pytest.mark.skipif(HAS_CUDA, reason="onnxruntime-gpu is installed")
def test_auto_says_what_it_picks(landmark_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "facemark"):
        assert create_backend("auto", landmark_file).name == "cpu"
    assert "picks 'cpu'" in caplog.text


@pytest.mark.skipif(HAS_CUDA, reason="onnxruntime-gpu is installed")
def test_no_silent_fall_back(landmark_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wheel that claims CUDA but whose session runs on the CPU is an error."""
    monkeypatch.setattr(ort_backend, "has_cuda", lambda: True)
    ort_warns = pytest.warns(UserWarning, match="CUDAExecutionProvider")
    with ort_warns, pytest.raises(BackendError, match="fell back"):
        create_backend("cuda", landmark_file)


@pytest.mark.skipif(HAS_CUDA, reason="onnxruntime-gpu is installed")
def test_auto_warns_when_cuda_does_not_start(
    landmark_file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ort_backend, "has_cuda", lambda: True)
    with pytest.warns(UserWarning, match="CUDAExecutionProvider"):
        assert create_backend("auto", landmark_file).name == "cpu"
    assert [record.levelname for record in caplog.records] == ["WARNING"]


@pytest.mark.parametrize("name", ["CPU", "", "nix", None])
def test_unknown_backend_lists_the_known(landmark_file: Path, name: str) -> None:
    with pytest.raises(BackendError, match=", ".join(BACKENDS)):
        create_backend(name, landmark_file)


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, "2"])
def test_bad_threads(landmark_file: Path, threads: int) -> None:
    with pytest.raises(BackendError, match="threads must be"):
        create_backend("cpu", landmark_file, threads)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_truncated_model(landmark_file: Path, tmp_path: Path, share: float) -> None:
    content = landmark_file.read_bytes()
    path = tmp_path / "cut.onnx"
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ModelError, match=r"cut\.onnx"):
        create_backend("cpu", path)


def test_foreign_file(tmp_path: Path, photo: Path) -> None:
    with pytest.raises(ModelError, match=r"astronaut\.png"):
        create_backend("cpu", photo)
    with pytest.raises(ModelError, match="does not exist"):
        create_backend("cpu", tmp_path)


@pytest.mark.parametrize(
    "inputs",
    [
        {"picture": crops(1)},
        {},
        {"image": crops(1).astype(np.float32)},
        {"image": crops(1)[:, :8]},
        {"image": crops(1)[0]},
    ],
)
def test_wrong_inputs(landmark_file: Path, inputs: dict[str, np.ndarray]) -> None:
    with pytest.raises(BackendError, match="backend 'cpu' failed"):
        create_backend("cpu", landmark_file).run(inputs)


def test_cpu_limits_are_positive() -> None:
    assert limited_cpus() is None or limited_cpus() >= 1


class TestOptions:
    """Spinning and arena, as ONNX Runtime then has them."""

    def settings(self, model: Path, options: RuntimeOptions | None) -> tuple[str, str, bool]:
        session = create_backend("cpu", model, 2, options)._session.get_session_options()
        values = []
        for name in ("session.intra_op.allow_spinning", "session.force_spinning_stop"):
            try:
                values.append(session.get_session_config_entry(name))
            except RuntimeError:  # not set: ONNX Runtime's default
                values.append("")
        assert session.intra_op_num_threads == 2
        return (*values, session.enable_cpu_mem_arena)

    def test_by_default(self, landmark_file: Path) -> None:
        """Threads spin in a run, not after it; memory is kept."""
        assert self.settings(landmark_file, None) == ("", "1", True)

    def test_given(self, landmark_file: Path) -> None:
        never = RuntimeOptions(spinning="never", arena=False)
        assert self.settings(landmark_file, never) == ("0", "", False)
        assert self.settings(landmark_file, RuntimeOptions(spinning="always")) == ("", "", True)

    def test_from_the_environment(
        self, landmark_file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("FACEMARK_SPINNING", "never")
        monkeypatch.setenv("FACEMARK_ARENA", "0")
        assert self.settings(landmark_file, None) == ("0", "", False)
        assert self.settings(landmark_file, RuntimeOptions()) == ("", "1", True)

    def test_through_open_model(self, landmark_file: Path) -> None:
        options = RuntimeOptions(arena=False)
        backend, _ = open_model(
            landmark_file, task="landmarks", backend="cpu", threads=1, options=options
        )
        assert not backend._session.get_session_options().enable_cpu_mem_arena

    def test_same_results(self, landmark_file: Path) -> None:
        wanted = create_backend("cpu", landmark_file, 1).run({"image": crops(3)})
        for spinning in ("never", "run", "always"):
            options = RuntimeOptions(spinning=spinning, arena=False)
            found = create_backend("cpu", landmark_file, 2, options).run({"image": crops(3)})
            for name, array in wanted.items():
                np.testing.assert_array_equal(found[name], array)

    @pytest.mark.parametrize(
        "bad", [{"spinning": "sometimes"}, {"arena": 1}, {"engine_cache": "folder"}]
    )
    def test_bad_values(self, bad: dict[str, object]) -> None:
        with pytest.raises(BackendError, match=f"{next(iter(bad))} must be"):
            RuntimeOptions(**bad)

    @pytest.mark.parametrize("variable", ["FACEMARK_SPINNING", "FACEMARK_ARENA"])
    def test_bad_variables(
        self, landmark_file: Path, monkeypatch: pytest.MonkeyPatch, variable: str
    ) -> None:
        monkeypatch.setenv(variable, "maybe")
        with pytest.raises(BackendError, match=f"{variable} must be one of .*'maybe'"):
            create_backend("cpu", landmark_file)


class TestBinding:
    """The way to a GPU, with the CPU as the device: buffers stay from run to run."""

    @pytest.fixture
    def session(self, landmark_file: Path) -> ort.InferenceSession:
        return ort.InferenceSession(str(landmark_file), providers=["CPUExecutionProvider"])

    @pytest.fixture
    def bound(self, session: ort.InferenceSession, landmark_file: Path) -> BoundSession:
        inputs = create_backend("cpu", landmark_file, 1).inputs
        return BoundSession(session, inputs, name="cuda", device="cpu", staging=None)

    def noise(self, count: int, seed: int = 0) -> np.ndarray:
        return np.random.default_rng(seed).integers(0, 256, (count, CROP, CROP, 3), np.uint8)

    def check(self, session: ort.InferenceSession, bound: BoundSession, image: np.ndarray) -> None:
        names = [tensor.name for tensor in session.get_outputs()]
        wanted = dict(zip(names, session.run(None, {"image": image}), strict=True))
        found = bound.run({"image": image})
        assert list(found) == names
        for name in names:
            np.testing.assert_array_equal(found[name], wanted[name], strict=True)

    def test_same_as_without(self, session: ort.InferenceSession, bound: BoundSession) -> None:
        """Also when a batch size comes again after so many others that its buffers are gone."""
        for round_ in range(2):
            for count in range(1, MAX_SHAPES + 4):
                self.check(session, bound, self.noise(count, round_))
        self.check(session, bound, np.asfortranarray(self.noise(2)))

    def test_results_outlive_the_next_run(self, bound: BoundSession) -> None:
        bound.run({"image": self.noise(2)})
        first = bound.run({"image": np.zeros((2, CROP, CROP, 3), np.uint8)})["cls"]
        kept = first.copy()
        second = bound.run({"image": np.full((2, CROP, CROP, 3), 255, np.uint8)})["cls"]
        np.testing.assert_array_equal(first, kept)
        assert not np.array_equal(first, second)

    def test_threads(self, session: ort.InferenceSession, bound: BoundSession) -> None:
        with ThreadPoolExecutor(6) as pool:
            list(
                pool.map(lambda n: self.check(session, bound, self.noise(1 + n % 4, n)), range(40))
            )

    def test_inputs_go_through_page_locked_memory(
        self, session: ort.InferenceSession, landmark_file: Path
    ) -> None:
        blocks: list[np.ndarray] = []

        def staging(nbytes: int) -> np.ndarray:
            blocks.append(np.zeros(nbytes, np.uint8))
            return blocks[-1]

        inputs = create_backend("cpu", landmark_file, 1).inputs
        bound = BoundSession(session, inputs, name="cuda", device="cpu", staging=staging)
        for seed in range(3):
            image = self.noise(2, seed)
            self.check(session, bound, image)
            np.testing.assert_array_equal(blocks[0], image.ravel())
        assert len(blocks) == 1

    @pytest.mark.parametrize(
        "inputs",
        [
            {"picture": crops(1)},
            {},
            {"image": crops(1).astype(np.float32)},
            {"image": crops(1)[:, :8]},
            {"image": crops(1)[0]},
        ],
    )
    def test_wrong_inputs(self, bound: BoundSession, inputs: dict[str, np.ndarray]) -> None:
        """ONNX Runtime copies the bytes of a bound array without a look at its type."""
        with pytest.raises(BackendError, match="backend 'cuda' failed"):
            bound.run(inputs)


@pytest.fixture(scope="module")
def faces(photo: Path) -> np.ndarray:
    """(5, S, S, 3): the photo's face, shifted so that no two crops are alike."""
    image = load_image(photo)
    box = FaceDetector("retinaface_mnet025", backend="cpu", threads=1)(image).boxes[0]
    boxes = box + np.linspace(0, 24, 5, dtype=np.float32)[:, None]
    return LandmarkModel(BUNDLED, backend="cpu", threads=1).crop([image], [boxes])[0]


@pytest.fixture(scope="module")
def wanted(faces: np.ndarray) -> dict[str, np.ndarray]:
    return create_backend("cpu", resolve_model(BUNDLED), 1).run({"image": faces})


@pytest.fixture(scope="module")
def decoding_file(faces: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled file with its decoder in the graph."""
    pytest.importorskip("torch")
    pytest.importorskip("onnxslim")
    from facemark_export.decoder_inside import put_decoder_inside
    from facemark_export.onnx_file import load

    path = tmp_path_factory.mktemp("decoding") / "decoding.onnx"
    path.write_bytes(resolve_model(BUNDLED).read_bytes())
    assert put_decoder_inside(*load(path), [faces], path).passed
    return path


@pytest.mark.parametrize("name", ["cpu", ON_CUDA])
class TestDevices:
    """The bundled network on real faces: on a GPU as on the CPU, which is its own rehearsal."""

    PX = 0.05
    SHARE = 1e-3
    """Of a map's largest value: fp32 summed in another order."""

    def check(self, found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
        assert list(found) == list(wanted)
        for output, array in wanted.items():
            assert found[output].shape == array.shape
            assert found[output].dtype == np.float32
            np.testing.assert_allclose(
                found[output], array, rtol=0, atol=self.SHARE * np.abs(array).max()
            )

    def test_outputs_are_the_cpus(
        self, name: str, faces: np.ndarray, wanted: dict[str, np.ndarray]
    ) -> None:
        backend = create_backend(name, resolve_model(BUNDLED), 1)
        assert backend.name == name
        for count in (5, 1, 5):  # buffers of a shape are used again
            found = backend.run({"image": faces[:count]})
            self.check(found, {output: array[:count] for output, array in wanted.items()})

    def test_points_are_the_cpus(self, name: str, faces: np.ndarray) -> None:
        model = LandmarkModel(BUNDLED, backend=name, threads=1)
        cpu = LandmarkModel(BUNDLED, backend="cpu", threads=1)
        crowd = np.concatenate([faces] * 14)  # more than the network sees at once
        assert len(crowd) > MAX_BATCH
        found, expected = model.predict_crops(crowd), cpu.predict_crops(faces)
        assert model.backend == name
        np.testing.assert_allclose(found.points, np.tile(expected.points, (14, 1, 1)), atol=self.PX)
        np.testing.assert_allclose(found.scores, np.tile(expected.scores, (14, 1)), atol=0.01)

    def test_two_threads_share_a_session(
        self, name: str, faces: np.ndarray, wanted: dict[str, np.ndarray]
    ) -> None:
        """Each with faces of its own, and with batches of one shape at the same time."""
        backend = create_backend(name, resolve_model(BUNDLED), 1)
        together = Barrier(2)

        def work(first: int) -> None:
            together.wait()
            for turn in range(8):
                part = slice(first, first + 1 + turn % 2)
                found = backend.run({"image": faces[part]})
                self.check(found, {output: array[part] for output, array in wanted.items()})

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(work, (0, 3)))

    def test_auto_picks_it(
        self, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(ort_backend, "has_cuda", lambda: name == "cuda")
        with caplog.at_level(logging.INFO, "facemark"):
            assert LandmarkModel(BUNDLED).backend == name
        assert f"picks {name!r}" in caplog.text

    def test_only_points_come_back(self, name: str, faces: np.ndarray, decoding_file: Path) -> None:
        backend = create_backend(name, decoding_file, 1)
        assert [tensor.name for tensor in backend.outputs] == ["points", "scores"]
        shapes = {output: array.shape for output, array in backend.run({"image": faces}).items()}
        assert shapes == {"points": (5, 68, 2), "scores": (5, 68)}
        found = LandmarkModel(decoding_file, backend=name, threads=1).predict_crops(faces)
        maps = LandmarkModel(BUNDLED, backend="cpu", threads=1).predict_crops(faces)
        np.testing.assert_allclose(found.points, maps.points, atol=self.PX)
        np.testing.assert_allclose(found.scores, maps.scores, atol=0.01)


def test_pool_lends_to_one_at_a_time_and_keeps_no_broken_item() -> None:
    made = iter(range(10))
    pool = Pool(lambda: next(made))
    with pool.borrow() as first, pool.borrow() as second:
        assert {first, second} == {0, 1}
    with pytest.raises(KeyError), pool.borrow() as broken:
        raise KeyError
    with pool.borrow() as a, pool.borrow() as b:
        assert broken not in (a, b)
        assert {a, b} == ({0, 1} - {broken}) | {2}


@pytest.mark.parametrize(
    ("machine", "flags", "expected"),
    [
        ("x86_64", "fpu avx2 avx512f avx512_vnni", True),
        ("x86_64", "fpu avx2 avx_vnni", True),
        ("AMD64", "fpu amx_int8", True),
        ("x86_64", "fpu avx2 avx512f avx512_vnni_like", False),
        ("AMD64", None, False),
        ("aarch64", None, True),
        ("riscv64", None, True),
    ],
)
def test_int8_products_are_for_cpus_that_sum_them_exactly(
    monkeypatch, tmp_path, machine, flags, expected
):
    info = tmp_path / "cpuinfo"
    if flags is not None:
        info.write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    monkeypatch.setattr(cpus, "_CPUINFO", info)
    monkeypatch.setattr(cpus.platform, "machine", lambda: machine)
    assert cpus.sums_int8_exactly.__wrapped__() is expected
    assert cpus.has_amx_int8() is (flags is not None and "amx_int8" in flags)


@pytest.mark.parametrize("error", [PermissionError, FileNotFoundError, IsADirectoryError])
def test_a_cpu_that_may_not_be_asked_counts_as_one_that_does_not_say(monkeypatch, error):
    def refuse(self, *args, **kwargs):
        raise error("/proc/cpuinfo")

    monkeypatch.setattr(cpus.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(Path, "read_text", refuse)
    assert cpus.sums_int8_exactly.__wrapped__() is False
    assert cpus.has_amx_int8() is False


def test_a_cpu_whose_description_is_no_text(monkeypatch, tmp_path):
    info = tmp_path / "cpuinfo"
    info.write_bytes(b"model name : \xff\xfe\nflags : avx_vnni\n")
    monkeypatch.setattr(cpus, "_CPUINFO", info)
    monkeypatch.setattr(cpus.platform, "machine", lambda: "x86_64")
    assert cpus.sums_int8_exactly.__wrapped__() is True


def test_fp32_on_cuda_is_fp32(landmark_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime's CUDA provider would take TF32's ten bits where it is not told otherwise."""
    asked: list[dict[str, dict[str, str]]] = []
    session = ort.InferenceSession

    def on_the_cpu(path, options, providers):
        asked.append(dict(providers))
        return session(path, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(ort_backend.ort, "InferenceSession", on_the_cpu)
    monkeypatch.setattr(ort_backend, "has_cuda", lambda: True)
    with pytest.raises(BackendError, match="fell back"):
        create_backend("cuda", landmark_file, 1)
    create_backend("cpu", landmark_file, 1)
    assert asked == [{"CUDAExecutionProvider": {"use_tf32": "0"}}, {"CPUExecutionProvider": {}}]


class TestOnce:
    def test_first_callers_at_once_get_the_same(self) -> None:
        made: list[object] = []
        everybody = Barrier(8)

        @Once
        def thing(name: str) -> object:
            time.sleep(0.02)  # so that all of them have called
            made.append(object())
            return made[-1]

        def call(_: int) -> object:
            everybody.wait()
            return thing("x")

        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(call, range(8)))
        assert len(made) == 1
        assert found == made * 8
        assert thing("y") is not made[0]
        thing.cache_clear()
        assert thing("x") is not made[0]

    def test_what_fails_is_tried_anew(self) -> None:
        answers = iter([BackendError("no driver yet"), "made"])

        @Once
        def thing() -> str:
            answer = next(answers)
            if isinstance(answer, Exception):
                raise answer
            return answer

        with pytest.raises(BackendError, match="no driver yet"):
            thing()
        assert (thing(), thing()) == ("made", "made")
