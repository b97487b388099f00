"""Heatmap targets: Subpixel's rounded and continuous maps, HIH's integer and decimal ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from heatmap_samples import decode, spec_of

from facemark_export.training.heatmap_targets import (
    continuous_maps,
    decimal_maps,
    grid_cells,
    rounded_maps,
)
from facemark_sdk.decode import make_decoder

PATCHES = {1.0: (-3, 3), 1.5: (-5, 4)}
"""First and last cell about the peak: 7 x 7 and 10 x 10 with the peak at index 5 (COMPAT 2.5)."""


def loop_maps(points, side, sigma, origin):
    """Continuous maps, one cell at a time; cell c stands for position c + origin."""
    faces, landmarks, _ = points.shape
    maps = np.zeros((faces, landmarks, side, side))
    for n in range(faces):
        for i, (x, y) in enumerate(points[n].astype(np.float64) * side):
            for r in range(side):
                for c in range(side):
                    distance = (c + origin - x) ** 2 + (r + origin - y) ** 2
                    maps[n, i, r, c] = math.exp(-distance / (2 * sigma**2))
    return maps


def loop_patch(column, row, side, sigma):
    """One map with a Gaussian's patch about a cell, which may lie outside the map."""
    first, last = PATCHES[sigma]
    values = np.zeros((side, side))
    for dy in range(first, last + 1):
        for dx in range(first, last + 1):
            if 0 <= row + dy < side and 0 <= column + dx < side:
                values[row + dy, column + dx] = math.exp(-(dx**2 + dy**2) / (2 * sigma**2))
    return values


def loop_cell(position, side, quantise):
    cell = round(position) if quantise == "round" else math.floor(position)
    return min(max(cell, 0), side - 1)


def loop_rounded(points, side, sigma, quantise):
    faces, landmarks, _ = points.shape
    maps = np.zeros((faces, landmarks, side, side))
    for n in range(faces):
        for i, (x, y) in enumerate(points[n].astype(np.float64) * side):
            cells = (loop_cell(x, side, quantise), loop_cell(y, side, quantise))
            maps[n, i] = loop_patch(*cells, side, sigma)
    return maps


def loop_decimal(points, side, inner, quantise):
    """The cell of each landmark's place in its cell; rounding reaches `inner`, outside the map."""
    cells = np.zeros(points.shape, int)
    for index, value in np.ndenumerate(points.astype(np.float64) * side):
        place = (value - loop_cell(value, side, "floor")) * inner
        place = round(place) if quantise == "round" else math.floor(place)
        cells[index] = min(max(place, 0), inner if quantise == "round" else inner - 1)
    return cells


@pytest.fixture
def points():
    """Two faces; some landmarks lie outside the crop, some in the first or the last cells."""
    return np.random.default_rng(3).uniform(-0.1, 1.1, (2, 30, 2)).astype(np.float32)


@pytest.mark.parametrize("origin", [0.0, 0.5])
@pytest.mark.parametrize(("side", "sigma"), [(16, 1.0), (12, 2.0), (24, 4.0)])
def test_continuous_maps_equal_the_plain_loop(points, side, sigma, origin):
    found = continuous_maps(torch.from_numpy(points), side, sigma, origin=origin)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, loop_maps(points, side, sigma, origin), atol=1e-5)


@pytest.mark.parametrize("sigma", sorted(PATCHES))
@pytest.mark.parametrize("quantise", ["round", "floor"])
def test_rounded_maps_equal_the_plain_loop(points, quantise, sigma):
    found = rounded_maps(torch.from_numpy(points), 16, sigma, quantise=quantise)
    np.testing.assert_allclose(found, loop_rounded(points, 16, sigma, quantise), atol=1e-6)


@pytest.mark.parametrize("quantise", ["round", "floor"])
@pytest.mark.parametrize("inner", [4, 8, 16])
def test_decimal_maps_equal_the_plain_loop(points, inner, quantise):
    found = decimal_maps(torch.from_numpy(points), 64, inner, 1.0, quantise=quantise)
    cells = loop_decimal(points, 64, inner, quantise)
    for n, i in np.ndindex(points.shape[:2]):
        expected = loop_patch(*cells[n, i], inner, 1.0)
        np.testing.assert_allclose(found[n, i], expected, atol=1e-6)
    assert ((cells == inner).any()) == (quantise == "round")


@pytest.mark.parametrize("inner", [4, 8])
def test_a_hard_label_is_one_in_the_soft_labels_highest_cell(points, inner):
    truth = torch.from_numpy(points)
    hard = decimal_maps(truth, 64, inner, 1.0, hard=True).flatten(2)
    soft = decimal_maps(truth, 64, inner, 1.0).flatten(2)
    assert torch.equal(hard.sum(dim=-1), torch.ones(hard.shape[:2]))
    assert torch.equal(hard.argmax(dim=-1), soft.argmax(dim=-1))
    assert set(hard.unique().tolist()) == {0.0, 1.0}


def test_double_points_give_double_maps(points):
    """Gradients are checked in float64."""
    truth = torch.from_numpy(points).double()
    for maps in (continuous_maps(truth, 8, 1.0), rounded_maps(truth, 8, 1.0)):
        assert maps.dtype == torch.float64
    assert decimal_maps(truth, 8, 4, 1.0).dtype == torch.float64


# --- what the decoders of the SDK read from the targets ---------------------------------------


@pytest.fixture
def inside():
    """Landmarks anywhere in the crop."""
    return np.random.default_rng(5).uniform(0, 1, (4, 200, 2)).astype(np.float32)


@pytest.mark.parametrize("quantise", ["round", "floor"])
@pytest.mark.parametrize("sigma", sorted(PATCHES))
def test_the_arg_max_of_a_rounded_map_is_the_points_cell(inside, quantise, sigma):
    """Also in the first five columns and rows, where the published patch is one cell off."""
    truth = torch.from_numpy(inside)
    maps = rounded_maps(truth, 64, sigma, quantise=quantise)
    expected = [loop_cell(value, 64, quantise) for value in (inside * 64).ravel().tolist()]
    found = decode("argmax", maps).points * 64
    np.testing.assert_array_equal(found.ravel(), expected)
    np.testing.assert_array_equal(found, grid_cells(truth, 64, quantise))
    assert (found < 5).any()


@pytest.mark.parametrize(("inner", "quantise"), [(4, "round"), (8, "round"), (8, "floor")])
def test_integer_and_decimal_maps_are_read_to_within_the_decimal_cell(inside, inner, quantise):
    """Half a decimal cell with rounding, a whole one where the place fell off the map's end."""
    truth = torch.from_numpy(inside)
    outputs = {
        "heatmaps": rounded_maps(truth, 64, 1.5, quantise="floor").numpy(),
        "offsets": decimal_maps(truth, 64, inner, 1.0, quantise=quantise).numpy(),
    }
    found = make_decoder(spec_of("hih"))(outputs).points
    error = np.abs(found - inside).astype(np.float64) * 64 * inner
    place = (inside.astype(np.float64) * 64 % 1) * inner
    kept = place < inner - 0.5
    assert error[kept].max() <= (0.5 if quantise == "round" else 1.0) + 1e-3
    assert error.max() <= 1.0 + 1e-3
    assert error.max() > 0.9


@pytest.mark.parametrize(("decoder", "largest"), [("dark", 0.01), ("barycentre_sum", 1e-3)])
def test_continuous_maps_lose_nothing_but_rounded_ones_do(inside, decoder, largest):
    away = inside[np.abs(inside - 0.5).max(axis=-1) < 0.4][None]  # from the border
    truth = torch.from_numpy(away)
    exact = decode(decoder, continuous_maps(truth, 64, 1.5)).points
    assert np.abs(exact - away).max() * 64 < largest
    rounded = decode(decoder, rounded_maps(truth, 64, 1.5)).points
    assert np.abs(rounded - away).max() * 64 > 0.45


def test_the_origin_is_the_decoders(inside):
    maps = continuous_maps(torch.from_numpy(inside), 64, 1.5, origin=0.5)
    found = decode("argmax", maps, origin=0.5).points
    assert np.abs(found - inside).max() * 64 <= 0.5 + 1e-3
