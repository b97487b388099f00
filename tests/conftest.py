"""Fixtures: a real photo, and small real ONNX models whose answers are known."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import settings
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from facemark_sdk import FaceDetector, LandmarkModel
from facemark_sdk.backends import RuntimeOptions
from facemark_sdk.backends.ort import session_options
from facemark_sdk.decode.pip import nearest_neighbours
from facemark_sdk.spec import METADATA_KEY, CropRule, InputSpec, ModelSpec

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"

settings.register_profile("facemark", deadline=None)  # no test fails for being slow
settings.load_profile("facemark")

FACE = 64
"""Side of the squares that the tiny detector takes for faces."""
CROP = 128
GRID = 4
SCORE = 0.9


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not SHARED.is_dir():
        for item in items:
            if item.get_closest_marker("shared"):
                item.add_marker(pytest.mark.skip(reason="../shared is not there"))


@pytest.fixture(scope="session")
def photo() -> Path:
    return ROOT / "examples" / "astronaut.png"


@pytest.fixture(scope="session")
def mean_face() -> NDArray[np.float64]:
    """Where the tiny landmark model puts the 68 points of a black crop: (68, 2) fractions."""
    return np.random.default_rng(68).uniform(0.1, 0.9, (68, 2)).round(4)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def landmark_file(model_folder: Path, mean_face: NDArray[np.float64]) -> Path:
    path = model_folder / "tiny landmärks.onnx"
    save(landmark_graph(mean_face), landmark_spec(mean_face), path)
    return path


@pytest.fixture(scope="session")
def detector_file(model_folder: Path) -> Path:
    path = model_folder / "tiny_detector.onnx"
    save(detector_graph(), detector_spec(), path)
    return path


@pytest.fixture(scope="session")
def landmark_model(landmark_file: Path) -> LandmarkModel:
    return LandmarkModel(landmark_file, backend="cpu", threads=1)


@pytest.fixture(scope="session")
def face_detector(detector_file: Path) -> FaceDetector:
    return FaceDetector(detector_file, backend="cpu", threads=1)


@pytest.fixture(scope="session")
def scene() -> Callable[..., NDArray[np.uint8]]:
    """A black picture with white or grey squares that the tiny detector finds: (x, y, grey)."""

    def make(*faces: tuple[int, int, int], size: tuple[int, int] = (256, 256)) -> NDArray[np.uint8]:
        picture = np.zeros((size[1], size[0], 3), np.uint8)
        for x, y, grey in faces:
            picture[y - FACE // 2 : y + FACE // 2, x - FACE // 2 : x + FACE // 2] = grey
        return picture

    return make


@pytest.fixture(scope="session")
def run_python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run Python in a process of its own, with this checkout on its path."""

    def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        paths = [str(ROOT), str(ROOT / "export"), str(ROOT / "models")]
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=120,
            check=False,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(paths),
                "PYTHONIOENCODING": "utf-8",
                "COLUMNS": "160",
                **environment,
            },
        )

    return run


@pytest.fixture
def jpeg(tmp_path: Path, photo: Path) -> Path:
    path = tmp_path / "photo.jpg"
    path.write_bytes(cv2.imencode(".jpg", cv2.imread(str(photo)))[1].tobytes())
    return path


def landmark_spec(mean_face: NDArray[np.float64]) -> ModelSpec:
    neighbours = nearest_neighbours(mean_face, 3)
    return ModelSpec(
        name="tiny_landmarks",
        task="landmarks",
        family="pipnet",
        architecture="constant",
        decoder="pip",
        decoder_params={"stride": CROP // GRID, "neighbours": neighbours.tolist()},
        layout="ibug68",
        input=InputSpec(CROP, CROP, "BGR", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
        crop=CropRule(0.0, 0.0, 0.0, 0.0, square=True),
        precision="fp32",
        producer="tests",
        source_sha256="0" * 64,
        training_data="none",
        licence="Apache-2.0",
        accuracy={"nme": 0.5},
    )


def detector_spec() -> ModelSpec:
    return ModelSpec(
        name="tiny_detector",
        task="detection",
        family="retinaface",
        architecture="mean",
        decoder="retinaface",
        decoder_params={
            "det_size": 256,
            "nms_threshold": 0.4,
            "score_threshold": 0.6,
            "stride": 32,
        },
        layout="kps5",
        input=InputSpec(0, 0, "BGR", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
        crop=None,
        precision="fp32",
        producer="tests",
        source_sha256="0" * 64,
        training_data="none",
        licence="Apache-2.0",
    )


def landmark_graph(mean_face: NDArray[np.float64]) -> onnx.GraphProto:
    """PIPNet outputs that decode to the mean face; scores fall as the crop gets brighter."""
    points = len(mean_face)
    neighbours = nearest_neighbours(mean_face, 3)
    cells = np.floor(mean_face * GRID).astype(int)
    maps = {name: np.zeros((1, points, GRID, GRID), np.float32) for name in ("cls", "x", "y")}
    maps["cls"][0, np.arange(points), cells[:, 1], cells[:, 0]] = SCORE
    own = (mean_face * GRID - cells).T
    others = (mean_face[neighbours] * GRID - cells[:, None]).reshape(-1, 2).T
    for name, own_offsets, other_offsets in zip("xy", own, others, strict=True):
        maps[name][:] = own_offsets[None, :, None, None]
        maps[f"nb_{name}"] = np.broadcast_to(
            other_offsets[None, :, None, None], (1, len(other_offsets), GRID, GRID)
        ).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float"], ["mean"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("Mul", ["mean", "shade"], ["dark"]),
        helper.make_node("Sub", ["one", "dark"], ["light"]),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        helper.make_node("Mul", ["map_cls", "light"], ["cls"]),
        *(
            helper.make_node("Add", [f"map_{name}", "nothing"], [name])
            for name in maps
            if name != "cls"
        ),
    ]
    constants = {
        "shade": np.float32(0.5 / 255).reshape(1),
        "one": np.ones(1, np.float32),
        "zero": np.zeros(1, np.float32),
        **{f"map_{name}": value for name, value in maps.items()},
    }
    outputs = {name: ["N", *value.shape[1:]] for name, value in maps.items()}
    return graph(nodes, constants, ["N", CROP, CROP, 3], outputs)


def detector_graph() -> onnx.GraphProto:
    """RetinaFace outputs: the 64-pixel prior's score is its square's mean brightness, squared."""
    window = {"kernel_shape": [FACE, FACE], "strides": [16, 16], "pads": [24, 24, 24, 24]}
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float"], ["grey"], axes=[3], keepdims=0),
        helper.make_node("Unsqueeze", ["grey", "axis1"], ["plane"]),
        helper.make_node("Div", ["plane", "white"], ["unit"]),
        helper.make_node("AveragePool", ["unit"], ["s8"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("AveragePool", ["unit"], ["mean16"], count_include_pad=1, **window),
        helper.make_node("Mul", ["mean16", "mean16"], ["s16"]),
        helper.make_node("AveragePool", ["unit"], ["s32"], kernel_shape=[32, 32], strides=[32, 32]),
        *(
            helper.make_node("Reshape", [level, "column"], [f"{level}_column"])
            for level in ("s8", "s16", "s32")
        ),
        *(
            helper.make_node("Mul", [f"{level}_column", weights], [f"{level}_both"])
            for level, weights in (("s8", "neither"), ("s16", "first"), ("s32", "neither"))
        ),
        *(
            helper.make_node("Reshape", [f"{level}_both", "flat"], [f"{level}_flat"])
            for level in ("s8", "s16", "s32")
        ),
        helper.make_node("Concat", ["s8_flat", "s16_flat", "s32_flat"], ["scores"], axis=1),
        helper.make_node("Unsqueeze", ["scores", "axis2"], ["each"]),
        helper.make_node("Mul", ["each", "four"], ["loc"]),
        helper.make_node("Mul", ["each", "ten"], ["none"]),
        helper.make_node("Add", ["none", "points"], ["landms"]),
    ]
    constants = {
        "axis1": np.array([1]),
        "axis2": np.array([2]),
        "column": np.array([0, -1, 1]),
        "flat": np.array([0, -1]),
        "white": np.array([255], np.float32),
        "neither": np.zeros((1, 1, 2), np.float32),
        "first": np.array([[[1, 0]]], np.float32),
        "four": np.zeros((1, 1, 4), np.float32),
        "ten": np.zeros((1, 1, 10), np.float32),
        "points": np.array([-2, -2, 2, -2, 0, 0, -1, 2, 1, 2], np.float32).reshape(1, 1, 10),
    }
    outputs = {"loc": ["N", "A", 4], "scores": ["N", "A"], "landms": ["N", "A", 10]}
    return graph(nodes, constants, ["N", "H", "W", 3], outputs)


def graph(
    nodes: list[onnx.NodeProto],
    constants: dict[str, NDArray[np.generic]],
    shape: list[int | str],
    outputs: dict[str, list[int | str]],
) -> onnx.GraphProto:
    return helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, shape)],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, sides)
            for name, sides in outputs.items()
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )


def save(graph: onnx.GraphProto, spec: ModelSpec | None, path: Path) -> None:
    """Write a model file; without a spec it is a foreign one."""
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    if spec is not None:
        helper.set_model_props(model, {METADATA_KEY: spec.to_json()})
    onnx.save(model, str(path))


def opened(
    model: onnx.ModelProto, level: ort.GraphOptimizationLevel | None = None
) -> ort.InferenceSession:
    """A model in ONNX Runtime as the SDK sets it: exact in int8 on any CPU."""
    options = session_options(1, RuntimeOptions())
    if level is not None:
        options.graph_optimization_level = level
    providers = ["CPUExecutionProvider"]
    return ort.InferenceSession(model.SerializeToString(), options, providers=providers)
