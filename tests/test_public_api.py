"""The public names are a decision: changing `public_api.txt` is how one is made."""

from __future__ import annotations

from pathlib import Path

import facemark_sdk

PINNED = Path(__file__).with_name("public_api.txt")


def test_public_names_are_pinned() -> None:
    assert sorted(facemark_sdk.__all__) == PINNED.read_text().split()


def test_public_names_exist_and_are_documented() -> None:
    for name in facemark_sdk.__all__:
        assert getattr(facemark_sdk, name).__doc__, name


def test_errors_are_facemark_errors() -> None:
    errors = [name for name in facemark_sdk.__all__ if name.endswith("Error")]
    assert len(errors) >= 6
    for name in errors:
        assert issubclass(getattr(facemark_sdk, name), facemark_sdk.FacemarkError)
