from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from conftest import detector_spec, landmark_spec

from facemark_sdk import ModelError, ModelSpec


@pytest.fixture
def spec() -> ModelSpec:
    return landmark_spec(np.random.default_rng(0).uniform(0, 1, (68, 2)))


def test_json_there_and_back(spec: ModelSpec) -> None:
    for one in (spec, detector_spec()):
        assert ModelSpec.from_json(one.to_json()) == one


def rule(**change: Any) -> dict[str, Any]:
    sides = dict.fromkeys(("left", "top", "right", "bottom"), 0.125)
    return {"crop": {**sides, "square": True, **change}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "schema 2"),
        ({"task": "cooking"}, "task is 'cooking'"),
        ({"precision": "fp99"}, "precision is 'fp99'"),
        ({"layout": []}, "layout must be a text"),
        (rule(left=float("nan")), "NaN is no JSON number"),
        (rule(left=float("inf")), "Infinity is no JSON number"),
        (rule(left=1e308), "within 10"),
        (rule(left=True), "must be numbers"),
        (rule(left=-0.5, right=-0.5), "whole box"),
        (rule(square="no"), "crop.square must be true or false"),
        (rule(integer="false", source="hrnet"), "crop.integer must be true or false"),
        (rule(source="somebody"), "crop.source is 'somebody'"),
        (rule(stretch=True), "for crop.source 'hrnet'"),
        (rule(integer=True, source="pipnet-demo", square=False), "for crop.source 'hrnet'"),
        (rule(source="hrnet", top=9), "alike on all sides"),
        (rule(source="hrnet", square=False), "alike on all sides"),
        (rule(source="pipnet-demo"), "not square"),
        ({"crop": None}, "no crop rule"),
        ({"crop": {"left": 0}}, "incomplete"),
        ({"surprise": 1}, "unknown fields"),
        ({"input": {}}, "incomplete"),
    ],
)
def test_bad_records(spec: ModelSpec, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        ModelSpec.from_json(json.dumps({**json.loads(spec.to_json()), **change}))


@pytest.mark.parametrize("field", ["name", "input", "crop", "decoder", "schema"])
def test_missing_fields(spec: ModelSpec, field: str) -> None:
    record = json.loads(spec.to_json())
    del record[field]
    with pytest.raises(ModelError):
        ModelSpec.from_json(json.dumps(record))


@pytest.mark.parametrize("text", ["", "{", "[]", "3"])
def test_not_a_record(text: str) -> None:
    with pytest.raises(ModelError, match="JSON"):
        ModelSpec.from_json(text)
