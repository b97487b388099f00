from __future__ import annotations

import numpy as np
import pytest

from facemark_sdk import Layout, LayoutError, get_layout
from facemark_sdk.layouts import LAYOUTS, convert, mapping_matrix

each_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


@each_layout
def test_flip_is_an_involution(layout: Layout) -> None:
    index = layout.flip_index
    assert np.array_equal(index[index], np.arange(layout.num_points))


@each_layout
def test_flip_pairs_are_disjoint(layout: Layout) -> None:
    flat = [i for pair in layout.flip_pairs for i in pair]
    assert len(flat) == len(set(flat))


@each_layout
def test_flip_keeps_edges_and_eye_corners(layout: Layout) -> None:
    edges = {frozenset(edge) for edge in layout.edges}
    flipped = {frozenset(int(layout.flip_index[i]) for i in edge) for edge in edges}
    assert flipped == edges
    assert {int(layout.flip_index[i]) for i in layout.eye_corners} == set(layout.eye_corners)


@each_layout
def test_indices_are_in_range(layout: Layout) -> None:
    used = [i for edge in layout.edges for i in edge]
    used += [i for group in layout.groups.values() for i in group]
    used += layout.eye_corners
    assert set(used) <= set(range(layout.num_points))
    assert len(set(layout.names)) == layout.num_points


@each_layout
def test_groups_name_every_point_once(layout: Layout) -> None:
    indices = sorted(i for group in layout.groups.values() for i in group)
    assert indices == list(range(layout.num_points))


@each_layout
def test_flip_swaps_left_and_right_groups(layout: Layout) -> None:
    for name, group in layout.groups.items():
        other = {"right": "left", "left": "right"}.get(name.split("_")[0])
        mirrored = name if other is None else name.replace(name.split("_")[0], other)
        assert {int(layout.flip_index[i]) for i in group} == set(layout.groups[mirrored])


def test_68_to_5() -> None:
    points = np.random.default_rng(0).uniform(0, 1, (3, 68, 2)).astype(np.float32)
    five = convert(points, "ibug68", "kps5")
    assert five.shape == (3, 5, 2)
    np.testing.assert_allclose(five[:, 1], points[:, 42:48].mean(axis=1), rtol=1e-5)
    np.testing.assert_array_equal(five[:, 3:], points[:, [48, 54]])


def test_mapping_and_mirroring_commute() -> None:
    source, target = get_layout("ibug68"), get_layout("kps5")
    points = np.random.default_rng(0).uniform(-1, 1, (68, 2)).astype(np.float32)
    first = convert(points[source.flip_index], "ibug68", "kps5")
    then = convert(points, "ibug68", "kps5")[target.flip_index]
    np.testing.assert_allclose(first, then, atol=1e-6)


def test_errors() -> None:
    with pytest.raises(LayoutError, match="known layouts: ibug68, kps5"):
        get_layout("nix")
    with pytest.raises(LayoutError, match="no mapping from layout 'kps5'"):
        mapping_matrix("kps5", "ibug68")
    with pytest.raises(LayoutError, match=r"shape \(\.\.\., 68, 2\)"):
        convert(np.zeros((5, 2), np.float32), "ibug68", "kps5")
