"""What the figures do not say themselves, in sentences for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from facemark_sdk.bench.configuration import Configuration
from facemark_sdk.bench.finder import Finder
from facemark_sdk.bench.frames import Frame
from facemark_sdk.bench.measure import Protocol
from facemark_sdk.bench.memory import Peak
from facemark_sdk.bench.subject import Subject


def faces_found(
    subjects: Sequence[Subject], finders: Sequence[Finder | None]
) -> dict[str, tuple[int, ...]]:
    """Faces in each frame by detector; of those that are measured themselves where all are."""
    found = {
        finder.said: subject.faces
        for subject, finder in zip(subjects, finders, strict=True)
        if finder
    }
    return found or {subject.configuration.model: subject.faces for subject in subjects}


def on_frames(frames: Sequence[Frame], found: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    """A line for each frame; one for each number of faces where detectors do not agree."""
    for index, frame in enumerate(frames):
        detectors: dict[int, list[str]] = {}
        for detector, faces in found.items():
            detectors.setdefault(faces[index], []).append(detector)
        for count, names in detectors.items():
            who = " and ".join(names)
            if count:
                by = f" found by {who}" if len(detectors) > 1 else ""
                yield f"Frame: {frame.name}, {count} face(s){by}, repeated to fill the batch."
            else:
                yield (
                    f"Frame: {frame.name}, in which {who} {'find' if names[1:] else 'finds'} no "
                    "face: its time is that of finding none, and the landmarks are those of a "
                    "square in the middle."
                )


def on_runs(protocol: Protocol, finders: Sequence[Finder | None]) -> str:
    """What is timed, and how often."""
    names = dict.fromkeys(finder.said for finder in finders if finder)
    return (
        f"A run: a frame's file decoded, its faces found by {' or '.join(names) or 'the detector'},"
        " a batch of them cut, run and decoded; total is all of it in one go. Medians (p50), of "
        f"total also p95 and p99, of {protocol.repeat} runs in turns of {protocol.turn}, "
        f"configurations taking turns, after {protocol.warm_up} to warm up. Memory: peak of a "
        "process that does only this."
    )


def on_machine(machine: Mapping[str, Any]) -> str:
    """What `describe_machine` tells, on one line."""
    versions = ", ".join(f"{name} {value}" for name, value in machine["versions"].items())
    gpus = ", ".join(machine["gpus"]) or "no GPU"
    return f"{machine['cpu']}, {machine['cpus']} CPUs, {gpus}; {machine['system']}; {versions}"


def on_unknown_peaks(
    configurations: Sequence[Configuration], peaks: Sequence[Peak]
) -> Iterator[str]:
    """Why peaks are not known, each reason once, with the configurations that it is of."""
    reasons: dict[str, list[str]] = {}
    for configuration, peak in zip(configurations, peaks, strict=True):
        if peak.megabytes is None:
            reasons.setdefault(peak.why, []).append(configuration.said)
    for why, names in reasons.items():
        yield f"Peak memory not known of {', '.join(names)}: {why}"
