"""Two benchmarks side by side: how much faster or slower, and whether they may be compared."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

from facemark_sdk.bench.configuration import Configuration
from facemark_sdk.bench.reading import results_of
from facemark_sdk.bench.record import Result
from facemark_sdk.errors import DataError

KIND = "facemark-bench-comparison"

_DIGITS = 8
"""Of a checksum, for people."""


def compare(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Ratios NEW / OLD of what both records measured; under 1 is faster, or less memory.

    Args:
        old: From `read_record` or `record`.
        new: Likewise.

    Returns:
        JSON-safe: ``kind``; ``rows``, for each configuration of both its fields, ``stages`` (p50
        by name) and ``peak_memory_mb`` (null where one is not known), each as ``old``, ``new`` and
        ``ratio``; ``only_old`` and ``only_new``, configurations of one; ``differences``, sentences
        on machine, runtime settings, detector, protocol, frames and the models' precisions where
        they differ, so that ratios say less.

    Raises:
        DataError: They have no configuration in common, or one of them holds one twice.
    """
    olds, news = _by_configuration(results_of(old)), _by_configuration(results_of(new))
    both = [configuration for configuration in olds if configuration in news]
    if not both:
        raise DataError(
            f"nothing to compare: no model has the same name, backend, threads and batch in both; "
            f"old: {_listed(olds)}; new: {_listed(news)}"
        )
    return {
        "kind": KIND,
        "rows": [_row(each, olds[each], news[each]) for each in both],
        "only_old": [dataclasses.asdict(each) for each in olds if each not in news],
        "only_new": [dataclasses.asdict(each) for each in news if each not in olds],
        "differences": [*_differences(old, new), *_precisions(both, olds, news)],
    }


def _by_configuration(results: Sequence[Result]) -> dict[Configuration, Result]:
    return {result.configuration: result for result in results}


def _row(configuration: Configuration, old: Result, new: Result) -> dict[str, Any]:
    return {
        **dataclasses.asdict(configuration),
        "stages": {
            name: _ratio(old.stages[name].p50_ms, new.stages[name].p50_ms)
            for name in old.stages
            if name in new.stages
        },
        "peak_memory_mb": _ratio(old.peak_memory_mb, new.peak_memory_mb),
    }


def _ratio(old: float | None, new: float | None) -> dict[str, float] | None:
    return {"old": old, "new": new, "ratio": new / old} if old and new is not None else None


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    olds, news = _facts(old), _facts(new)
    said = [
        f"{key}: {olds.get(key)} -> {news.get(key)}"
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
        **{key: content[key] for key in ("detector", "protocol")},
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


def _precisions(
    both: Sequence[Configuration],
    olds: Mapping[Configuration, Result],
    news: Mapping[Configuration, Result],
) -> list[str]:
    """Where the same name is another file."""
    return [
        f"precision of {each.said}: {olds[each].precision} -> {news[each].precision}"
        for each in both
        if olds[each].precision != news[each].precision
    ]


def _listed(results: Mapping[Configuration, Result]) -> str:
    return ", ".join(each.said for each in results) or "none"
