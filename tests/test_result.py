from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from facemark_sdk import Face, LayoutError, get_layout


@pytest.fixture
def face() -> Face:
    rng = np.random.default_rng(0)
    return Face(
        bbox=np.array([1, 2, 30, 40], np.float32),
        score=0.75,
        kps=rng.uniform(0, 40, (5, 2)).astype(np.float32),
        landmarks=rng.uniform(0, 40, (68, 2)).astype(np.float32),
        landmark_scores=rng.uniform(0, 1, 68).astype(np.float32),
        layout=get_layout("ibug68"),
    )


def test_is_frozen(face: Face) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        face.score = 1.0  # type: ignore[misc]


def test_to_dict_is_json_safe(face: Face) -> None:
    record = json.loads(json.dumps(face.to_dict(), allow_nan=False))
    assert set(record) == {"bbox", "score", "kps", "landmarks", "landmark_scores", "layout"}
    assert record["layout"] == "ibug68"
    np.testing.assert_array_equal(np.float32(record["landmarks"]), face.landmarks)
    assert record["score"] == 0.75


def test_to_kps5(face: Face) -> None:
    five = face.to_layout("kps5")
    assert five.layout.name == "kps5"
    assert five.landmarks.shape == (5, 2)
    np.testing.assert_allclose(five.landmarks[0], face.landmarks[36:42].mean(axis=0), rtol=1e-5)
    np.testing.assert_array_equal(five.landmarks[2], face.landmarks[30])
    assert five.landmark_scores[0] == pytest.approx(face.landmark_scores[36:42].mean(), abs=1e-6)
    assert five.landmark_scores.dtype == np.float32
    assert five.score == face.score
    np.testing.assert_array_equal(face.to_layout("ibug68").landmarks, face.landmarks)


def test_98_to_68_takes_scores_as_it_takes_x(face: Face) -> None:
    rng = np.random.default_rng(1)
    of_98 = dataclasses.replace(
        face,
        landmarks=rng.uniform(0, 40, (98, 2)).astype(np.float32),
        landmark_scores=rng.uniform(0, 1, 98).astype(np.float32),
        landmark_covariances=np.ones((98, 2, 2), np.float32),
        layout=get_layout("wflw98"),
    )
    of_68 = of_98.to_layout("ibug68")
    was, now = of_98.landmark_scores, of_68.landmark_scores
    assert of_68.landmarks.shape == (68, 2)
    assert now[18] == pytest.approx(was[34])
    assert now[37] == pytest.approx((2 * was[61] + was[62]) / 3, abs=1e-6)
    assert now[48] == was[76]
    assert of_68.landmark_covariances is None


@pytest.mark.parametrize("score", [0.0, 1.0])
def test_scores_stay_within_0_and_1(face: Face, score: float) -> None:
    for layout, target in (("wflw98", "ibug68"), ("wflw98", "kps5"), ("ibug68", "kps5")):
        count = get_layout(layout).num_points
        alike = dataclasses.replace(
            face,
            landmarks=np.zeros((count, 2), np.float32),
            landmark_scores=np.full(count, score, np.float32),
            layout=get_layout(layout),
        )
        scores = alike.to_layout(target).landmark_scores
        np.testing.assert_allclose(scores, score, atol=1e-6)
        assert scores.dtype == np.float32
        assert scores.min() >= 0
        assert scores.max() <= 1


def test_no_mapping(face: Face) -> None:
    with pytest.raises(LayoutError, match="unknown layout"):
        face.to_layout("nix")
    with pytest.raises(LayoutError, match="no mapping"):
        face.to_layout("kps5").to_layout("ibug68")
