"""Two benchmarks side by side: how much faster or slower, and whether they may be compared."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from facemark_sdk.bench.configuration import Configuration
from facemark_sdk.bench.finder import Finder
from facemark_sdk.bench.reading import results_of
from facemark_sdk.bench.record import Result
from facemark_sdk.errors import DataError

KIND = "facemark-bench-comparison"

_DIGITS = 8
"""Of a checksum, for people."""


def compare(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Ratios NEW / OLD of what both records measured; under 1 is faster, or less memory.

    A model is the same by its name, or by its file's checksum where the name is in one of them
    only: a file may lie elsewhere.

    Args:
        old: From `read_record` or `record`.
        new: Likewise.

    Returns:
        JSON-safe: ``kind``; ``rows``, for each configuration of both its fields (as in the old
        one), ``stages`` (p50 by name) and ``peak_memory_mb`` (null where one is not known), each
        as ``old``, ``new`` and ``ratio``; ``moved``, ``old`` and ``new`` names of one file;
        ``only_old`` and ``only_new``, configurations of one; ``differences``, sentences on
        machine, runtime settings, protocol, frames and the files, precisions and detectors of
        models where they differ, so that ratios say less.

    Raises:
        DataError: They have no configuration in common, or one of them holds one twice.
    """
    olds, news = _by_configuration(results_of(old)), _by_configuration(results_of(new))
    pairs = _pairs(olds, news)
    if not pairs:
        raise DataError(
            f"nothing to compare: no model has the same name or file, backend, threads and batch "
            f"in both; old: {_listed(olds)}; new: {_listed(news)}"
        )
    both = {result.configuration for pair in pairs for result in pair}
    return {
        "kind": KIND,
        "rows": [_row(old, new) for old, new in pairs],
        "moved": _moved(pairs),
        "only_old": [dataclasses.asdict(each) for each in olds if each not in both],
        "only_new": [dataclasses.asdict(each) for each in news if each not in both],
        "differences": [*_differences(old, new), *dict.fromkeys(_models(pairs))],
    }


def _by_configuration(results: Sequence[Result]) -> dict[Configuration, Result]:
    return {result.configuration: result for result in results}


def _pairs(
    olds: Mapping[Configuration, Result], news: Mapping[Configuration, Result]
) -> list[tuple[Result, Result]]:
    """Results of the same model run the same way: known by its name, else by its file."""
    moved: dict[Configuration, Result] = {}
    for each, result in news.items():
        if each not in olds and result.sha256 is not None:
            moved.setdefault(dataclasses.replace(each, model=result.sha256), result)
    pairs = []
    for each, old in olds.items():
        new = news.get(each)
        if new is None and old.sha256 is not None:
            new = moved.pop(dataclasses.replace(each, model=old.sha256), None)
        if new is not None:
            pairs.append((old, new))
    return pairs


def _row(old: Result, new: Result) -> dict[str, Any]:
    return {
        **dataclasses.asdict(old.configuration),
        "stages": {
            name: _ratio(old.stages[name].p50_ms, new.stages[name].p50_ms)
            for name in old.stages
            if name in new.stages
        },
        "peak_memory_mb": _ratio(old.peak_memory_mb, new.peak_memory_mb),
    }


def _moved(pairs: Sequence[tuple[Result, Result]]) -> list[dict[str, str]]:
    names = ((old.configuration.model, new.configuration.model) for old, new in pairs)
    return [{"old": old, "new": new} for old, new in dict.fromkeys(names) if old != new]


def _ratio(old: float | None, new: float | None) -> dict[str, float] | None:
    return {"old": old, "new": new, "ratio": new / old} if old and new is not None else None


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    olds, news = _facts(old), _facts(new)
    said = [
        f"{key}: {olds.get(key, 'none')} -> {news.get(key, 'none')}"
        for key in {**olds, **news}
        if olds.get(key) != news.get(key)
    ]
    if _seen(old) != _seen(new):
        said.append(f"frames: {_photos(old)} -> {_photos(new)}")
    return said


def _facts(content: Mapping[str, Any]) -> dict[str, Any]:
    """By name, what ought to be the same in both."""
    machine = {**content["machine"]}
    versions = machine.pop("versions")
    return {
        **machine,
        **versions,
        **content["runtime"],
        "protocol": content["protocol"],
    }


def _seen(content: Mapping[str, Any]) -> list[tuple[str, int]]:
    """The photos, wherever their files lie, and what was found in them."""
    return [(frame["sha256"], frame["faces"]) for frame in content["frames"]]


def _photos(content: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{os.path.basename(frame['file'])} ({frame['width']}x{frame['height']}, "
        f"{frame['faces']} face(s), SHA-256 {frame['sha256'][:_DIGITS]})"
        for frame in content["frames"]
    )


def _models(pairs: Sequence[tuple[Result, Result]]) -> Iterator[str]:
    """Where the same name is another file, or another detector went before it."""
    for old, new in pairs:
        said = old.configuration.said
        if old.sha256 and new.sha256 and old.sha256 != new.sha256:
            yield (
                f"file of {old.configuration.model}: SHA-256 {old.sha256[:_DIGITS]} -> "
                f"{new.sha256[:_DIGITS]}"
            )
        if old.precision != new.precision:
            yield f"precision of {said}: {old.precision} -> {new.precision}"
        if old.detector and new.detector and not _are_same(old.detector, new.detector):
            yield f"detector: {_finder(old.detector)} -> {_finder(new.detector)}"


def _are_same(old: Finder, new: Finder) -> bool:
    """As far as both tell: the same file, or name where one has no checksum, on one backend."""
    if old.backend and new.backend and old.backend != new.backend:
        return False
    if old.sha256 and new.sha256:
        return old.sha256 == new.sha256
    return old.model == new.model


def _finder(finder: Finder) -> str:
    digits = f" (SHA-256 {finder.sha256[:_DIGITS]})" if finder.sha256 else ""
    return f"{finder.said}{digits}"


def _listed(results: Mapping[Configuration, Result]) -> str:
    return ", ".join(each.said for each in results) or "none"
