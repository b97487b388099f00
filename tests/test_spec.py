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


NAN_CROP = {**dict.fromkeys(("left", "top", "right", "bottom"), float("nan")), "square": True}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "schema 2"),
        ({"task": "cooking"}, "task is 'cooking'"),
        ({"precision": "fp99"}, "precision is 'fp99'"),
        ({"layout": []}, "layout must be a text"),
        ({"crop": NAN_CROP}, "finite"),
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
