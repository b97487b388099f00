"""From configurations that are wanted to those that can run here, and why others cannot."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from facemark_sdk.bench.configuration import Configuration
from facemark_sdk.bench.finder import finder_of
from facemark_sdk.bench.frames import Frame
from facemark_sdk.bench.record import LeftOut
from facemark_sdk.bench.subject import Subject, Unable, check_fits
from facemark_sdk.detect.face_detector import FaceDetector
from facemark_sdk.errors import BackendError
from facemark_sdk.models import resolve_model


def load(
    wanted: Sequence[Configuration],
    detector: str | None,
    frames: Sequence[Frame],
    track: Callable[[Sequence[Configuration]], Iterable[Configuration]] = iter,
) -> tuple[list[Subject], list[LeftOut]]:
    """Load configurations, each with a detector on the same backend.

    Args:
        wanted: In the order in which they are to be measured.
        detector: Name or path of the detector that finds the faces; None is each backend's
            default.
        frames: At least one.
        track: Shows progress; passes on the configurations it is given.

    Returns:
        Those that run; and those that do not, as their backend does not start, as the model or the
        detector is an engine for another, as the model does not take the batch, or as another that
        runs is the same (``auto`` is one of the others).

    Raises:
        FacemarkError: A model cannot be loaded, whatever runs it.
    """
    subjects: dict[Configuration, Subject] = {}
    left_out: list[LeftOut] = []
    detectors: dict[tuple[str, int | None], FaceDetector | Unable | BackendError] = {}
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
            left_out.append(LeftOut(each, _why_same(same, subject, detector)))
    return list(subjects.values()), left_out


def _open(
    detector: str | None, backend: str, threads: int | None
) -> FaceDetector | Unable | BackendError:
    """The detector, or why there is none; kept, as a runtime may take long to fail."""
    try:
        if detector is not None:
            check_fits(resolve_model(detector), backend)
        return FaceDetector(detector, backend=backend, threads=threads)
    except (Unable, BackendError) as error:
        return error


def _usable(detector: FaceDetector | Unable | BackendError) -> FaceDetector:
    if isinstance(detector, FaceDetector):
        return detector
    raise detector


def _why_same(measured: Subject, other: Subject, detector: str | None) -> str:
    """Why the other is left out; its detector may differ where ``auto`` chose for each."""
    backend = measured.configuration.backend
    before, behind = finder_of(measured, detector), finder_of(other, detector)
    if before is None or behind is None or before == behind:
        return f"measured already: backend {backend!r} is the same here"
    return (
        f"measured already: backend {backend!r} runs the model in the same way here, though its "
        f"faces are found by {before.said}, not {behind.said}; measure them one at a time"
    )
