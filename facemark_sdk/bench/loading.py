"""From configurations that are wanted to those that can run here, and why others cannot."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from facemark_sdk.bench.configuration import Configuration
from facemark_sdk.bench.frames import Frame
from facemark_sdk.bench.record import LeftOut
from facemark_sdk.bench.subject import Subject, Unable
from facemark_sdk.detect.face_detector import FaceDetector
from facemark_sdk.errors import BackendError


def load(
    wanted: Sequence[Configuration],
    detector: str,
    frames: Sequence[Frame],
    track: Callable[[Sequence[Configuration]], Iterable[Configuration]] = iter,
) -> tuple[list[Subject], list[LeftOut]]:
    """Load configurations, each with a detector on the same backend.

    Args:
        wanted: In the order in which they are to be measured.
        detector: Name or path of the detector that finds the faces.
        frames: At least one.
        track: Shows progress; passes on the configurations it is given.

    Returns:
        Those that run; and those that do not, as their backend does not start, as the model does
        not take the batch, or as another that runs is the same (``auto`` is one of the others).

    Raises:
        FacemarkError: A model cannot be loaded, whatever runs it.
    """
    subjects: dict[Configuration, Subject] = {}
    left_out: list[LeftOut] = []
    detectors: dict[tuple[str, int | None], FaceDetector | BackendError] = {}
    for each in track(wanted):
        key = each.backend, each.threads
        if key not in detectors:
            detectors[key] = _open(detector, *key)
        try:
            subject = Subject(each, _usable(detectors[key]), frames)
        except (Unable, BackendError) as error:
            left_out.append(LeftOut(each, str(error)))
            continue
        same = subjects.setdefault(subject.resolved, subject)
        if same is not subject:
            why = f"measured already: backend {same.configuration.backend!r} is the same here"
            left_out.append(LeftOut(each, why))
    return list(subjects.values()), left_out


def _open(detector: str, backend: str, threads: int | None) -> FaceDetector | BackendError:
    """The detector, or why there is none; kept, as a runtime may take long to fail."""
    try:
        return FaceDetector(detector, backend=backend, threads=threads)
    except BackendError as error:
        return error


def _usable(detector: FaceDetector | BackendError) -> FaceDetector:
    if isinstance(detector, BackendError):
        raise detector
    return detector
