"""benchmarks/reproduction: its rows can be trained, its tables say what the runs say."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks" / "reproduction"))  # as Python does for the folder

import report
from rows import Row, tables
from trial import run_trial, settings_of

from facemark_export.training.loop import TrainingError


def a_run(row: str, seed: int, *photos: list[float], rounds: tuple[float, ...] = ()) -> dict:
    nme = float(np.mean([face for photo in photos for face in photo]))
    return {
        "table": "heads",
        "row": row,
        "seed": seed,
        "nme": nme,
        "harder_nme": 2 * nme,
        "failures": 1.25,
        "point_variance": 3.0,
        "other_nme": 9.0,
        "rounds": list(rounds),
        "nme_of_photos": {f"p{i}": faces for i, faces in enumerate(photos)},
        "settings": {},
    }


@pytest.mark.parametrize("scale", ["small", "full"])
def test_rows_of_a_table_differ_and_end_with_their_only_validation(scale):
    for name, rows in tables(scale, Path("data")).items():
        assert len({row.key for row in rows}) == len(rows)
        assert len({json.dumps(settings_of(row, 0)) for row in rows}) == len(rows)
        for row in rows:
            assert row.table == name
            assert row.recipe.validate_every == row.recipe.epochs
            assert row.seeded(3).seed == 3


def test_rows_of_a_table_have_as_many_epochs_and_the_same_rate():
    rows = tables("small", Path("data"))
    for table in ("heads", "losses"):
        assert len({(r.recipe.epochs, r.recipe.learning_rate) for r in rows[table]}) == 1


def test_a_line_says_mean_spread_and_the_difference_of_the_same_faces():
    runs = {
        "a": [a_run("a", 0, [4.0, 6.0], [8.0]), a_run("a", 1, [6.0, 6.0], [6.0])],
        "b": [a_run("b", 0, [5.0, 5.0], [5.0])],
    }
    lines = report.table(runs).splitlines()
    assert lines[2].split(" | ")[1] == "6.00 ± 0.00"
    cells = lines[3].strip("| ").split(" | ")
    assert cells[1:4] == ["5.00", "10.00", "1.2"]
    # a's faces: 5, 6 in the first photo, 7 in the second; b less a: -1 of two faces, -2 of one
    assert cells[6] == "-1.00 (-2.00 to -0.50)"
    assert cells[-1] == "1"


def test_equal_rows_differ_by_nothing():
    low, high = report.bootstrap(np.zeros(9), np.ones(9))
    assert low == high == 0


def test_rounds_have_a_column_only_where_there_are_some():
    once = report.table({"a": [a_run("a", 0, [4.0])]})
    assert "by round" not in once
    taught = report.table({"a": [a_run("a", 0, [4.0], rounds=(7.0, 5.0))]})
    assert "7.00, 5.00" in taught


def test_what_is_kept_stays_and_words_stay(tmp_path):
    page = tmp_path / "reproduction.md"
    page.write_text("before\n<!-- small: heads -->\nold\n<!-- end of small: heads -->\nafter\n")
    rows = [
        Row("small", "heads", name, tables("small", tmp_path)["heads"][0].recipe) for name in "ab"
    ]
    report.write([a_run("a", 0, [4.0])], {"heads": rows, "losses": []}, tmp_path, "small")
    report.write([a_run("b", 0, [5.0])], {"heads": rows}, tmp_path, "small")
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "| a | 4.00" in text
    assert "| b | 5.00" in text
    assert len(json.loads((tmp_path / "reproduction" / "small.json").read_text())) == 2


def test_a_run_with_other_settings_is_refused(tmp_path):
    row = tables("small", tmp_path)["heads"][0]
    stored = tmp_path / row.key / "seed0" / "result.json"
    stored.parent.mkdir(parents=True)
    stored.write_text(json.dumps({"settings": {**settings_of(row, 0), "epochs": 99}}))
    with pytest.raises(TrainingError, match="other settings"):
        run_trial(row, 0, tmp_path, tmp_path)
