"""What people would use instead, as its packages offer it: mediapipe, dlib, OpenCV's YuNet.

Runs in the environment of these packages: no import of ours.
"""

from __future__ import annotations

import importlib.util
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import cv2
from worker import Run, ignore


def mediapipe_mesh(*, threads: int, frame: str, tracking: bool) -> tuple[Run, str]:
    """FaceMesh, 468 points. With tracking, a face that was found is not searched again: on the
    same frame again and again that is landmarks alone, in a box that is given.
    """
    from mediapipe.python.solutions.face_mesh import FaceMesh

    mesh = FaceMesh(static_image_mode=not tracking, max_num_faces=1, refine_landmarks=False)
    pixels = cv2.imread(frame)
    found = mesh.process(_rgb(pixels)).multi_face_landmarks
    said = f"{len(found[0].landmark)} points" if found else "no face"
    return lambda: ignore(mesh.process(_rgb(pixels))), _with_version("mediapipe", said)


def mediapipe_landmarker(*, threads: int, frame: str) -> tuple[Run, str]:
    """FaceLandmarker (tasks), on single images. The wheel carries no .task file; this one is made
    of the wheel's own detector and mesh, which is what such a file holds. The task expects another
    mesh (478 points), so that its time counts here, not its points.
    """
    import mediapipe
    from mediapipe.tasks.python import BaseOptions, vision

    modules = Path(mediapipe.__file__).parent / "modules"
    with tempfile.TemporaryDirectory() as folder:
        task = Path(folder) / "face_landmarker.task"
        with zipfile.ZipFile(task, "w", zipfile.ZIP_STORED) as bundle:
            for source, name in (
                ("face_detection/face_detection_short_range.tflite", "face_detector.tflite"),
                ("face_landmark/face_landmark.tflite", "face_landmarks_detector.tflite"),
            ):
                bundle.write(modules / source, name)
        landmarker = vision.FaceLandmarker.create_from_options(
            vision.FaceLandmarkerOptions(
                base_options=BaseOptions(model_asset_path=str(task)), num_faces=1
            )
        )
    pixels = cv2.imread(frame)

    def detect() -> Any:
        image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=_rgb(pixels))
        return landmarker.detect(image)

    found = len(detect().face_landmarks)
    return lambda: ignore(detect()), _with_version("mediapipe", f"{found} face(s)")


def mediapipe_detection(*, threads: int, frame: str) -> tuple[Run, str]:
    """FaceDetection, short range."""
    from mediapipe.python.solutions.face_detection import FaceDetection

    detector = FaceDetection(model_selection=0)
    pixels = cv2.imread(frame)
    found = len(detector.process(_rgb(pixels)).detections or ())
    return lambda: ignore(detector.process(_rgb(pixels))), f"{found} face(s)"


def dlib_faces(*, threads: int, frame: str, landmarks: bool) -> tuple[Run, str]:
    """Dlib's HOG detector on the grey frame as it is, and its 68 points in every face."""
    import dlib

    detector, predictor = dlib.get_frontal_face_detector(), _dlib_68() if landmarks else None
    pixels = cv2.imread(frame)

    def run() -> None:
        grey = cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)
        faces = detector(grey, 0)
        if predictor is not None:
            for face in faces:
                predictor(grey, face)

    found = len(detector(cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY), 0))
    return run, f"dlib {dlib.__version__}, {found} face(s)"


def dlib_points(*, threads: int, frame: str, boxes: list[list[float]]) -> tuple[Run, str]:
    """Dlib's 68 points in given boxes."""
    import dlib

    predictor = _dlib_68()
    pixels = cv2.imread(frame)
    faces = [dlib.rectangle(*(round(side) for side in box)) for box in boxes]

    def run() -> None:
        grey = cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)
        for face in faces:
            predictor(grey, face)

    return run, f"dlib {dlib.__version__}, {len(boxes)} box(es)"


def yunet(*, threads: int, frame: str, model: str) -> tuple[Run, str]:
    """YuNet through OpenCV's FaceDetectorYN, from a model file of the caller."""
    cv2.setNumThreads(threads)
    pixels = cv2.imread(frame)
    height, width = pixels.shape[:2]
    detector = cv2.FaceDetectorYN.create(model, "", (width, height))
    found = detector.detect(pixels)[1]
    said = f"OpenCV {cv2.__version__}, {0 if found is None else len(found)} face(s)"
    return lambda: ignore(detector.detect(pixels)), said


def _dlib_68() -> Any:
    import dlib

    spec = importlib.util.find_spec("face_recognition_models")
    if spec is None or spec.origin is None:
        raise RuntimeError("face_recognition_models is not installed")
    name = "shape_predictor_68_face_landmarks.dat"
    return dlib.shape_predictor(str(Path(spec.origin).parent / "models" / name))


def _rgb(pixels: Any) -> Any:
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def _with_version(package: str, said: str) -> str:
    from importlib.metadata import version

    return f"{package} {version(package)}, {said}"


KINDS = {
    "mediapipe_mesh": mediapipe_mesh,
    "mediapipe_landmarker": mediapipe_landmarker,
    "mediapipe_detection": mediapipe_detection,
    "dlib_faces": dlib_faces,
    "dlib_points": dlib_points,
    "yunet": yunet,
}
