"""`facemark bench`: its arithmetic by hand, its files, and the command as a user runs it.

No time is asserted, only what is counted of times that the tests make up.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from conftest import CROP, landmark_graph, landmark_spec, save

import facemark_sdk.backends
import facemark_sdk.cli.bench
from facemark_sdk import (
    BackendError,
    DataError,
    FaceDetector,
    FacemarkError,
    ModelError,
    load_image,
    models,
)
from facemark_sdk.backends import BACKENDS, Backend, RuntimeOptions
from facemark_sdk.backends.base import TensorInfo
from facemark_sdk.backends.tensorrt.engine_file import Built, EngineRecord, write_engine
from facemark_sdk.backends.tensorrt.profile import Profile
from facemark_sdk.bench import (
    BUNDLED_FRAME,
    STAGES,
    Configuration,
    Finder,
    LeftOut,
    Peak,
    Protocol,
    Result,
    Subject,
    Unable,
    bundled_models,
    combine,
    compare,
    describe_machine,
    finder_of,
    load,
    machine,
    measure,
    memory,
    notes,
    open_frames,
    peak_memory_alone,
    read_record,
    record,
    summarise,
    versions,
)
from facemark_sdk.bench.measure import TURN
from facemark_sdk.cli.bench import Bench
from facemark_sdk.cli.console import UsageError

Done = subprocess.CompletedProcess[str]
Run = Callable[..., Done]

MACHINE = {"cpu": "one", "cpus": 2, "gpus": [], "system": "here", "versions": {"numpy": "2"}}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def percentile(values: list[float], percent: float) -> float:
    """Between the two nearest values in order, by the share of the way."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


@pytest.mark.parametrize("count", [1, 2, 7, 100])
def test_percentiles_by_hand(count: int) -> None:
    values = np.random.default_rng(count).exponential(10, count).tolist()
    found = summarise(values)
    for percent, value in ((50, found.p50_ms), (95, found.p95_ms), (99, found.p99_ms)):
        assert value == pytest.approx(percentile(values, percent))


def test_all_combinations_each_once() -> None:
    found = combine(["a", "b", "a"], ["cpu"], [None, 2], [1, 8])
    assert found == [
        Configuration(model, "cpu", threads, batch)
        for model in ("a", "b")
        for threads in (None, 2)
        for batch in (1, 8)
    ]


def test_configurations_take_turns_in_alternating_order() -> None:
    calls: list[str] = []

    def subject(name: str) -> Callable[[], dict[str, float]]:
        def run() -> dict[str, float]:
            calls.append(name)
            return {"total": float(len(calls))}

        return run

    times = measure([subject("a"), subject("b")], Protocol(repeat=TURN + 3, warm_up=2))
    first, rest = TURN + 1, 3 + 1  # one more in each turn, which does not count
    assert "".join(calls) == "aabb" + "a" * first + "b" * first + "b" * rest + "a" * rest
    uncounted_a = 4
    assert [run["total"] for run in times[0][:2]] == [uncounted_a + 2, uncounted_a + 3]
    assert [len(runs) for runs in times] == [TURN + 3, TURN + 3]


def test_turns_may_be_shorter() -> None:
    calls: list[str] = []

    def run(name: str) -> dict[str, float]:
        calls.append(name)
        return {}

    subjects = [lambda name=name: run(name) for name in "ab"]
    times = measure(subjects, Protocol(repeat=5, warm_up=1, turn=2))
    assert "".join(calls) == "ab" + "aaabbb" + "bbbaaa" + "aabb"
    assert [len(runs) for runs in times] == [5, 5]


def test_bundled_models_by_task() -> None:
    assert "pipnet_lite0_68" in bundled_models("landmarks")
    assert "retinaface_mnet025" in bundled_models("detection")
    assert not set(bundled_models("landmarks")) & set(bundled_models("detection"))


@pytest.fixture
def subject_of(face_detector: FaceDetector, landmark_file: Path) -> Callable[..., Subject]:
    def make(batch: int = 1, model: Path = landmark_file, image: Path = BUNDLED_FRAME) -> Subject:
        configuration = Configuration(str(model), "auto", 1, batch)
        return Subject(configuration, face_detector, open_frames([image]))

    return make


def test_a_run_has_all_stages_and_total_holds_them(subject_of: Callable[..., Subject]) -> None:
    subject = subject_of(batch=5)
    times = subject()
    assert set(times) == set(STAGES) == set(subject.stages)
    assert times["total"] >= sum(times[name] for name in STAGES[:-1])
    assert subject.resolved == Configuration(subject.configuration.model, "cpu", 1, 5)


def test_the_bundled_frame_has_one_face() -> None:
    image = load_image(BUNDLED_FRAME)
    assert image.shape == (480, 640, 3)
    assert len(FaceDetector(backend="cpu", threads=1)(image)) == 1


def test_the_batch_is_the_faces_repeated(
    subject_of: Callable[..., Subject], scene: Callable[..., np.ndarray], tmp_path: Path
) -> None:
    photo = tmp_path / "two.png"
    photo.write_bytes(cv2.imencode(".png", scene((72, 72, 255), (184, 184, 255)))[1].tobytes())
    subject = subject_of(batch=3, image=photo)
    assert subject.faces == (2,)
    (boxes,) = subject._boxes
    assert boxes.shape == (3, 4)
    np.testing.assert_array_equal(boxes[2], boxes[0])
    assert (boxes[1] != boxes[0]).any()


def test_without_a_face_the_middle_is_taken(
    subject_of: Callable[..., Subject], scene: Callable[..., np.ndarray], tmp_path: Path
) -> None:
    photo = tmp_path / "none.png"
    photo.write_bytes(cv2.imencode(".png", scene(size=(320, 240)))[1].tobytes())
    subject = subject_of(batch=2, image=photo)
    assert subject.faces == (0,)
    np.testing.assert_array_equal(subject._boxes[0], [[100, 60, 220, 180]] * 2)
    assert set(subject()) == set(STAGES)


def test_a_detector_alone(subject_of: Callable[..., Subject], detector_file: Path) -> None:
    assert set(subject_of(model=detector_file)()) == {"decode image", "detect", "total"}
    with pytest.raises(Unable, match="one frame at a time"):
        subject_of(model=detector_file, batch=2)


@pytest.fixture
def fixed_file(mean_face: np.ndarray, tmp_path: Path) -> Path:
    """A landmark model whose file takes one crop at a time."""
    graph = landmark_graph(mean_face)
    graph.input[0].CopyFrom(
        onnx.helper.make_tensor_value_info("image", onnx.TensorProto.UINT8, [1, CROP, CROP, 3])
    )
    path = tmp_path / "fixed.onnx"
    save(graph, landmark_spec(mean_face), path)
    return path


def test_a_batch_that_the_file_does_not_take(
    subject_of: Callable[..., Subject], fixed_file: Path
) -> None:
    subject_of(model=fixed_file)
    with pytest.raises(Unable, match="batches of 1 only, not 4"):
        subject_of(model=fixed_file, batch=4)


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Backend cuda does not start; the list is of the files that it was asked to run."""
    asked: list[Path] = []

    def create(model: Path, threads: int | None, options: RuntimeOptions) -> None:
        asked.append(model)
        raise BackendError("no such card")

    monkeypatch.setitem(BACKENDS, "cuda", create)
    return asked


def test_a_backend_that_does_not_start_is_left_out(
    no_cuda: list[Path], landmark_file: Path, detector_file: Path
) -> None:
    wanted = combine([str(landmark_file)], ["cuda", "cpu"], [1], [1, 2])
    subjects, left_out = load(wanted, str(detector_file), open_frames([]))
    assert [subject.configuration for subject in subjects] == wanted[2:]
    assert left_out == [LeftOut(each, "no such card") for each in wanted[:2]]
    assert no_cuda == [detector_file]  # once: an engine would take minutes to fail again


def test_no_backend_that_starts_is_an_error(
    no_cuda: list[Path], landmark_file: Path, detector_file: Path
) -> None:
    command = Bench((str(landmark_file),), backend=("cuda",), detector=str(detector_file))
    with pytest.raises(FacemarkError, match=r"nothing can be measured: .*cuda.*: no such card"):
        command.run()


def test_the_same_configuration_runs_once(landmark_file: Path, detector_file: Path) -> None:
    wanted = combine([str(landmark_file)], ["auto", "cpu"], [1], [1])
    subjects, left_out = load(wanted, str(detector_file), open_frames([]))
    assert [subject.configuration.backend for subject in subjects] == ["auto"]
    assert [each.configuration.backend for each in left_out] == ["cpu"]
    assert "measured already: backend 'auto'" in left_out[0].why


@pytest.fixture
def engine_file(mean_face: np.ndarray, tmp_path: Path) -> Path:
    """A whole engine file, though of a plan that TensorRT would not load."""
    record = EngineRecord(
        spec=landmark_spec(mean_face).to_json(),
        inputs=(TensorInfo("image", "uint8", ("batch", CROP, CROP, 3)),),
        outputs=(TensorInfo("points", "float", ("batch", 68, 2)),),
        profile=Profile((1, 8, 64)),
        built=Built("11.4.0.106", "NVIDIA H100", "9.0", "Linux x86_64"),
        onnx_sha256="ab" * 32,
    )
    path = tmp_path / "x.engine"
    write_engine(path, record, b"plan")
    return path


@pytest.fixture
def no_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    def create(model: Path, threads: int | None, options: RuntimeOptions) -> None:
        raise BackendError("no TensorRT")

    monkeypatch.setitem(BACKENDS, "tensorrt", create)


@pytest.mark.usefixtures("no_tensorrt")
def test_an_engine_is_left_out_where_it_cannot_run(
    engine_file: Path, landmark_file: Path, detector_file: Path
) -> None:
    wanted = combine([str(engine_file), str(landmark_file)], ["cpu", "tensorrt"], [1], [1])
    subjects, left_out = load(wanted, str(detector_file), open_frames([]))
    assert [subject.configuration for subject in subjects] == [wanted[2]]
    assert [each.configuration for each in left_out] == [wanted[0], wanted[1], wanted[3]]
    assert "x.engine' is a TensorRT engine, which backend 'cpu' cannot run" in left_out[0].why
    assert [each.why for each in left_out[1:]] == ["no TensorRT"] * 2


@pytest.mark.usefixtures("no_tensorrt")
def test_a_detector_that_is_an_engine_goes_before_nothing_on_other_backends(
    engine_file: Path, landmark_file: Path
) -> None:
    wanted = combine([str(landmark_file)], ["cpu", "tensorrt"], [1], [1])
    subjects, (first, second) = load(wanted, str(engine_file), open_frames([]))
    assert subjects == []
    assert "x.engine' is a TensorRT engine, which backend 'cpu' cannot run" in first.why
    assert second.why == "no TensorRT"


@pytest.mark.parametrize("damaged", [b"FACEMARK", b"nothing"])
def test_a_file_that_nothing_can_run_is_an_error(
    damaged: bytes, landmark_file: Path, detector_file: Path, tmp_path: Path
) -> None:
    path = tmp_path / "bad.engine"
    path.write_bytes(damaged)
    wanted = combine([str(landmark_file), str(path)], ["cpu"], [1], [1])
    with pytest.raises(ModelError, match=r"bad\.engine"):
        load(wanted, str(detector_file), open_frames([]))


@pytest.fixture
def int8_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU that is fast in int8, and ONNX Runtime for CPUs whose backend cuda claims to start."""

    def create(model: Path, threads: int | None, options: RuntimeOptions) -> Backend:
        backend = BACKENDS["cpu"](model, threads, options)
        backend.name = "cuda"
        return backend

    monkeypatch.setitem(BACKENDS, "cuda", create)
    monkeypatch.setattr(models, "sums_int8_exactly", lambda: True)
    monkeypatch.setattr(facemark_sdk.backends, "may_use_cuda", lambda: False)


FP32, INT8 = "retinaface_mnet025", "retinaface_mnet025_int8"


@pytest.mark.usefixtures("int8_on_cpu")
def test_each_backend_has_its_own_default_detector(landmark_file: Path) -> None:
    wanted = combine([str(landmark_file)], ["cpu", "cuda"], [1], [1])
    subjects, _ = load(wanted, None, open_frames([]))
    assert [subject.detector.spec.name for subject in subjects] == [INT8, FP32]
    assert [finder_of(subject, None) for subject in subjects] == [
        Finder(name, backend, sha256(models.resolve_model(name)))
        for name, backend in ((INT8, "cpu"), (FP32, "cuda"))
    ]


@pytest.mark.usefixtures("int8_on_cpu")
def test_a_detector_that_is_chosen_goes_before_all(
    landmark_file: Path, detector_file: Path
) -> None:
    wanted = combine([str(landmark_file), FP32], ["cpu", "cuda"], [1], [1])
    chosen = str(detector_file)
    subjects, _ = load(wanted, chosen, open_frames([]))
    assert [finder_of(subject, chosen) for subject in subjects] == [
        Finder(chosen, "cpu", sha256(detector_file)),
        Finder(chosen, "cuda", sha256(detector_file)),
        None,
        None,
    ]


@pytest.mark.usefixtures("int8_on_cpu")
def test_the_command_says_which_detector_a_row_had(
    landmark_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(facemark_sdk.cli.bench, "peak_memory_alone", lambda *_: Peak(7.0))
    report = tmp_path / "x.json"
    Bench(
        (str(landmark_file),), ("cpu", "cuda"), threads=(1,), repeat=1, warm_up=0, json=report
    ).run()
    assert f"found by {INT8} on cpu or {FP32} on cuda" in capsys.readouterr().out
    results = read_record(report)["results"]
    assert [(each["backend"], each["detector"]["model"]) for each in results] == [
        ("cpu", INT8),
        ("cuda", FP32),
    ]


@pytest.mark.usefixtures("int8_on_cpu")
def test_another_detector_is_not_the_same(
    landmark_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Backend auto hoped for a GPU, chose its detector, and fell back to the CPU."""
    monkeypatch.setattr(models, "may_use_cuda", lambda: True)
    wanted = combine([str(landmark_file)], ["auto", "cpu"], [1], [1])
    (subject,), (lost,) = load(wanted, None, open_frames([]))
    assert subject.detector.spec.name == FP32
    assert f"found by {FP32} on cpu, not {INT8} on cpu" in lost.why


def test_detectors_that_do_not_agree_are_told_apart() -> None:
    frames = open_frames([BUNDLED_FRAME, BUNDLED_FRAME])
    first, *rest = notes.on_frames(frames, {"a": (1, 2), "b": (1, 0), "c": (1, 0)})
    assert first.endswith("(640x480), 1 face(s), repeated to fill the batch.")
    two, none = rest
    assert "2 face(s) found by a, repeated" in two
    assert "in which b and c find no face" in none


def install(folder: Path, name: str, version: str | None) -> None:
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    if version is not None:
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def test_versions_of_what_a_gpu_runs_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, version in (
        ("tensorrt_cu12", "10.9.0.34"),
        ("tensorrt_cu12_libs", "10.9.0.34"),
        ("cuda-python", "12.8.0"),
        ("cuda_bindings", None),  # half removed
        ("onnxruntime-gpu", "1.22.0"),
        ("nvidia-cuda-runtime-cu12", "12.8.90"),
        ("nvidia-cudnn-cu12", "9.8.0.87"),
        ("numpy-of-another", "1"),
    ):
        install(tmp_path / "first", name, version)
    install(tmp_path / "second", "cuda-python", "11.0")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "first"), str(tmp_path / "second")])
    assert versions.package_versions() == {
        "cuda-python": "12.8.0",
        "nvidia-cuda-runtime-cu12": "12.8.90",
        "nvidia-cudnn-cu12": "9.8.0.87",
        "onnxruntime-gpu": "1.22.0",
        "tensorrt-cu12": "10.9.0.34",
    }


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (None, {}),
        ("[]", {}),
        ("{", {}),
        ('{"cuda": {"version": "12.4.1"}}', {}),
        ('{"cuda_cudart": {"version": "12.4.127"}}', {"cuda-runtime": "12.4.127"}),
    ],
)
def test_version_of_the_cuda_runtime(
    content: str | None, found: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "_TOOLKIT", tmp_path / "version.json")
    if content is not None:
        (tmp_path / "version.json").write_text(content)
    assert versions.toolkit_version() == found


DRIVERS = {
    "closed": "NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023",
    "open": (
        "NVIDIA UNIX Open Kernel Module for x86_64  560.35.03  Release Build  (dvs-builder)  "
        "Fri Aug 16 21:42:42 UTC 2024"
    ),
}


def test_version_of_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(versions, "_DRIVER", tmp_path / "version")
    monkeypatch.setattr(machine, "_said_by", lambda *command: said)
    assert "nvidia-driver" not in describe_machine()["versions"]
    said.append("570.1")
    assert describe_machine()["versions"]["nvidia-driver"] == "570.1"
    for kind, version in (("closed", "535.104.05"), ("open", "560.35.03")):
        (tmp_path / "version").write_text(
            f"NVRM version: {DRIVERS[kind]}\nGCC version:  gcc version 12.2.0 (Debian)\n"
        )
        assert describe_machine()["versions"]["nvidia-driver"] == version


def test_a_peak_that_is_measured(landmark_file: Path, detector_file: Path) -> None:
    configuration = Configuration(str(landmark_file), "cpu", 1, 1)
    peak = peak_memory_alone(configuration, str(detector_file), open_frames([]))
    if sys.platform == "linux":
        assert (peak.megabytes or 0) > 10
    assert (peak.megabytes is None) == bool(peak.why)


def test_a_peak_that_is_not_known_has_its_reason(
    landmark_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def why(model: object = landmark_file) -> str:
        configuration = Configuration(str(model), "cpu", 1, 1)
        peak = peak_memory_alone(configuration, str(landmark_file), open_frames([]))
        assert peak.megabytes is None
        return peak.why

    assert "exit status 1: facemark_sdk.errors.ModelError: model 'tiny" in why()
    with monkeypatch.context() as patch:
        patch.setattr(memory, "_SECONDS", 0.01)
        assert "longer than 0 s" in why()
    program = tmp_path / "program"
    monkeypatch.setattr(sys, "executable", str(program))
    assert "gave no figure: " in why()
    program.touch(0o755)
    for content, said in (
        ("kill -9 $$", "was ended by signal 9"),
        ("echo no number", "gave no figure: "),
        ("exit 3", "failed with exit status 3"),
        ("echo null", "this system does not tell it"),
    ):
        program.write_text(f"#!/bin/sh\n{content}\n")
        assert said in why()


def test_the_command_says_once_why_a_peak_is_missing(
    landmark_file: Path,
    detector_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    peaks = iter([Peak(None, "it was killed"), Peak(5.0), Peak(None, "it was killed")])
    monkeypatch.setattr(facemark_sdk.cli.bench, "peak_memory_alone", lambda *_: next(peaks))
    command = Bench(
        (str(landmark_file),),
        ("cpu",),
        threads=(1,),
        batch=(1, 2, 3),
        detector=str(detector_file),
        repeat=1,
        warm_up=0,
    )
    command.run()
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "not known" in line)
    assert line.startswith("Peak memory not known of ")
    assert line.endswith(": it was killed")
    assert [f"batch {batch})" in line for batch in (1, 2, 3)] == [True, False, True]


RUNTIME = RuntimeOptions()
FINDER = Finder("d", "cpu", "d" * 64)


def benchmark(
    *totals: float,
    peak: float | None = 100.0,
    image: Path = BUNDLED_FRAME,
    precision: str = "fp32",
    runtime: RuntimeOptions = RUNTIME,
    names: str = "abc",
    files: str = "123",
    detector: Finder | None = FINDER,
    **changed: object,
) -> dict:
    """A record of models a, b, ... whose runs take so many milliseconds.

    `files` are digits of which the checksums of their files are made.
    """
    results = [
        Result(
            Configuration(name, "cpu", None, 4),
            file * 64,
            precision,
            detector,
            {
                "network": summarise([total / 2, total / 2, total * 7]),
                "total": summarise([total, total, total * 9]),
            },
            peak,
        )
        for name, file, total in zip(names, files, totals, strict=False)
    ]
    frames = [(frame, 1) for frame in open_frames([image])]
    lost = LeftOut(Configuration("z", "cpu", 1, 9), "too large")
    return record({**MACHINE, **changed}, runtime, frames, Protocol(3, 0), results, [lost])


def written(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_a_record_survives_its_file(tmp_path: Path) -> None:
    content = benchmark(10.0, 20.0, peak=None)
    assert read_record(written(tmp_path / "b.json", content)) == content
    first, second = content["results"]
    assert (first["model"], first["threads"], first["batch"]) == ("a", None, 4)
    assert first["stages"]["total"]["p50_ms"] == 10.0
    assert first["stages"]["total"]["p95_ms"] == pytest.approx(10 + 0.9 * 80)
    assert (first["fps"], second["fps"]) == (100.0, 50.0)
    assert (first["faces_per_second"], first["peak_memory_mb"]) == (400.0, None)
    assert (first["sha256"], second["sha256"]) == ("1" * 64, "2" * 64)
    assert first["detector"] == {"model": "d", "backend": "cpu", "sha256": "d" * 64}
    assert content["frames"][0] == {
        "file": str(BUNDLED_FRAME),
        "sha256": sha256(BUNDLED_FRAME),
        "width": 640,
        "height": 480,
        "faces": 1,
    }
    assert content["runtime"] == {"spinning": "run", "arena": True}
    assert content["left_out"] == [
        {"model": "z", "backend": "cpu", "threads": 1, "batch": 9, "why": "too large"}
    ]


def of_schema_2(content: dict) -> dict:
    """As the version before wrote it."""
    results = [
        {key: value for key, value in result.items() if key not in ("sha256", "detector")}
        for result in content["results"]
    ]
    return {**content, "schema": 2, "detector": "d", "results": results}


def test_records_before_models_had_checksums(tmp_path: Path) -> None:
    old = read_record(written(tmp_path / "old.json", of_schema_2(benchmark(10.0, 20.0))))
    assert [each["sha256"] for each in old["results"]] == [None, None]
    assert old["results"][0]["detector"] == {"model": "d", "backend": None, "sha256": None}
    for found in (compare(old, benchmark(5.0, 5.0)), compare(old, old)):
        assert [row["model"] for row in found["rows"]] == ["a", "b"]
        assert found["differences"] == found["moved"] == []
    new = benchmark(5.0, detector=Finder("e", "cpu", "e" * 64))
    assert compare(old, new)["differences"] == ["detector: d -> e on cpu (SHA-256 eeeeeeee)"]
    with pytest.raises(DataError, match="nothing to compare"):
        compare(old, benchmark(5.0, names="x"))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("detector", 5, "detector must be a text"),
        ("results", {}, "results must be a list"),
        ("results", [7], "results.0 must be an object"),
        ("results", [{}], "results.0.model is missing"),
    ],
)
def test_damage_of_older_records(tmp_path: Path, name: str, value: object, said: str) -> None:
    content = {**of_schema_2(benchmark(1.0)), name: value}
    with pytest.raises(DataError, match=rf"x\.json' is damaged: {said}"):
        read_record(written(tmp_path / "x.json", content))


def test_another_file_under_the_same_name_is_said() -> None:
    found = compare(benchmark(1.0, 2.0, files="12"), benchmark(1.0, 2.0, files="32"))
    assert [row["model"] for row in found["rows"]] == ["a", "b"]
    assert found["differences"] == ["file of a: SHA-256 11111111 -> 33333333"]


def test_the_same_file_under_another_name_is_compared() -> None:
    found = compare(benchmark(10.0, 2.0), benchmark(2.0, 5.0, 9.0, names="bxy", files="219"))
    assert [row["model"] for row in found["rows"]] == ["a", "b"]
    assert found["rows"][0]["stages"]["total"] == {"old": 10.0, "new": 5.0, "ratio": 0.5}
    assert found["moved"] == [{"old": "a", "new": "x"}]
    assert (found["only_old"], [each["model"] for each in found["only_new"]]) == ([], ["y"])
    assert found["differences"] == []


def test_a_name_counts_before_a_file() -> None:
    """A file was moved away, and another put in its place."""
    found = compare(benchmark(1.0, files="1"), benchmark(1.0, 2.0, names="ax", files="21"))
    assert [row["model"] for row in found["rows"]] == ["a"]
    assert [each["model"] for each in found["only_new"]] == ["x"]
    assert found["differences"] == ["file of a: SHA-256 11111111 -> 22222222"]


@pytest.mark.parametrize(
    ("detector", "said"),
    [
        (Finder("d", "cpu", "d" * 64), None),
        (Finder("moved", "cpu", "d" * 64), None),
        (None, None),
        (Finder("d", "cpu", "e" * 64), "d on cpu (SHA-256 eeeeeeee)"),
        (Finder("d", "cuda", "d" * 64), "d on cuda (SHA-256 dddddddd)"),
    ],
)
def test_another_detector_is_said_once(detector: Finder | None, said: str | None) -> None:
    found = compare(benchmark(1.0, 2.0), benchmark(1.0, 2.0, detector=detector))
    wanted = [f"detector: d on cpu (SHA-256 dddddddd) -> {said}"] if said else []
    assert found["differences"] == wanted


def test_a_version_of_one_only() -> None:
    new = benchmark(1.0, versions={"numpy": "2", "tensorrt": "10.9"})
    assert compare(benchmark(1.0), new)["differences"] == ["tensorrt: none -> 10.9"]


def test_ratios_by_hand() -> None:
    found = compare(benchmark(10.0, 40.0, peak=200.0), benchmark(5.0, 60.0, 1.0, peak=100.0))
    a, b = found["rows"]
    assert a["stages"]["total"] == {"old": 10.0, "new": 5.0, "ratio": 0.5}
    assert b["stages"]["total"] == {"old": 40.0, "new": 60.0, "ratio": 1.5}
    assert b["stages"]["network"] == {"old": 20.0, "new": 30.0, "ratio": 1.5}
    assert a["peak_memory_mb"] == {"old": 200.0, "new": 100.0, "ratio": 0.5}
    assert found["only_old"] == []
    assert [each["model"] for each in found["only_new"]] == ["c"]
    assert found["differences"] == []


def test_a_comparison_says_what_else_differs() -> None:
    found = compare(benchmark(1.0), benchmark(1.0, peak=None, cpu="two", versions={"numpy": "3"}))
    assert found["differences"] == ["cpu: one -> two", "numpy: 2 -> 3"]
    assert found["rows"][0]["peak_memory_mb"] is None


def test_settings_and_precision_that_differ_are_said() -> None:
    new = benchmark(1.0, precision="int8", runtime=RuntimeOptions(spinning="never", arena=False))
    assert compare(benchmark(1.0), new)["differences"] == [
        "spinning: run -> never",
        "arena: True -> False",
        "precision of a (cpu, threads auto, batch 4): fp32 -> int8",
    ]


def test_a_photo_is_the_same_wherever_it_lies(tmp_path: Path) -> None:
    moved, other = tmp_path / "moved.jpg", tmp_path / "other.png"
    shutil.copy(BUNDLED_FRAME, moved)
    other.write_bytes(cv2.imencode(".png", load_image(BUNDLED_FRAME))[1].tobytes())
    assert compare(benchmark(1.0), benchmark(1.0, image=moved))["differences"] == []
    (said,) = compare(benchmark(1.0), benchmark(1.0, image=other))["differences"]
    assert said.startswith("frames: frame.jpg (640x480, 1 face(s), SHA-256 ")
    assert "-> other.png" in said


def test_nothing_in_common() -> None:
    new = benchmark(1.0)
    new["results"][0]["batch"] = 5
    with pytest.raises(DataError, match=r"nothing to compare.*batch 4.*batch 5"):
        compare(benchmark(1.0), new)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([], "not 'facemark-bench'"),
        ({"kind": "eval"}, "'eval'"),
        ({**benchmark(1.0), "schema": 99}, "schema 99"),
        ({**benchmark(1.0), "schema": [1]}, r"schema \[1\]"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: object, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_record(written(tmp_path / "x.json", content))


@pytest.mark.parametrize(
    ("way", "value", "said"),
    [
        ("machine", None, "machine must be an object, is None"),
        ("machine", [], "machine must be an object"),
        ("machine.versions", "2", "machine.versions must be an object, is '2'"),
        ("machine.versions.numpy", 2, "machine.versions.numpy must be a text"),
        ("machine.gpus", [7], "machine.gpus.0 must be a text"),
        ("runtime", 1, "runtime must be an object"),
        ("runtime.arena", 1, "runtime.arena must be true or false"),
        ("protocol.turn", 1.5, "protocol.turn must be a whole number"),
        ("results.0.sha256", 5, "results.0.sha256 must be a text or null"),
        ("results.0.detector", "d", "results.0.detector must be an object or null"),
        ("results.0.detector.model", None, "results.0.detector.model must be a text"),
        ("results.0.detector.sha256", 5, "results.0.detector.sha256 must be a text or null"),
        ("frames", {}, "frames must be a list"),
        ("frames.0", "x.jpg", "frames.0 must be an object"),
        ("frames.0.sha256", None, "frames.0.sha256 must be a text"),
        ("results", None, "results must be a list"),
        ("results.0", {}, "results.0.model is missing"),
        ("results.0.model", ["a"], "results.0.model must be a text"),
        ("results.0.model", None, "results.0.model must be a text"),
        ("results.0.threads", True, "results.0.threads must be a whole number .* or null"),
        ("results.0.batch", -1, "results.0.batch must be a whole number of at least 0"),
        ("results.0.peak_memory_mb", [], r"results.0.peak_memory_mb must be .*is \[\]"),
        ("results.0.peak_memory_mb", "", "results.0.peak_memory_mb must be .*is ''"),
        ("results.0.stages", {}, "results.0.stages.total.p50_ms must be there"),
        ("results.0.stages.total", 5, "results.0.stages.total must be an object"),
        ("results.0.stages.total.p50_ms", 0, "results.0.stages.total.p50_ms must be"),
        ("results.0.stages.network.p50_ms", math.nan, "stages.network.p50_ms must be .*is nan"),
        ("results.0.stages.network.p95_ms", math.inf, "stages.network.p95_ms must be a finite"),
        ("results.0.stages.network.p99_ms", -5, "stages.network.p99_ms must be .*is -5"),
        ("results.0.stages.network.p50_ms", 10**400, "stages.network.p50_ms must be a finite"),
        ("results.1", benchmark(1.0)["results"][0], r"results holds a \(cpu.*\) twice"),
    ],
)
def test_damage_is_named(tmp_path: Path, way: str, value: object, said: str) -> None:
    content = json.loads(json.dumps(benchmark(1.0, 2.0)))  # shares nothing with another test
    *above, last = [int(key) if key.isdigit() else key for key in way.split(".")]
    holder = content
    for key in above:
        holder = holder[key]
    holder[last] = value
    with pytest.raises(DataError, match=rf"x\.json' is damaged: .*{said}"):
        read_record(written(tmp_path / "x.json", content))


@pytest.mark.parametrize("name", ["machine", "runtime", "frames", "protocol", "results"])
def test_what_is_missing_is_named(tmp_path: Path, name: str) -> None:
    content = benchmark(1.0)
    del content[name]
    with pytest.raises(DataError, match=f"damaged: {name} is missing"):
        read_record(written(tmp_path / "x.json", content))


def test_missing_and_broken_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no\.json"):
        read_record(tmp_path / "no.json")
    (tmp_path / "half.json").write_text('{"kind": ')
    with pytest.raises(DataError, match=r"half\.json"):
        read_record(tmp_path / "half.json")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match=r"deep\.json"):
        read_record(tmp_path / "deep.json")


@pytest.fixture(scope="module")
def bench(run_python: Run) -> Run:
    return lambda *arguments: run_python("-m", "facemark_sdk.cli", "bench", *arguments)


@pytest.fixture
def tiny(bench: Run, detector_file: Path) -> Run:
    options = ("--detector", detector_file, "--threads", 1, "--repeat", 3, "--warm-up", 1)
    return lambda *arguments: bench(*arguments, *options)


def failed(result: Done, status: int = 1) -> str:
    assert result.returncode == status, result
    (line,) = result.stderr.splitlines()
    assert line.startswith("facemark: ")
    return line


def test_the_command(tiny: Run, bench: Run, landmark_file: Path, tmp_path: Path) -> None:
    report = tmp_path / "new" / "dä.json"
    result = tiny(landmark_file, "--backend", "cpu", "--batch", 1, 3, "--json", report)
    assert result.returncode == 0, result
    for word in ("tiny landmärks.onnx", "batch 3", "decode", "FPS", "onnxruntime", "bundled"):
        assert word in result.stdout
    content = read_record(report)
    assert [entry["batch"] for entry in content["results"]] == [1, 3]
    for entry in content["results"]:
        assert entry["sha256"] == sha256(landmark_file)
        assert entry["detector"]["backend"] == "cpu"
        assert set(entry["stages"]) == set(STAGES)
        assert entry["peak_memory_mb"] is None or entry["peak_memory_mb"] > 10
        for times in entry["stages"].values():
            assert 0 < times["p50_ms"] <= times["p95_ms"] <= times["p99_ms"]
    assert set(content["machine"]) == {"cpu", "cpus", "gpus", "system", "versions"}
    assert content["protocol"] == {"repeat": 3, "warm_up": 1, "turn": TURN}
    out = tmp_path / "ratios.json"
    result = bench("--compare", report, report, "--json", out)
    assert result.returncode == 0, result
    assert "NEW / OLD" in result.stdout
    rows = json.loads(out.read_text())["rows"]
    assert {stage["ratio"] for row in rows for stage in row["stages"].values()} == {1.0}


def test_what_a_model_cannot_do_is_said_and_the_rest_measured(tiny: Run, fixed_file: Path) -> None:
    result = tiny(fixed_file, "--batch", 1, 4)
    assert result.returncode == 0, result
    assert "Left out: fixed.onnx, auto, threads 1, batch 4" in result.stdout
    assert "batches of 1 only, not 4" in result.stdout
    assert "batches of 1 only, not 4" in failed(tiny(fixed_file, "--batch", 4))


def test_a_retrained_file_and_a_moved_one(
    tiny: Run, bench: Run, landmark_file: Path, fixed_file: Path, tmp_path: Path
) -> None:
    model, moved = tmp_path / "m.onnx", tmp_path / "moved.onnx"
    reports = [tmp_path / f"{name}.json" for name in ("old", "retrained", "moved")]
    for source, path, report in zip(
        (landmark_file, fixed_file, landmark_file), (model, model, moved), reports, strict=True
    ):
        shutil.copy(source, path)
        result = tiny(path, "--backend", "cpu", "--json", report)
        assert result.returncode == 0, result
    old, retrained, elsewhere = reports
    assert f"Differs: file of {model}: SHA-256 " in bench("--compare", old, retrained).stdout
    result = bench("--compare", old, elsewhere)
    assert f"The same file: {model} -> {moved}" in result.stdout
    assert "Differs" not in result.stdout
    assert "nothing to compare" in failed(bench("--compare", retrained, elsewhere))


def test_a_frame_without_a_face_is_said(
    tiny: Run, landmark_file: Path, scene: Callable[..., np.ndarray], tmp_path: Path
) -> None:
    photo = tmp_path / "none.png"
    photo.write_bytes(cv2.imencode(".png", scene())[1].tobytes())
    assert "finds no face" in tiny(landmark_file, "--image", photo).stdout


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("--batch", 0), 2, "--batch must be from 1"),
        (("--repeat", 0), 2, "--repeat must be at least 1"),
        (("--compare", "a.json", "b.json"), 2, "leave out MODEL"),
        (("--json", "."), 2, "is a folder"),
        (("--backend", "cpu", "gpu"), 2, "--backend must be one of auto, cpu, cuda, tensorrt, got"),
        (("--threads", 0), 2, "--threads must be from 1"),
        (("--image", "none.png"), 1, "does not exist"),
    ],
)
def test_wrong_use_is_one_line(
    bench: Run, landmark_file: Path, arguments: tuple[object, ...], status: int, said: str
) -> None:
    assert said in failed(bench(landmark_file, *arguments), status)


@pytest.mark.parametrize(
    "given",
    [
        {"backend": ("cpu",)},
        {"threads": (2,)},
        {"batch": (1, 8)},
        {"image": (BUNDLED_FRAME,)},
        {"detector": "d.onnx"},
        {"repeat": 3},
        {"warm_up": 0},
    ],
    ids=lambda given: next(iter(given)),
)
def test_a_comparison_takes_no_option_of_a_measurement(given: dict[str, object]) -> None:
    (name,) = given
    with pytest.raises(UsageError, match=f"leave out --{name.replace('_', '-')}$"):
        Bench(compare=(Path("a.json"), Path("b.json")), **given).run()


def test_an_unknown_model_is_named(tiny: Run) -> None:
    assert "no model 'nix.onnx'" in failed(tiny("nix.onnx"))
