"""PIPNet decoding against plain loops written from COMPAT 1.3-1.4 and the paper's section 3."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facemark_sdk.decode.pip import (
    decode_pip,
    merge_opinions,
    nearest_neighbours,
    padded_opinions,
)


def merging_of(neighbours):
    return merge_opinions(padded_opinions(neighbours), neighbours.shape[1])


def points_and_scores(outputs, merging):
    decoded = decode_pip(outputs, merging)
    return decoded.points, decoded.scores


def loop_neighbours(mean_face, count):
    table = []
    for i, here in enumerate(mean_face):
        order = sorted(
            (j for j in range(len(mean_face)) if j != i),
            key=lambda j: (np.sum((np.float64(mean_face[j]) - np.float64(here)) ** 2), j),
        )
        table.append(order[:count])
    return table


def loop_decode(outputs, neighbours):
    """One face, one landmark, one opinion at a time, in float64."""
    cls, x, y, nb_x, nb_y = (
        outputs[k].astype(np.float64) for k in ("cls", "x", "y", "nb_x", "nb_y")
    )
    faces, count, grid, _ = cls.shape
    each = len(neighbours[0])
    points, scores = np.zeros((faces, count, 2)), np.zeros((faces, count))
    for n in range(faces):
        own, said = [], {t: [] for t in range(count)}
        for i in range(count):
            best, cell = -np.inf, 0
            for k in range(grid * grid):
                if cls[n, i, k // grid, k % grid] > best:
                    best, cell = cls[n, i, k // grid, k % grid], k
            r, c = cell // grid, cell % grid
            scores[n, i] = min(max(best, 0.0), 1.0)
            own.append(((c + x[n, i, r, c]) / grid, (r + y[n, i, r, c]) / grid))
            for j in range(each):
                m = i * each + j
                said[neighbours[i][j]].append(
                    ((c + nb_x[n, m, r, c]) / grid, (r + nb_y[n, m, r, c]) / grid)
                )
        longest = max(len(v) for v in said.values())
        for t in range(count):
            heard = said[t]
            padded = (heard * (longest + 1))[:longest] if heard else []
            points[n, t] = np.mean([own[t], *padded], axis=0)
    return points, scores


def random_outputs(rng, faces, landmarks, count, grid, *, ties):
    def maps(rows):
        return rng.normal(size=(faces, rows, grid, grid)).astype(np.float32)

    cls = (
        rng.integers(0, 3, (faces, landmarks, grid, grid)).astype(np.float32)
        if ties
        else maps(landmarks)
    )
    return {
        "cls": cls,
        "x": maps(landmarks),
        "y": maps(landmarks),
        "nb_x": maps(landmarks * count),
        "nb_y": maps(landmarks * count),
    }


@pytest.mark.parametrize("landmarks", [19, 29, 68, 98, 106])
@pytest.mark.parametrize(("count", "grid"), [(1, 8), (2, 4), (5, 16), (10, 8), (10, 2)])
@pytest.mark.parametrize("ties", [False, True])
def test_batched_decode_equals_the_plain_loop(landmarks, count, grid, ties):
    rng = np.random.default_rng(landmarks * 100 + count)
    neighbours = nearest_neighbours(rng.random((landmarks, 2)), count)
    outputs = random_outputs(rng, 2, landmarks, count, grid, ties=ties)
    points, scores = points_and_scores(outputs, merging_of(neighbours))
    expected_points, expected_scores = loop_decode(outputs, neighbours.tolist())
    np.testing.assert_allclose(points, expected_points, atol=1e-5)
    np.testing.assert_allclose(scores, expected_scores, atol=1e-6)
    assert points.dtype == scores.dtype == np.float32


def test_a_landmark_nobody_names_keeps_its_own_prediction():
    # Landmark 3 is far from the rest, so that no landmark has it among its one nearest.
    mean_face = np.array([[0, 0], [0.1, 0], [0.2, 0.05], [5, 5]])
    neighbours = nearest_neighbours(mean_face, 1)
    assert 3 not in neighbours
    rng = np.random.default_rng(0)
    outputs = random_outputs(rng, 3, 4, 1, 8, ties=False)
    points, _ = points_and_scores(outputs, merging_of(neighbours))
    alone, _ = points_and_scores(outputs, merge_opinions([[]] * 4, 0))
    np.testing.assert_array_equal(points[:, 3], alone[:, 3])
    np.testing.assert_allclose(points, loop_decode(outputs, neighbours.tolist())[0], atol=1e-5)


@pytest.mark.parametrize("corner", [(0, 0), (0, 7), (7, 0), (7, 7)])
def test_border_cells_reach_beyond_the_crop(corner):
    row, column = corner
    outputs = {name: np.zeros((1, 3, 8, 8), np.float32) for name in ("cls", "x", "y")}
    outputs["cls"][:, :, row, column] = 1.0
    outputs["x"][:] = -1.5 if column == 0 else 2.5
    outputs["y"][:] = 0.25
    points, scores = points_and_scores(outputs, merge_opinions([[]] * 3, 0))
    assert np.all((points[..., 0] < 0) | (points[..., 0] > 1))
    np.testing.assert_allclose(points[..., 1], (row + 0.25) / 8)
    np.testing.assert_array_equal(scores, 1.0)


def test_equal_maxima_give_the_lowest_row_major_cell():
    cls = np.zeros((1, 1, 4, 4), np.float32)
    cls[0, 0, 1, 3] = cls[0, 0, 2, 0] = 0.5
    zero = np.zeros_like(cls)
    outputs = {"cls": cls, "x": zero, "y": zero}
    points, scores = points_and_scores(outputs, merge_opinions([[]], 0))
    np.testing.assert_array_equal(points[0, 0], [3 / 4, 1 / 4])
    assert scores[0, 0] == 0.5


def test_no_face_gives_empty_arrays():
    merging = merging_of(nearest_neighbours(np.random.default_rng(0).random((68, 2)), 10))
    outputs = random_outputs(np.random.default_rng(0), 0, 68, 10, 8, ties=False)
    points, scores = points_and_scores(outputs, merging)
    assert points.shape == (0, 68, 2)
    assert scores.shape == (0, 68)


@settings(max_examples=50, deadline=None)
@given(st.integers(3, 30), st.integers(1, 10), st.integers(0, 2**32 - 1))
def test_weights_follow_the_cyclic_padding(landmarks, count, seed):
    count = min(count, landmarks - 1)
    mean_face = np.random.default_rng(seed).random((landmarks, 2))
    neighbours = nearest_neighbours(mean_face, count)
    assert neighbours.tolist() == loop_neighbours(mean_face, count)
    merging = merging_of(neighbours)
    own, others = merging.own, merging.others
    np.testing.assert_allclose(own + others.sum(axis=1), 1.0, atol=1e-5)
    longest = max(np.bincount(neighbours.ravel(), minlength=landmarks))
    for t in range(landmarks):
        pairs = [p for p in range(landmarks * count) if neighbours.flat[p] == t]
        for rank, pair in enumerate(pairs):
            times = longest // len(pairs) + (rank < longest % len(pairs))
            assert others[t, pair] == pytest.approx(times / (longest + 1), rel=1e-5)
        if not pairs:
            assert own[t] == 1.0


def test_a_rigid_shift_of_all_opinions_shifts_the_points():
    rng = np.random.default_rng(5)
    neighbours = nearest_neighbours(rng.random((19, 2)), 5)
    outputs = random_outputs(rng, 1, 19, 5, 8, ties=False)
    moved = {
        k: v if k == "cls" else v + np.float32(0.8 if k.endswith("x") else 0)
        for k, v in outputs.items()
    }
    merging = merging_of(neighbours)
    shift = points_and_scores(moved, merging)[0] - points_and_scores(outputs, merging)[0]
    np.testing.assert_allclose(shift, np.broadcast_to([0.1, 0.0], shift.shape), atol=1e-5)
