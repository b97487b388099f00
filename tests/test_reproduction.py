"""benchmarks/reproduction: its rows can be trained, its tables say what the runs say."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks" / "reproduction"))  # as Python does for the folder

import readings
import report
import spreads
import trial
from rows import Row, tables
from trial import run_trial, settings_of

from facemark_export.networks import trunks
from facemark_export.networks.architecture import architecture_of, build_network
from facemark_export.networks.coordconv import SUFFIX, plain_name
from facemark_export.networks.trunks import TRUNKS
from facemark_export.training.loop import TrainingError
from facemark_sdk.decode import DECODERS


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
    for table in ("heads", "losses", "wasserstein", "hih", "subpixel"):
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


@pytest.mark.parametrize("scale", ["small", "full"])
def test_rows_are_read_by_other_decoders_of_the_same_maps(scale):
    for rows in tables(scale, Path("data")).values():
        for row in rows:
            own = row.recipe.model_spec().decoder if row.readings else None
            for decoder in row.readings:
                assert decoder != own
                assert DECODERS[decoder].outputs == DECODERS[own].outputs
                assert decoder in readings.DECODERS


def test_the_wasserstein_rows_are_those_of_the_papers_tables():
    rows = tables("small", Path("data"))["wasserstein"]
    read = {
        row.name: (row.recipe.model_spec().decoder, *row.readings) for row in rows if row.perturbed
    }
    of_l2 = ("quarter_shift", "barycentre_sum", "barycentre")
    of_distributions = ("barycentre", "quarter_shift")
    assert read == {
        "L2, sigma 1": of_l2,
        "L2, sigma 1.5": of_l2,
        "L2, sigma 3": of_l2,
        "Wasserstein, sigma 1": of_distributions,
        "Wasserstein, sigma 1.5": of_distributions,
        "Wasserstein, sigma 3": of_distributions,
        "Wasserstein, sigma 1, CoordConv": of_distributions,
        "Wasserstein, sigma 3, CoordConv": of_distributions,
        "Jensen-Shannon, sigma 1": of_distributions,
        "soft-argmax": ("barycentre",),
    }
    assert {row.name: row.recipe.sigma for row in rows if row.recipe.loss != "soft_argmax"} == {
        name: float(name.split(", ")[1].removeprefix("sigma "))
        for name in read
        if name != "soft-argmax"
    }
    assert {row.name for row in rows if row.recipe.architecture.endswith(SUFFIX)} == {
        name for name in read if name.endswith("CoordConv")
    }


@pytest.mark.parametrize("table", ["wasserstein", "hih", "subpixel"])
def test_the_papers_rows_can_be_built_and_take_imagenet_weights(monkeypatch, table):
    """With a package's weights replaced by known ones, so that the test needs no package."""
    rows = tables("small", Path("data"))[table]
    (name,) = {plain_name(row.recipe.architecture) for row in rows}
    torch.manual_seed(1)
    weights = TRUNKS[name].network().state_dict()
    monkeypatch.setattr(trunks, "imagenet_weights", lambda trunk: weights)
    networks = {}
    for row in rows:
        spec = row.recipe.model_spec()
        assert row.recipe.imagenet
        assert spec.decoder in DECODERS
        networks[architecture_of(spec), spec.decoder_params.get("correction")] = row.recipe
    assert len(networks) == {"wasserstein": 2, "hih": 5, "subpixel": 2}[table]
    for recipe in networks.values():
        network = build_network(recipe.model_spec())
        recipe.load_imagenet(network)
        loaded = getattr(network, "network", network).trunk.state_dict()
        for key, value in weights.items():  # of the coordinates there are two channels more
            start = loaded[key][:, : value.shape[1]] if value.ndim == 4 else loaded[key]
            assert torch.equal(start, value), key


def test_equal_rows_differ_by_nothing():
    low, high = spreads.bootstrap(np.zeros(9), np.ones(9))
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


# --- several readings, and faces made harder ------------------------------------------------


def read_by(decoder: str, *photos: list[float]) -> dict:
    figures = a_run("", 0, *photos)
    rates = {"0.05": 20.0, "0.20": 2.5}
    return {
        "decoder": decoder,
        "nme": figures["nme"],
        "failures": 1.25,
        "landmark_failures": rates,
        "other_nme": 9.0,
        "other_landmark_failures": {"0.05": 40.0, "0.10": 30.0, "0.20": 7.5},
        "nme_of_photos": figures["nme_of_photos"],
    }


def a_run_read_twice(row: str, seed: int, own: float, other: float) -> dict:
    harder = {"nme": 2 * own, "failures": 5.0, "landmark_failures": {"0.05": 50.0, "0.20": own}}
    return {
        **a_run(row, seed, [own]),
        **read_by("quarter_shift", [own]),
        "readings": {"barycentre": read_by("barycentre", [other])},
        "perturbed": {"occlusion-large": harder, "blur-medium": harder},
    }


def cells_of(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_every_reading_has_a_line_and_is_compared_with_the_first_one():
    by_row = {
        "L2": [a_run_read_twice("L2", seed, 4.0, 9.0) for seed in (0, 1)],
        "Wasserstein": [a_run_read_twice("Wasserstein", 0, 5.0, 3.0)],
    }
    heads, _, *lines = map(cells_of, readings.table(by_row).splitlines())
    assert [line[:2] for line in lines] == [
        ["L2", "quarter shift"],
        ["L2", "GET_BC"],
        ["Wasserstein", "quarter shift"],
        ["Wasserstein", "GET_BC"],
    ]
    nme, rate = heads.index("NME %"), heads.index("FR^L 0.20 %")
    assert [line[nme] for line in lines] == ["4.00 ± 0.00", "9.00 ± 0.00", "5.00", "3.00"]
    assert lines[2][rate] == "2.50"
    assert lines[2][heads.index("FR^L 0.20 % on video")] == "7.50"
    compared = [line[heads.index("NME less that of L2")] for line in lines]
    assert compared == ["", *(f"{x} ({x} to {x})" for x in ("+5.00", "+1.00", "-1.00"))]
    assert [line[-1] for line in lines] == ["2", "2", "1", "1"]


def test_faces_made_harder_have_a_line_for_each_protocol_and_row():
    by_row = {
        "L2": [a_run_read_twice("L2", seed, 4.0 + seed, 9.0) for seed in (0, 1)],
        "Wasserstein": [a_run_read_twice("Wasserstein", 0, 5.0, 3.0)],
    }
    heads, _, *lines = map(cells_of, readings.perturbed(by_row).splitlines())
    assert heads[:5] == ["photos", "", "read by", "NME %", "FR 0.10 %"]
    assert [line[:2] for line in lines] == [
        ["occlusion, large", "L2"],
        ["occlusion, large", "Wasserstein"],
        ["blur, medium", "L2"],
        ["blur, medium", "Wasserstein"],
    ]
    assert lines[0][3] == "9.00 ± 1.41"
    assert lines[1][heads.index("FR^L 0.20 %")] == "5.00"


def test_a_page_gets_both_tables(tmp_path):
    (tmp_path / "reproduction.md").write_text("words\n")
    row = tables("small", tmp_path)["wasserstein"][0]
    run = {**a_run_read_twice(row.name, 0, 4.0, 9.0), "table": "wasserstein"}
    report.write([run], {"wasserstein": [row]}, tmp_path, "small")
    text = (tmp_path / "reproduction.md").read_text()
    assert f"| {row.name} | GET_BC | 9.00 |" in text.split("<!-- small: wasserstein -->")[1]
    harder = text.split("<!-- small: wasserstein, made harder -->")[1]
    assert f"| blur, medium | {row.name} | quarter shift | 8.00 |" in harder


def test_a_finished_run_is_judged_again_only_for_what_it_lacks(tmp_path, monkeypatch):
    asked = []

    def judged(checkpoint, data, decoder=None):
        asked.append(decoder)
        return read_by(decoder or "quarter_shift", [4.0])

    monkeypatch.setattr(trial, "_judged", judged)
    monkeypatch.setattr(trial, "_perturbed", lambda file, data: {"blur-large": {}})
    read_twice = tables("small", tmp_path)["wasserstein"][0]
    plain = replace(read_twice, readings=(), perturbed=False)
    stored = tmp_path / plain.key / "seed0" / "result.json"
    stored.parent.mkdir(parents=True)
    older = {"settings": settings_of(plain, 0), "nme": 4.0, "nme_of_photos": {"p": [4.0]}}
    stored.write_text(json.dumps(older))

    assert run_trial(plain, 0, tmp_path, tmp_path) == older
    assert asked == []
    result = run_trial(read_twice, 0, tmp_path, tmp_path)
    assert asked == [None, *read_twice.readings]
    assert list(result["readings"]) == list(read_twice.readings)
    assert result["perturbed"] == {"blur-large": {}}
    assert json.loads(stored.read_text()) == result
    assert run_trial(read_twice, 0, tmp_path, tmp_path) == result
    assert len(asked) == 3
