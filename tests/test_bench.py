"""`facemark bench`: its arithmetic by hand, its files, and the command as a user runs it.

No time is asserted, only what is counted of times that the tests make up.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from conftest import CROP, landmark_graph, landmark_spec, save

from facemark_sdk import BackendError, DataError, FaceDetector, FacemarkError, load_image
from facemark_sdk.backends import BACKENDS, RuntimeOptions
from facemark_sdk.bench import (
    BUNDLED_FRAME,
    STAGES,
    Configuration,
    LeftOut,
    Protocol,
    Result,
    Subject,
    Unable,
    bundled_models,
    combine,
    compare,
    load,
    measure,
    open_frames,
    read_record,
    record,
    summarise,
)
from facemark_sdk.bench.measure import TURN
from facemark_sdk.cli.bench import Bench
from facemark_sdk.cli.console import UsageError

Done = subprocess.CompletedProcess[str]
Run = Callable[..., Done]

MACHINE = {"cpu": "one", "cpus": 2, "gpus": [], "system": "here", "versions": {"numpy": "2"}}


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


RUNTIME = RuntimeOptions()


def benchmark(
    *totals: float,
    peak: float | None = 100.0,
    image: Path = BUNDLED_FRAME,
    precision: str = "fp32",
    runtime: RuntimeOptions = RUNTIME,
    **changed: object,
) -> dict:
    """A record of models a, b, ... whose runs take so many milliseconds."""
    results = [
        Result(
            Configuration(name, "cpu", None, 4),
            precision,
            {
                "network": summarise([total / 2, total / 2, total * 7]),
                "total": summarise([total, total, total * 9]),
            },
            peak,
        )
        for name, total in zip("abc", totals, strict=False)
    ]
    frames = [(frame, 1) for frame in open_frames([image])]
    lost = LeftOut(Configuration("z", "cpu", 1, 9), "too large")
    machine = {**MACHINE, **changed}
    return record(machine, runtime, frames, Protocol(3, 0), "d", results, [lost])


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
    assert content["frames"][0] == {
        "file": str(BUNDLED_FRAME),
        "sha256": hashlib.sha256(BUNDLED_FRAME.read_bytes()).hexdigest(),
        "width": 640,
        "height": 480,
        "faces": 1,
    }
    assert content["runtime"] == {"spinning": "run", "arena": True}
    assert content["left_out"] == [
        {"model": "z", "backend": "cpu", "threads": 1, "batch": 9, "why": "too large"}
    ]


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
        ("detector", {}, "detector must be a text"),
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
