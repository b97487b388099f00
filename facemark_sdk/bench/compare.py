"""Two benchmarks side by side: how much faster or slower, and whether they may be compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from facemark_sdk.bench.configuration import Configuration
from facemark_sdk.bench.record import Result, results_of
from facemark_sdk.errors import DataError

KIND = "facemark-bench-comparison"


def compare(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Ratios NEW / OLD of what both records measured; under 1 is faster, or less memory.

    Args:
        old: From `read_record` or `record`.
        new: Likewise.

    Returns:
        JSON-safe: ``kind``; ``rows``, for each configuration of both its fields, ``stages`` (p50
        by name) and ``peak_memory_mb`` (null where one is not known), each as ``old``, ``new`` and
        ``ratio``; ``only_old`` and ``only_new``, configurations of one; ``differences``, sentences
        on machine, frames and detector where they differ, so that ratios say less.

    Raises:
        DataError: They have no configuration in common.
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
        "differences": _differences(old, new),
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
    pairs = {**_facts(old, new, ("machine",)), **_facts(old, new, ("machine", "versions"))}
    for key in ("detector", "frames", "protocol"):
        pairs[key] = (old.get(key), new.get(key))
    return [f"{key}: {a} -> {b}" for key, (a, b) in pairs.items() if a != b and key != "versions"]


def _facts(
    old: Mapping[str, Any], new: Mapping[str, Any], way: tuple[str, ...]
) -> dict[str, tuple[Any, Any]]:
    """What both say under the keys at the end of a way, in pairs."""
    for key in way:
        old, new = old.get(key, {}), new.get(key, {})
    return {key: (old.get(key), new.get(key)) for key in {**old, **new}}


def _listed(results: Mapping[Configuration, Result]) -> str:
    return ", ".join(
        f"{each.model} ({each.backend}, threads {each.threads or 'auto'}, batch {each.batch})"
        for each in results
    )
