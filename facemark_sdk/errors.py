"""The exceptions of the SDK. Every error a caller can meet is a `FacemarkError`."""

from __future__ import annotations


class FacemarkError(Exception):
    """Base of all errors that facemark raises on purpose; catching it catches them all."""


class ImageError(FacemarkError):
    """The image cannot be used: not found, not an image, wrong type, shape or values."""


class ModelError(FacemarkError):
    """The model file cannot be used: not found, damaged, without a spec, or for another task."""


class BackendError(FacemarkError):
    """The runtime that was asked for is not installed, not active, or failed."""


class LayoutError(FacemarkError):
    """Unknown landmark layout, or no mapping between two layouts."""


class CheckpointError(FacemarkError):
    """A training checkpoint cannot be read, or is none that we know."""


class DataError(FacemarkError):
    """A dataset folder or annotation file is missing or malformed."""
