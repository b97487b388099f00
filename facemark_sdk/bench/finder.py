"""Which detector finds the faces of a configuration, as a record tells it."""

from __future__ import annotations

from dataclasses import dataclass

from facemark_sdk.bench.subject import Subject
from facemark_sdk.files import sha256_of
from facemark_sdk.models import default_detector, resolve_model


@dataclass(frozen=True, slots=True)
class Finder:
    """A face detector that went before a landmark model.

    Attributes:
        model: A bundled model's name or the path of a file.
        backend: The one in use, which may be another than the landmark model's where ``auto``
            chose for each; None where a record of an older version does not tell.
        sha256: Of its file; None likewise.
    """

    model: str
    backend: str | None
    sha256: str | None

    @property
    def said(self) -> str:
        """For people: its name and what it runs on."""
        return self.model if self.backend is None else f"{self.model} on {self.backend}"


def finder_of(subject: Subject, detector: str | None) -> Finder | None:
    """What finds a subject's faces; None for a detector, which is measured itself.

    Args:
        subject: From `load`.
        detector: The name or path that `load` was given; None is each backend's default.
    """
    if subject.landmarks is None:
        return None
    model = detector or default_detector(subject.configuration.backend)
    return Finder(model, subject.detector.backend, sha256_of(resolve_model(model)))
