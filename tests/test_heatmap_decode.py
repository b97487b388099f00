"""Heatmap decoders against plain float64 loops, golden numbers, and Gaussians sampled on a grid."""

from __future__ import annotations

import math

import numpy as np
import pytest
from heatmap_samples import (
    ANY_MAPS,
    BARYCENTRES,
    KINDS,
    PEAK_DECODERS,
    cells_of,
    decode,
    maps_of,
    sampled,
    spec_of,
)
from hypothesis import given, settings

from facemark_sdk.decode import DECODERS, make_decoder
from facemark_sdk.errors import ModelError

HEATMAP_DECODERS = PEAK_DECODERS + BARYCENTRES


# ---- the specification once more, one map and one cell at a time, in float64


def loop_peak(hm):
    best, at = -math.inf, (0, 0)
    for r in range(len(hm)):
        for c in range(len(hm[0])):
            if hm[r][c] > best:
                best, at = hm[r][c], (c, r)
    return *at, best


def loop_argmax(hm):
    c, r, _ = loop_peak(hm)
    return c, r


def loop_quarter_shift(hm):
    c, r, v = loop_peak(hm)
    if v <= 0:
        return -1, -1
    x, y = c, r
    if 1 <= c <= len(hm[0]) - 2 and 1 <= r <= len(hm) - 2:
        right_left, down_up = hm[r][c + 1] - hm[r][c - 1], hm[r + 1][c] - hm[r - 1][c]
        x += 0.25 * (int(right_left > 0) - int(right_left < 0))
        y += 0.25 * (int(down_up > 0) - int(down_up < 0))
    return x, y


def loop_local_soft_argmax(hm, window=5, temperature=10.0):
    c, r, v = loop_peak(hm)
    half, total, x, y = window // 2, 0.0, 0.0, 0.0
    for m in range(-half, half + 1):
        for n in range(-half, half + 1):
            if 0 <= r + m < len(hm) and 0 <= c + n < len(hm[0]):
                weight = math.exp(temperature * (hm[r + m][c + n] - v))
                total, x, y = total + weight, x + weight * n, y + weight * m
    return c + x / total, r + y / total


def loop_dark(hm, sigma=1.5):
    c, r, _ = loop_peak(hm)
    if not (2 <= c <= len(hm[0]) - 3 and 2 <= r <= len(hm) - 3):
        return c, r
    reach = range(-int(3 * sigma), int(3 * sigma) + 1)
    norm = sum(math.exp(-(i * i) / (2 * sigma**2)) for i in reach)

    def f(dx, dy):
        total = 0.0
        for i in reach:
            for j in reach:
                row, column = r + dy + i, c + dx + j
                if 0 <= row < len(hm) and 0 <= column < len(hm[0]):
                    total += hm[row][column] * math.exp(-(i * i + j * j) / (2 * sigma**2))
        return math.log(max(total / norm**2, 1e-10))

    gradient = np.array([f(1, 0) - f(-1, 0), f(0, 1) - f(0, -1)]) / 2
    xx, yy = (f(2, 0) - 2 * f(0, 0) + f(-2, 0)) / 4, (f(0, 2) - 2 * f(0, 0) + f(0, -2)) / 4
    xy = (f(1, 1) - f(1, -1) - f(-1, 1) + f(-1, -1)) / 4
    if xx * yy - xy * xy == 0:
        return c, r
    step = -np.linalg.inv([[xx, xy], [xy, yy]]) @ gradient
    return (c, r) if np.hypot(*step) > 1 else (c + step[0], r + step[1])


LOOPS = {
    "argmax": loop_argmax,
    "quarter_shift": loop_quarter_shift,
    "dark": loop_dark,
    "local_soft_argmax": loop_local_soft_argmax,
}


# ---- batched numpy equals the loops


@pytest.mark.parametrize("decoder", PEAK_DECODERS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(2, 1, 16, 16), (1, 19, 9, 12), (3, 5, 4, 3), (1, 106, 8, 8)])
def test_peak_decoders_equal_the_plain_loops(decoder, kind, shape):
    maps = maps_of(kind, np.random.default_rng(shape[1]), shape)
    decoded = decode(decoder, maps, origin=0.75)
    faces, landmarks, height, width = shape
    expected = np.array([[LOOPS[decoder](hm) for hm in face] for face in maps.astype(np.float64)])
    expected = (expected + 0.75) / [width, height]
    np.testing.assert_allclose(decoded.points, expected, atol=1e-5)
    peaks = [[loop_peak(hm)[2] for hm in face] for face in maps]
    np.testing.assert_array_equal(decoded.scores, np.clip(peaks, 0, 1))
    assert decoded.points.dtype == decoded.scores.dtype == np.float32
    assert decoded.points.shape == (faces, landmarks, 2)
    assert decoded.covariances is None


@pytest.mark.parametrize(("window", "temperature"), [(3, 1.0), (7, 30.0), (31, 0.5)])
def test_local_soft_argmax_takes_its_window_and_temperature_from_the_spec(window, temperature):
    maps = maps_of("bump", np.random.default_rng(1), (2, 4, 16, 16))
    got = cells_of("local_soft_argmax", maps, window=window, temperature=temperature)
    expected = [
        [loop_local_soft_argmax(hm, window, temperature) for hm in face]
        for face in maps.astype(np.float64)
    ]
    np.testing.assert_allclose(got, expected, atol=1e-4)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0, 5.0])
def test_dark_takes_its_blur_from_the_spec(sigma):
    maps = maps_of("bump", np.random.default_rng(2), (1, 4, 16, 16))
    got = cells_of("dark", maps, blur_sigma=sigma)
    expected = [[loop_dark(hm, sigma) for hm in face] for face in maps.astype(np.float64)]
    np.testing.assert_allclose(got, expected, atol=1e-4)


# ---- golden numbers by hand


def test_hrnets_points_come_out_where_its_code_puts_them():
    # COMPAT 2.3 with a 256-pixel crop: x = 4 * (c + 0.5 +- 0.25) + 1, sub-pixel.
    maps = np.zeros((1, 3, 64, 64), np.float32)
    maps[0, 0, 20, 10], maps[0, 0, 20, 11], maps[0, 0, 19, 10] = 0.9, 0.5, 0.4
    maps[0, 1, 0, 30], maps[0, 1, 0, 31] = 0.8, 0.5  # on the border: no shift, on either axis
    maps[0, 2] = -1.0  # X = Y = 0, then + 0.5, so that X - 1 = -0.5
    points = decode("quarter_shift", maps, origin=0.75).points * 256
    np.testing.assert_allclose(points[0, 0], [4 * 10.75 + 1, 4 * 20.25 + 1])
    np.testing.assert_allclose(points[0, 1], [4 * 30.5 + 1, 4 * 0.5 + 1])
    np.testing.assert_allclose(points[0, 2], [4 * -0.5 + 1, 4 * -0.5 + 1])


def test_equal_neighbours_do_not_shift():
    maps = np.zeros((1, 1, 5, 5), np.float32)
    maps[0, 0, 2, 2] = 1.0
    np.testing.assert_array_equal(cells_of("quarter_shift", maps)[0, 0], [2, 2])


@pytest.mark.parametrize("decoder", PEAK_DECODERS)
def test_equal_maxima_give_the_lowest_row_major_cell(decoder):
    maps = np.zeros((1, 1, 24, 24), np.float32)
    maps[0, 0, 5, 18] = maps[0, 0, 18, 5] = 0.5
    np.testing.assert_allclose(cells_of(decoder, maps)[0, 0], [18, 5], atol=1e-4)


def test_local_soft_argmax_of_two_cells():
    # Weights 1 and exp(-10 * 0.1), all other cells exp(-10): symmetric, so they pull to the middle.
    maps = np.zeros((1, 1, 9, 9), np.float32)
    maps[0, 0, 4, 4], maps[0, 0, 4, 5] = 1.0, 0.9
    second, rest = math.exp(-1.0), math.exp(-10.0)
    x = (second - rest) / (1 + second + 23 * rest)
    np.testing.assert_allclose(cells_of("local_soft_argmax", maps)[0, 0], [4 + x, 4], atol=1e-6)


@pytest.mark.parametrize("decoder", HEATMAP_DECODERS)
def test_origin_moves_every_point_by_that_part_of_a_cell(decoder):
    maps = maps_of("bump", np.random.default_rng(4), (2, 3, 16, 32))
    moved = decode(decoder, maps, origin=0.5).points - decode(decoder, maps).points
    np.testing.assert_allclose(moved, np.broadcast_to([0.5 / 32, 0.5 / 16], moved.shape), atol=1e-6)


# ---- how well a sampled Gaussian is recovered


@pytest.mark.parametrize(
    ("decoder", "tolerance"),
    [
        ("dark", 1e-3),
        ("local_soft_argmax", 0.04),
        ("barycentre_sum", 1e-4),
        ("quarter_shift", 0.26),
    ],
)
def test_a_sampled_gaussian_is_found_between_cells(decoder, tolerance):
    centres, maps = sampled()
    assert np.abs(cells_of(decoder, maps) - centres).max() < tolerance
    assert 0.45 < np.abs(cells_of("argmax", maps) - centres).max() < 0.51


def test_dark_is_exact_for_slanted_gaussians():
    rng = np.random.default_rng(6)
    centres = rng.uniform(20, 43, (1, 50, 2))
    y, x = np.mgrid[:64, :64]
    dx, dy = x - centres[..., 0, None, None], y - centres[..., 1, None, None]
    maps = np.exp(-(dx**2 + 1.2 * dx * dy + dy**2) / (2 * 2.0**2))
    assert np.abs(cells_of("dark", maps) - centres).max() < 5e-3


# ---- what holds for any map


@pytest.mark.parametrize("decoder", HEATMAP_DECODERS)
@settings(max_examples=60)
@given(maps=ANY_MAPS)
def test_points_are_finite_and_within_a_cell_of_the_map(decoder, maps):
    decoded = decode(decoder, maps)
    cells = decoded.points * np.float32([maps.shape[3], maps.shape[2]])
    assert np.isfinite(cells).all()
    assert (cells > -1.001).all()
    assert (cells < np.array([maps.shape[3], maps.shape[2]]) + 0.001).all()
    assert ((decoded.scores >= 0) & (decoded.scores <= 1)).all()


@pytest.mark.parametrize("decoder", HEATMAP_DECODERS)
def test_a_batch_is_its_faces_one_by_one(decoder):
    maps = maps_of("bump", np.random.default_rng(7), (4, 5, 16, 16))
    together, kept = decode(decoder, maps), maps.copy()
    for n in range(4):
        alone = decode(decoder, maps[n : n + 1])
        np.testing.assert_allclose(together.points[n], alone.points[0], atol=1e-6)
        np.testing.assert_allclose(together.scores[n], alone.scores[0], atol=1e-6)
    np.testing.assert_array_equal(maps, kept)  # the network's outputs are left as they are


@pytest.mark.parametrize("decoder", HEATMAP_DECODERS)
def test_no_face_gives_empty_arrays(decoder):
    decoded = decode(decoder, np.zeros((0, 98, 64, 64)))
    assert decoded.points.shape == (0, 98, 2)
    assert decoded.scores.shape == (0, 98)
    if decoder in BARYCENTRES:
        assert decoded.covariances.shape == (0, 98, 2, 2)


# ---- parameters of strangers' files


@pytest.mark.parametrize(
    ("decoder", "params"),
    [
        ("argmax", {"origin": "middle"}),
        ("argmax", {"origin": float("nan")}),
        ("argmax", {"origin": True}),
        ("quarter_shift", {"origin": 1e9}),
        ("dark", {"blur_sigma": 0}),
        ("dark", {"blur_sigma": 1e6}),
        ("local_soft_argmax", {"window": 4}),
        ("local_soft_argmax", {"window": 5.5}),
        ("local_soft_argmax", {"window": 100_001}),
        ("local_soft_argmax", {"temperature": 0}),
        ("barycentre", {"temperature": -1.0}),
        ("barycentre", {"temperature": [1.0]}),
        ("barycentre_sum", {"origin": None}),
    ],
)
def test_unusable_parameters_are_refused_by_name(decoder, params):
    with pytest.raises(ModelError, match=next(iter(params))):
        make_decoder(spec_of(decoder, **params))


def test_every_heatmap_decoder_is_registered():
    assert all(DECODERS[name].outputs == ("heatmaps",) for name in HEATMAP_DECODERS)
