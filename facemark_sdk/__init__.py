"""Facial landmarks from a photo: find the faces, crop them, place their points.

Example:
    >>> from facemark_sdk import Detector
    >>> for face in Detector()("photo.jpg"):
    ...     print(face.bbox, face.landmarks)
"""

from facemark_sdk._requirements import require

require(  # first, as its error names the extra to install
    "facemark_sdk",
    {"cv2": "OpenCV", "onnxruntime": "ONNX Runtime"},
    'pip install "facemark-sdk[cpu]", or pip install "facemark-sdk[gpu]" for NVIDIA GPUs',
)

# ruff: noqa: E402
from facemark_sdk._version import __version__
from facemark_sdk.detect.face_detector import Detections, FaceDetector
from facemark_sdk.detector import Detector
from facemark_sdk.draw import draw
from facemark_sdk.errors import (
    BackendError,
    CheckpointError,
    DataError,
    FacemarkError,
    ImageError,
    LayoutError,
    ModelError,
)
from facemark_sdk.image import load_image
from facemark_sdk.landmark_model import LandmarkModel, Landmarks
from facemark_sdk.layouts import Layout, get_layout
from facemark_sdk.models import list_models
from facemark_sdk.result import Face
from facemark_sdk.spec import ModelSpec

__all__ = [
    "BackendError",
    "CheckpointError",
    "DataError",
    "Detections",
    "Detector",
    "Face",
    "FaceDetector",
    "FacemarkError",
    "ImageError",
    "LandmarkModel",
    "Landmarks",
    "Layout",
    "LayoutError",
    "ModelError",
    "ModelSpec",
    "__version__",
    "draw",
    "get_layout",
    "list_models",
    "load_image",
]
