"""Who runs: the contenders by table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from prepare import CROWD, Prepared
from turns import Contender

from facemark_sdk.bench import bundled_models
from facemark_sdk.models import default_detector, default_landmarks

PRODUCT = "matrix product"
POINTS = "uint8 crop to points, one face"
NETWORK = "network alone"
BOXES = "frame and box to points"
DETECTION = "frame to boxes"
WHOLE = "frame to points"
MANY = "many faces"

FACES = CROWD[0] * CROWD[1]

R18 = "PIPNet ResNet-18, 98 points"
R18_INT8 = f"{R18}, int8"
EAGER, EAGER_LOOP, COMPILED = (
    f"{R18}: PyTorch {how}" for how in ("eager", "eager, point by point", "compiled")
)
DEFAULT = default_landmarks("cpu")
FINDER = default_detector("cpu")
MESH = "mediapipe FaceMesh, 468 points"
DLIB = "dlib HOG + 68"
NUMPY, TORCH, RUNTIME = "numpy", "PyTorch", "ONNX Runtime"
FRAME_1, FRAME_4, FRAME_9 = "Detector, 1 face", *(f"Detector, a frame of {n} faces" for n in (4, 9))
FRAME_32 = f"Detector, a frame of {FACES} faces"
BOXES_32, NETWORK_32 = f"{DEFAULT}, {FACES} boxes", f"{DEFAULT}, network, batch {FACES}"


def contenders(
    made: Prepared,
    *,
    int8: Path | None,
    models: tuple[Path, ...],
    compiled: bool,
    peers: Path | None,
    yunet: Path | None,
) -> Iterator[Contender]:
    """All of them. Without an interpreter for the peers' packages, these are left out."""
    yield Contender(PRODUCT, NUMPY, "rates", "numpy")
    yield Contender(PRODUCT, TORCH, "rates", "torch")
    yield Contender(PRODUCT, RUNTIME, "rates", "runtime")
    frame = {"frame": str(made.frame)}
    boxed = {**frame, "boxes": [made.box]}
    landmarks = {
        R18: str(made.r18),
        **({R18_INT8: str(int8)} if int8 else {}),
        **{name: name for name in bundled_models("landmarks")},
        **{path.name: str(path) for path in models},
    }
    for name, model in landmarks.items():
        yield Contender(POINTS, name, "ours", "crop_to_points", {"model": model})
        yield Contender(NETWORK, name, "ours", "network", {"model": model})
        yield Contender(BOXES, name, "ours", "boxes_given", {"model": model, **boxed})
    torch = {"ckpt": str(made.ckpt)}
    eager = {**torch, "meanface": str(made.meanface), "decode": "gathered"}
    yield Contender(NETWORK, EAGER, "eager", "network", torch)
    yield Contender(POINTS, EAGER, "eager", "crop_to_points", eager)
    loop = {**eager, "decode": "point by point"}
    yield Contender(POINTS, EAGER_LOOP, "eager", "crop_to_points", loop)
    if compiled:
        options = {**eager, "compiled": True}
        yield Contender(POINTS, COMPILED, "eager", "crop_to_points", options)
    for name, path in made.pfld.items():
        yield Contender(NETWORK, name, "foreign", "network", {"model": str(path)})
    for name in bundled_models("detection"):
        yield Contender(DETECTION, name, "ours", "detection", {"model": name, **frame})
    for name, path in made.yunet.items():
        yield Contender(DETECTION, f"{name}, network", "foreign", "network", {"model": str(path)})
    for name in bundled_models("landmarks"):
        options = {"model": name, **frame}
        yield Contender(WHOLE, f"{name} + {FINDER}", "ours", "whole", options)
    for name, path in (
        (FRAME_1, made.frame),
        *zip((FRAME_4, FRAME_9), made.grids, strict=True),
        (FRAME_32, made.crowd),
    ):
        yield Contender(MANY, name, "ours", "whole", {"model": DEFAULT, "frame": str(path)})
    crowd = {"model": DEFAULT, "frame": str(made.crowd), "boxes": made.crowd_boxes}
    yield Contender(MANY, BOXES_32, "ours", "boxes_given", crowd)
    yield Contender(MANY, NETWORK_32, "ours", "network", {"model": DEFAULT, "batch": FACES})
    if peers is not None:
        yield from _packages(peers, boxed, yunet)


def _packages(python: Path, boxed: dict[str, object], yunet: Path | None) -> Iterator[Contender]:
    frame = {"frame": boxed["frame"]}

    def package(group: str, name: str, kind: str, **options: object) -> Contender:
        return Contender(group, name, "packages", kind, {**frame, **options}, python)

    yield package(BOXES, f"{MESH}, tracking", "mediapipe_mesh", tracking=True)
    yield package(BOXES, "dlib 68", "dlib_points", boxes=boxed["boxes"])
    yield package(DETECTION, "mediapipe FaceDetection", "mediapipe_detection")
    yield package(DETECTION, "dlib HOG", "dlib_faces", landmarks=False)
    yield package(WHOLE, MESH, "mediapipe_mesh", tracking=False)
    yield package(WHOLE, "mediapipe FaceLandmarker", "mediapipe_landmarker")
    yield package(WHOLE, DLIB, "dlib_faces", landmarks=True)
    if yunet is not None:
        yield package(DETECTION, "YuNet (OpenCV)", "yunet", model=str(yunet))
