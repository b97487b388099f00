"""What benchmarks/quantisation.py measures, computed one landmark at a time without maps."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from quantisation import RUNS, Reading, Run, measured
from quantisation_faces import Shapes
from quantisation_page import section, write

START, END = "<!-- quantisation -->", "<!-- end of quantisation -->"
REPRODUCTION = Path(__file__).resolve().parents[1] / "docs" / "reproduction"
CORNERS = (36, 45)
"""The outer eye corners of ibug68."""


@pytest.fixture
def shapes():
    """Nine made-up faces of 68 points, some wider than high."""
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 1, (9, 68, 2)) * rng.uniform(60, 300, (9, 1, 2)) + 40
    return Shapes("ibug68", points, np.arange(9) < 3)


def loop_nme(points, read):
    """The mean error in % in the square of 1.2 times the tight box's longer side."""
    errors = []
    for face in points:
        low, high = face.min(axis=0), face.max(axis=0)
        side = 1.2 * max(high - low)
        corner = (low + high) / 2 - side / 2
        a, b = (face[i] for i in CORNERS)
        norm = math.dist(a, b) / side * 64
        for point in face:
            cells = (point - corner) / side * 64
            found = [read(value) for value in cells]
            errors.append(100 * math.dist(found, cells) / norm)
    return sum(errors) / len(errors)


def decimal(inner):
    def read(value):
        place = min(round((value - math.floor(value)) * inner), inner - 1)
        return math.floor(value) + place / inner

    return read


@pytest.mark.parametrize(
    ("reading", "read"),
    [
        (Reading("floor", "argmax"), math.floor),
        (Reading("floor", "argmax", {"origin": 0.5}), lambda value: math.floor(value) + 0.5),
        (Reading("round", "argmax"), round),
        (Reading("floor", "hih", inner=4), decimal(4)),
        (Reading("floor", "hih", inner=16), decimal(16)),
        (Reading("continuous", "argmax"), round),
        (
            Reading("continuous", "quarter_shift"),
            lambda value: round(value) + math.copysign(0.25, value - round(value)),
        ),
    ],
)
def test_errors_equal_the_plain_loop(shapes, reading, read):
    (row,) = measured("square", Run("hih", ("ibug68",), [reading]), shapes)
    assert row["nme"] == pytest.approx(loop_nme(shapes.points, read), rel=1e-3)


def test_the_whole_set_is_the_known_faces_and_as_many_easy_ones_as_are_missing(shapes):
    (row,) = measured("square", Run("hih", ("ibug68",), [Reading("round", "argmax")]), shapes)
    expected = (row["errors"].sum() + 2491 * row["errors"][:3].mean()) / 2500
    assert row["nme_whole_set"] == pytest.approx(expected)


def test_the_page_has_the_figures_of_the_file(tmp_path):
    """The section in docs is the one that the stored figures give; the rest of the page stays."""
    figures = json.loads((REPRODUCTION / "quantisation.json").read_text())
    assert {row["table"] for row in figures["rows"]} == set(RUNS)
    text = REPRODUCTION.with_suffix(".md").read_text()
    assert f"{START}\n{section(figures)}\n{END}" in text
    page = tmp_path / "page.md"
    page.write_text("# Title\n\nBefore.\n")
    write(page, figures)
    once = page.read_text()
    page.write_text(once + "\nAfter.\n")
    write(page, figures)
    assert page.read_text() == once + "\nAfter.\n"
    assert once.startswith("# Title\n\nBefore.\n\n" + START)
