"""Barycentre decoders against plain float64 loops, golden numbers and sampled Gaussians."""

from __future__ import annotations

import numpy as np
import pytest
from heatmap_samples import (
    ANY_MAPS,
    BARYCENTRES,
    KINDS,
    cells_of,
    decode,
    maps_of,
    sampled,
    spec_of,
)
from hypothesis import given, settings

from facemark_sdk.decode import make_decoder
from facemark_sdk.errors import ModelError


def loop_barycentre(p):
    """Mean, covariance and the mass of the 5 x 5 square about the mean, of a distribution."""
    cells = [(r, c) for r in range(len(p)) for c in range(len(p[0]))]
    x = sum(p[r][c] * c for r, c in cells)
    y = sum(p[r][c] * r for r, c in cells)
    xx = sum(p[r][c] * (c - x) ** 2 for r, c in cells)
    xy = sum(p[r][c] * (c - x) * (r - y) for r, c in cells)
    yy = sum(p[r][c] * (r - y) ** 2 for r, c in cells)

    def covered(cell, middle):
        low, high = max(cell - 0.5, middle - 2.5), min(cell + 0.5, middle + 2.5)
        return max(high - low, 0.0)

    score = sum(p[r][c] * covered(c, x) * covered(r, y) for r, c in cells)
    return (x, y), ((xx, xy), (xy, yy)), score


def distribution(decoder, hm):
    hm = hm.astype(np.float64)
    if decoder == "barycentre":
        return np.exp(hm - hm.max()) / np.exp(hm - hm.max()).sum()
    positive = np.maximum(hm, 0)
    return positive / positive.sum() if positive.sum() > 0 else np.full(hm.shape, 1 / hm.size)


@pytest.mark.parametrize("decoder", BARYCENTRES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(2, 1, 16, 16), (1, 19, 9, 12), (3, 5, 4, 3), (1, 106, 8, 8)])
def test_barycentres_equal_the_plain_loops(decoder, kind, shape):
    maps = maps_of(kind, np.random.default_rng(shape[1]), shape)
    decoded = decode(decoder, maps, origin=0.5)
    sides = np.array([shape[3], shape[2]])
    for n, face in enumerate(maps):
        for i, hm in enumerate(face):
            mean, spread, score = loop_barycentre(distribution(decoder, hm))
            np.testing.assert_allclose(
                decoded.points[n, i], (np.array(mean) + 0.5) / sides, atol=1e-5
            )
            np.testing.assert_allclose(
                decoded.covariances[n, i], spread / np.outer(sides, sides), atol=1e-6
            )
            assert decoded.scores[n, i] == pytest.approx(score, abs=1e-5)
    assert decoded.covariances.dtype == decoded.points.dtype == decoded.scores.dtype == np.float32


def test_barycentre_takes_its_temperature_from_the_spec():
    maps = maps_of("bump", np.random.default_rng(3), (1, 4, 16, 16))
    np.testing.assert_allclose(
        cells_of("barycentre", maps, temperature=4.0), cells_of("barycentre", maps * 4), atol=1e-4
    )


@pytest.mark.parametrize("decoder", BARYCENTRES)
def test_the_covariance_scale_of_the_spec_multiplies_covariances_alone(decoder):
    maps = maps_of("bump", np.random.default_rng(4), (2, 5, 12, 16))
    plain, scaled = decode(decoder, maps), decode(decoder, maps, covariance_scale=0.25)
    np.testing.assert_allclose(scaled.covariances, plain.covariances / 4, rtol=1e-6)
    np.testing.assert_array_equal(scaled.points, plain.points)
    np.testing.assert_array_equal(scaled.scores, plain.scores)
    assert scaled.covariances.dtype == np.float32


@pytest.mark.parametrize("decoder", BARYCENTRES)
@pytest.mark.parametrize("value", [0, -1.0, 1e9, float("nan"), "wide", True])
def test_an_impossible_covariance_scale_is_refused(decoder, value):
    with pytest.raises(ModelError, match="covariance_scale"):
        make_decoder(spec_of(decoder, covariance_scale=value))


def test_the_twin_in_the_graph_scales_covariances_likewise():
    torch = pytest.importorskip("torch")
    from facemark_export.decode_twins import BarycentreTwin, PositivePart

    maps = maps_of("bump", np.random.default_rng(5), (2, 5, 12, 16))
    expected = decode("barycentre_sum", maps, covariance_scale=3.0)
    side = 64
    points, _, spread = BarycentreTwin(PositivePart(), 0.0, side, 3.0)(torch.from_numpy(maps))
    np.testing.assert_allclose(spread.numpy(), expected.covariances * side**2, rtol=1e-4)
    np.testing.assert_allclose(points.numpy(), expected.points * side, rtol=1e-5)


def test_barycentre_of_two_cells():
    # Half the mass at (1, 2), half at (3, 6): mean (2, 4), variances 1 and 4, covariance 2.
    maps = np.zeros((1, 1, 8, 8), np.float32)
    maps[0, 0, 2, 1] = maps[0, 0, 6, 3] = 0.3
    decoded = decode("barycentre_sum", maps)
    np.testing.assert_allclose(decoded.points[0, 0] * 8, [2, 4], atol=1e-6)
    np.testing.assert_allclose(decoded.covariances[0, 0] * 64, [[1, 2], [2, 4]], atol=1e-5)
    np.testing.assert_allclose(decoded.scores, 1.0, atol=1e-6)


def test_a_lone_logit_takes_the_softmax_whole():
    maps = np.zeros((1, 1, 64, 64), np.float32)
    maps[0, 0, 40, 20] = 60.0
    decoded = decode("barycentre", maps)
    np.testing.assert_allclose(decoded.points[0, 0] * 64, [20, 40], atol=1e-5)
    np.testing.assert_allclose(decoded.covariances, 0.0, atol=1e-9)
    np.testing.assert_allclose(decoded.scores, 1.0)


@pytest.mark.parametrize("decoder", BARYCENTRES)
@pytest.mark.parametrize("value", [0.0, -3.0])
def test_a_map_that_says_nothing_gives_the_middle_with_its_uniform_spread(decoder, value):
    decoded = decode(decoder, np.full((1, 2, 6, 11), value))
    np.testing.assert_allclose(decoded.points[0, 0] * [11, 6], [5, 2.5], atol=1e-5)
    uniform = np.diag([(11**2 - 1) / 12 / 11**2, (6**2 - 1) / 12 / 6**2])  # (n^2 - 1) / 12
    np.testing.assert_allclose(decoded.covariances[0, 0], uniform, atol=1e-6)
    np.testing.assert_allclose(decoded.scores, 25 / 66, atol=1e-5)


def test_the_softmax_of_a_gaussians_logarithm_is_found_too():
    centres, maps = sampled()
    logits = np.log(np.maximum(maps, 1e-30))
    assert np.abs(cells_of("barycentre", logits) - centres).max() < 1e-4


@pytest.mark.parametrize("sigma", [1.0, 1.5, 2.5])
def test_the_covariance_of_a_sampled_gaussian_is_sigma_squared(sigma):
    _, maps = sampled(sigma=sigma)
    spread = decode("barycentre_sum", maps).covariances * 64**2
    expected = np.broadcast_to(sigma**2 * np.eye(2), spread.shape)
    np.testing.assert_allclose(spread, expected, atol=5e-3)


def test_a_sharper_map_scores_higher():
    scores = [decode("barycentre_sum", sampled(sigma=s)[1]).scores.mean() for s in (1.0, 1.5, 3.0)]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > 0.9


@pytest.mark.parametrize("decoder", BARYCENTRES)
@settings(max_examples=60)
@given(maps=ANY_MAPS)
def test_covariances_are_symmetric_and_positive_semidefinite(decoder, maps):
    spread = decode(decoder, maps).covariances.astype(np.float64)
    np.testing.assert_array_equal(spread, spread.swapaxes(-1, -2))
    trace = np.trace(spread, axis1=-2, axis2=-1)
    assert (np.linalg.eigvalsh(spread) >= -1e-6 * trace[..., None] - 1e-12).all()
