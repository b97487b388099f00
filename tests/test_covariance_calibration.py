"""benchmarks/covariance_calibration: known Gaussian errors, a known factor."""

from __future__ import annotations

import json

import numpy as np
import pytest
from test_pipnet_training import write_folder

from covariance_calibration import (
    calibration,
    first_half,
    fitted_scale,
    measured,
    nominal_share,
    shares_inside,
    squared_distances,
    table,
)
from facemark_sdk import LandmarkModel

FACES, LANDMARKS = 400, 68


@pytest.fixture(scope="module")
def drawn():
    """Errors (N, L, 2) and the covariance (N, L, 2, 2) that each was drawn from."""
    rng = np.random.default_rng(0)
    roots = rng.normal(size=(FACES, LANDMARKS, 2, 2))
    errors = (roots @ rng.normal(size=(FACES, LANDMARKS, 2, 1)))[..., 0]
    return errors, roots @ roots.swapaxes(-1, -2)


def test_distances_equal_the_plain_loop(drawn):
    errors, spreads = drawn[0][0], drawn[1][0]
    expected = [e @ np.linalg.inv(spread) @ e for e, spread in zip(errors, spreads, strict=True)]
    np.testing.assert_allclose(squared_distances(errors, spreads), expected, rtol=1e-6)


def test_no_truth_is_inside_an_ellipse_without_area():
    flat = np.array([[[0.0, 0.0], [0.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]]])
    assert np.isinf(squared_distances(np.array([[0.1, 0.0], [0.0, 0.0]]), flat)).all()


def test_gaussian_errors_are_inside_as_often_as_they_should(drawn):
    assert [100 * nominal_share(s) for s in (1, 2)] == pytest.approx([39.347, 86.466], abs=1e-3)
    squared = squared_distances(*drawn)
    assert shares_inside(squared) == pytest.approx([39.347, 86.466], abs=1.0)
    assert fitted_scale(squared) == pytest.approx(1.0, rel=0.03)


@pytest.mark.parametrize("wrong", [0.05, 9.0])
def test_the_factor_is_found_and_mends_the_other_half(drawn, wrong):
    errors, spreads = drawn
    photos = [f"photo{i // 2}" for i in range(FACES)]
    found = calibration("a", squared_distances(errors, spreads / wrong), photos)
    assert found.scale == pytest.approx(wrong, rel=0.05)
    assert found.scale_of_all == pytest.approx(wrong, rel=0.03)
    assert abs(found.before[0] - 39.347) > 20
    assert found.after == pytest.approx([39.347, 86.466], abs=1.5)
    assert found.inside == shares_inside(squared_distances(errors, spreads / wrong))
    nominal = np.array(found.curve["nominal"])
    assert np.abs(np.array(found.curve["after"]) - nominal).max() < 2
    at_39 = found.curve["before"][int(np.argmax(nominal == 39))]
    assert at_39 == pytest.approx(found.before[0], abs=2)


def test_a_few_wild_errors_hardly_move_the_factor(drawn):
    squared = squared_distances(*drawn)
    squared[::50] = np.inf
    assert fitted_scale(squared) == pytest.approx(1.0, rel=0.1)


def test_a_photo_is_in_one_half():
    photos = ["b", "a", "b", "c", "d", "c"]
    assert first_half(photos).tolist() == [False, True, False, True, False, True]


def test_the_table_says_all_and_the_record_is_json(drawn):
    photos = [f"photo{i}" for i in range(FACES)]
    found = calibration("Wasserstein", squared_distances(drawn[0], drawn[1] / 4), photos)
    text = table([found])
    assert "39.3 / 86.5" in text
    assert f"| Wasserstein | {found.inside[0]:.1f} / {found.inside[1]:.1f} |" in text
    assert f"| {found.scale:.2f} |" in text
    assert json.loads(json.dumps(found.curve))["nominal"][0] == 1


def test_a_model_without_covariances_is_refused(landmark_file, tmp_path):
    for name in ("helen_train", "afw"):
        write_folder(tmp_path / "landmarks68" / name, [f"{n}_1.png" for n in range(12, 20)])
    with pytest.raises(SystemExit, match="no covariances"):
        measured(LandmarkModel(landmark_file, backend="cpu"), tmp_path)
