"""Pose bins: Procrustes, the first component, bins of equal width, undersampling (section 3.2)."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import SHARED
from hypothesis import given
from hypothesis import strategies as st

from facemark_export.training.pose_balance import (
    BINS,
    aligned_shapes,
    balanced_epoch,
    mean_of_bin_means,
    pose_bins,
    pose_coordinates,
    undersample,
)


def head_points(landmarks=20, seed=0):
    """Points on the front of a ball: (L, 3)."""
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(landmarks, 3))
    points[:, 2] = np.abs(points[:, 2])
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def turned_heads(yaws, *, roll=0.3, seed=1):
    """(N, L, 2) heads turned by `yaws`, each also rolled, sized and placed at random."""
    rng = np.random.default_rng(seed)
    head = head_points()
    shapes = []
    for yaw in yaws:
        x = head[:, 0] * np.cos(yaw) + head[:, 2] * np.sin(yaw)
        shape = np.stack((x, head[:, 1]), axis=1)
        angle = rng.uniform(-roll, roll)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        shapes.append(rng.uniform(0.5, 2) * shape @ turn.T + rng.uniform(-1, 1, 2))
    return np.array(shapes)


YAWS = np.random.default_rng(2).normal(0, 0.35, 400)


def test_procrustes_takes_place_size_and_rotation_away():
    rng = np.random.default_rng(0)
    shape = rng.normal(size=(12, 2))
    copies = []
    for angle in rng.uniform(-np.pi, np.pi, 30):
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        copies.append(rng.uniform(0.1, 9) * shape @ turn.T + rng.normal(size=2))
    aligned = aligned_shapes(np.array(copies))
    np.testing.assert_allclose(aligned, np.broadcast_to(aligned[0], aligned.shape), atol=1e-12)
    np.testing.assert_allclose(aligned.mean(axis=1), 0, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(aligned, axis=(1, 2)), 1)


def test_every_shape_is_turned_to_fit_the_mean_best_and_none_is_mirrored():
    """Against trying out many angles."""
    aligned = aligned_shapes(turned_heads(YAWS[:30]))
    mean = aligned.mean(axis=0)
    for shape in aligned:
        best = np.square(shape - mean).sum()
        for angle in np.linspace(-np.pi, np.pi, 721):
            turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
            assert np.square(shape @ turn.T - mean).sum() >= best - 1e-7


def test_the_coordinates_are_those_of_the_first_principal_component():
    shapes = turned_heads(YAWS)
    aligned = aligned_shapes(shapes).reshape(len(shapes), -1)
    away = aligned - aligned.mean(axis=0)
    left, sizes, _ = np.linalg.svd(away, full_matrices=False)
    expected = left[:, 0] * sizes[0]
    found = pose_coordinates(shapes)
    np.testing.assert_allclose(found, expected * np.sign(expected @ found), atol=1e-9)


def test_the_first_component_is_the_turn_of_the_head():
    order = np.corrcoef(np.argsort(np.argsort(pose_coordinates(turned_heads(YAWS)))),
                        np.argsort(np.argsort(YAWS)))[0, 1]  # fmt: skip
    assert abs(order) > 0.99


def test_bins_have_equal_widths():
    shapes = turned_heads(YAWS)
    pose, bins = pose_coordinates(shapes), pose_bins(shapes, 9)
    edges = np.linspace(pose.min(), pose.max(), 10)
    for value, k in zip(pose, bins, strict=True):
        assert edges[k] - 1e-9 <= value <= edges[k + 1] + 1e-9
    assert (bins.min(), bins.max()) == (0, 8)


def test_shapes_that_are_all_the_same_share_a_bin():
    assert pose_bins(np.stack([head_points()[:, :2]] * 4)).tolist() == [0] * 4


def test_the_mean_of_bin_means_counts_every_bin_once():
    shapes = turned_heads(YAWS).astype(np.float32)
    bins = np.repeat([0, 2, 5], [390, 7, 3])
    total = np.zeros(shapes.shape[1:])
    for k in (0, 2, 5):
        members = [
            shape.astype(np.float64) for shape, b in zip(shapes, bins, strict=True) if b == k
        ]
        total += sum(members) / len(members)
    np.testing.assert_allclose(mean_of_bin_means(shapes, bins), total / 3, atol=1e-12)


@given(st.lists(st.integers(0, 8), min_size=1, max_size=60), st.integers(0, 2**32 - 1))
def test_undersampling_takes_as_many_of_each_bin_and_none_twice(bins, seed):
    bins = np.array(bins)
    taken = undersample(bins, np.random.default_rng(seed))
    _, occupied = np.unique(bins, return_counts=True)
    _, counts = np.unique(bins[taken], return_counts=True)
    assert counts.tolist() == [occupied.min()] * len(occupied)
    assert len(set(taken.tolist())) == len(taken)


@given(st.lists(st.integers(0, 8), min_size=1, max_size=60), st.integers(0, 2**32 - 1))
def test_an_epoch_is_balanced_and_as_long_as_without_balancing(bins, seed):
    bins = np.array(bins)
    epoch = balanced_epoch(bins, np.random.default_rng(seed))
    _, counts = np.unique(bins[epoch], return_counts=True)
    assert len(set(counts.tolist())) == 1
    assert len(counts) == len(np.unique(bins))
    one = len(undersample(bins, np.random.default_rng(seed)))
    assert abs(len(epoch) - len(bins)) <= one / 2
    other = balanced_epoch(bins, np.random.default_rng(seed + 1))
    assert len(other) == len(epoch)


def test_chance_comes_from_the_generator():
    bins = pose_bins(turned_heads(YAWS))
    first, again, other = (balanced_epoch(bins, np.random.default_rng(s)) for s in (1, 1, 2))
    assert first.tolist() == again.tolist() != other.tolist()


@pytest.mark.shared
def test_on_real_faces_the_outer_bins_hold_the_faces_turned_to_either_side():
    shapes = []
    for folder in ("helen_train", "afw"):
        path = SHARED / "data" / "landmarks68" / folder / "annotations.jsonl"
        shapes += [json.loads(line)["points"] for line in path.read_text().splitlines()]
    shapes = np.float32(shapes)
    bins = pose_bins(shapes)
    counts = np.bincount(bins, minlength=BINS)
    assert counts.min() >= 10
    assert counts.argmax() in (3, 4, 5)
    # How far the nose tip (30) lies from the middle of the jaw's ends, over their distance
    left, right, nose = shapes[:, 0], shapes[:, 16], shapes[:, 30]
    across = right - left
    offset = ((nose - (left + right) / 2) * across).sum(axis=1) / np.square(across).sum(axis=1)
    means = [offset[bins == k].mean() for k in range(BINS)]
    assert means == sorted(means) or means == sorted(means, reverse=True)
    assert abs(means[0] - means[-1]) > 0.5
