"""Weight matrices of the anisotropic loss (paper section 3.1, equations 3 to 6)."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
from conftest import SHARED
from hypothesis import given
from hypothesis import strategies as st

from facemark_export.training.anisotropic import (
    ACROSS,
    ALONG,
    CORNERS,
    Curve,
    curves_of,
    weight_matrices,
)
from facemark_sdk.errors import LayoutError
from facemark_sdk.layouts import get_layout

# Written by hand from the layouts' pictures: (first, ..., last), closed
IBUG68_CURVES = [
    (range(0, 17), False),
    (range(17, 22), False),
    (range(22, 27), False),
    (range(27, 31), False),
    (range(31, 36), False),
    (range(36, 42), True),
    (range(42, 48), True),
    (range(48, 60), True),
    (range(60, 68), True),
]
COFW29_CURVES = [
    ((0, 4, 2, 5), True),
    ((1, 6, 3, 7), True),
    ((8, 12, 10, 13), True),
    ((9, 14, 11, 15), True),
    ((18, 21, 19), False),
    ((20, 21), False),
    ((22, 24, 23, 27), True),
    ((22, 25, 23, 26), True),
]


def drawn_points(layout, faces=2, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(0, 1, (faces, get_layout(layout).num_points, 2)).astype(np.float32)


def loop_weights(points, curves, corners, a=5.0, b=3.0):
    """Equations 4, 5 and 6, one landmark at a time, in float64."""
    points = points.astype(np.float64)
    weights = np.stack([np.eye(2)] * len(points))
    done = set(corners)
    for indices, closed in curves:
        z = [points[i] for i in indices]
        n = len(z)
        for i, landmark in enumerate(indices):
            if landmark in done:
                continue
            done.add(landmark)
            if 0 < i < n - 1:
                t = z[i + 1] - z[i - 1]
            elif closed:
                t = z[(i + 1) % n] - z[(i - 1) % n]
            elif i == 0:
                t = z[1] - z[0]
            else:
                t = z[n - 1] - z[n - 2]
            t = t / np.sqrt(t[0] ** 2 + t[1] ** 2)
            s = a**2 * np.outer(t, t) + b**2 * (np.eye(2) - np.outer(t, t))  # equation 3
            weights[landmark] = np.linalg.inv(s)
    return weights


@pytest.mark.parametrize(
    ("layout", "curves"), [("ibug68", IBUG68_CURVES), ("cofw29", COFW29_CURVES)]
)
def test_the_matrices_equal_the_papers_formulas(layout, curves):
    points = drawn_points(layout)
    found = weight_matrices(points, layout)
    for shape, weights in zip(points, found, strict=True):
        expected = loop_weights(shape, curves, CORNERS[layout])
        np.testing.assert_allclose(weights, expected, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("layout", "curves"), [("ibug68", IBUG68_CURVES), ("cofw29", COFW29_CURVES)]
)
def test_curves_are_the_layouts_edges(layout, curves):
    expected = tuple(Curve(tuple(indices), closed) for indices, closed in curves)
    assert curves_of(get_layout(layout)) == expected


@pytest.mark.parametrize("layout", sorted(CORNERS))
def test_curves_draw_every_edge_once(layout):
    drawn = []
    for curve in curves_of(get_layout(layout)):
        assert len(set(curve.points)) == len(curve.points)
        ends = (*curve.points, curve.points[0]) if curve.closed else curve.points
        drawn += pairwise(ends)
    assert sorted(drawn) == sorted(get_layout(layout).edges)


@pytest.mark.parametrize("layout", sorted(CORNERS))
def test_curves_and_corners_are_the_same_on_both_sides(layout):
    described = get_layout(layout)
    flip = described.flip_index
    assert {int(flip[i]) for i in CORNERS[layout]} == set(CORNERS[layout])
    edges = {frozenset(edge) for edge in described.edges}
    assert {frozenset(int(flip[i]) for i in edge) for edge in edges} == edges


def test_corners_are_those_of_eyes_and_mouth():
    for layout, corners in CORNERS.items():
        described = get_layout(layout)
        parts = {part for part, group in described.groups.items() if set(group) & set(corners)}
        assert parts == {"right_eye", "left_eye", "mouth"}
        assert set(described.eye_corners) <= set(corners)
        assert len(corners) == (8 if described.num_points > 60 else 6)


@pytest.mark.parametrize("layout", sorted(CORNERS))
def test_eigenvectors_are_tangent_and_normal_with_weights_by_a_and_b(layout):
    described = get_layout(layout)
    weights = weight_matrices(drawn_points(layout), layout)
    np.testing.assert_array_equal(weights, weights.swapaxes(-1, -2))
    values = np.linalg.eigvalsh(weights)
    on_curve = sorted({i for edge in described.edges for i in edge} - set(CORNERS[layout]))
    np.testing.assert_allclose(values[:, on_curve, 0], 1 / ALONG**2, rtol=1e-5)
    np.testing.assert_allclose(values[:, on_curve, 1], 1 / ACROSS**2, rtol=1e-5)
    others = sorted(set(range(described.num_points)) - set(on_curve))
    np.testing.assert_array_equal(
        weights[:, others], np.broadcast_to(np.eye(2), (2, len(others), 2, 2))
    )


def test_on_a_level_line_x_is_along_and_y_across():
    points = np.zeros((1, 68, 2), np.float32)
    points[0, :17, 0] = np.linspace(0, 1, 17)
    expected = np.diag([1 / 25, 1 / 9])
    np.testing.assert_allclose(
        weight_matrices(points, "ibug68")[0, :17], [expected] * 17, rtol=1e-6
    )


@given(angle=st.floats(-np.pi, np.pi), scale=st.floats(0.1, 100), mirror=st.booleans())
def test_matrices_turn_with_the_points(angle, scale, mirror):
    points = drawn_points("wflw98", faces=1)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    if mirror:
        turn = turn @ np.diag([-1, 1])
    moved = (scale * points.astype(np.float64) @ turn.T + [3.0, -1.0]).astype(np.float32)
    expected = turn @ weight_matrices(points, "wflw98") @ turn.T
    # float32 points hold a tangent's direction to about 1e-4 where neighbours lie close
    np.testing.assert_allclose(weight_matrices(moved, "wflw98"), expected, atol=2e-4)


def test_mirrored_faces_have_mirrored_matrices():
    """Landmarks change places with their partners; curves run the other way, which is the same."""
    points = drawn_points("ibug68")
    flip = get_layout("ibug68").flip_index
    mirrored = points[:, flip] * [-1, 1] + [1, 0]
    expected = weight_matrices(points, "ibug68")[:, flip] * [[1, -1], [-1, 1]]
    np.testing.assert_allclose(weight_matrices(mirrored, "ibug68"), expected, atol=1e-6)


def test_where_neighbours_coincide_the_mean_over_all_directions_stands():
    points = drawn_points("ibug68", faces=1)
    points[0, 61] = points[0, 63]
    weights = weight_matrices(points, "ibug68")
    angles = np.linspace(0, np.pi, 1000, endpoint=False)
    directions = np.stack((np.cos(angles), np.sin(angles)), axis=1)
    outer = directions[:, :, None] * directions[:, None, :]
    mean = (outer / ALONG**2 + (np.eye(2) - outer) / ACROSS**2).mean(axis=0)
    np.testing.assert_allclose(weights[0, 62], mean, atol=1e-6)
    assert np.isfinite(weights).all()


def test_equal_deviations_weigh_all_directions_alike():
    weights = weight_matrices(drawn_points("aflw19"), "aflw19", 2.0, 2.0)
    curve = weights[:, [0, 1, 2, 7, 13, 16]]
    np.testing.assert_allclose(curve, np.broadcast_to(np.eye(2) / 4, curve.shape), atol=1e-7)


@pytest.mark.parametrize("layout", ["kps5", "points20"])
def test_layouts_without_curves_are_refused(layout):
    with pytest.raises(LayoutError, match=f"{layout}.*ibug68"):
        weight_matrices(np.zeros((1, get_layout(layout).num_points, 2), np.float32), layout)


@pytest.mark.shared
def test_on_real_faces_the_jaw_is_held_sideways_and_the_chin_up_and_down():
    lines = (SHARED / "data" / "landmarks68" / "helen_train" / "annotations.jsonl").read_text()
    points = np.float32([json.loads(line)["points"] for line in lines.splitlines()[:100]])
    mean = weight_matrices(points, "ibug68").mean(axis=0)
    for beside in (1, 2, 14, 15):  # the jaw runs up and down there
        assert mean[beside, 0, 0] > 2 * mean[beside, 1, 1]
    assert mean[8, 1, 1] > 2 * mean[8, 0, 0]  # and level under the chin
