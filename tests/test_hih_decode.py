"""HIH decoding against a plain loop written from COMPAT 3.2."""

from __future__ import annotations

import numpy as np
import pytest
from heatmap_samples import spec_of

from facemark_sdk.decode import DECODERS, make_decoder


def decode(heatmaps, offsets):
    outputs = {"heatmaps": np.float32(heatmaps), "offsets": np.float32(offsets)}
    return make_decoder(spec_of("hih"))(outputs)


def loop_cell(hm):
    best, cell = -np.inf, (0, 0)
    for r in range(len(hm)):
        for c in range(len(hm[0])):
            if hm[r, c] > best:
                best, cell = hm[r, c], (c, r)
    return (cell if best > 0 else (0, 0)), best


def random_maps(kind, rng, shape):
    if kind == "ties":
        return rng.integers(-1, 3, shape).astype(np.float32)
    if kind == "sparse":  # half of the maps have no positive value
        return (rng.normal(size=shape) - 9 * rng.integers(0, 2, (*shape[:2], 1, 1))).astype("f4")
    return rng.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("landmarks", [1, 29, 98, 106])
@pytest.mark.parametrize("inner", [4, 8, 16])
@pytest.mark.parametrize("kind", ["noise", "ties", "sparse"])
def test_batched_decode_equals_the_plain_loop(landmarks, inner, kind):
    rng = np.random.default_rng(landmarks + inner)
    heatmaps = random_maps(kind, rng, (2, landmarks, 16, 16))
    offsets = random_maps(kind, rng, (2, landmarks, inner, inner))
    decoded = decode(heatmaps, offsets)
    for n in range(2):
        for i in range(landmarks):
            (c, r), best = loop_cell(heatmaps[n, i])
            (inner_c, inner_r), _ = loop_cell(offsets[n, i])
            expected = [(c + inner_c / inner) / 16, (r + inner_r / inner) / 16]
            np.testing.assert_allclose(decoded.points[n, i], expected, atol=1e-7)
            assert decoded.scores[n, i] == np.clip(best, 0, 1)
    assert decoded.points.dtype == decoded.scores.dtype == np.float32
    assert decoded.covariances is None


def test_a_point_of_the_published_sizes_by_hand():
    heatmaps, offsets = np.zeros((1, 1, 64, 64)), np.full((1, 1, 8, 8), -2.0)
    heatmaps[0, 0, 20, 40], offsets[0, 0, 3, 6] = 0.7, 0.1
    decoded = decode(heatmaps, offsets)
    # 256-pixel crop: four pixels a cell, half a pixel an inner cell, no half-pixel term.
    np.testing.assert_array_equal(decoded.points[0, 0] * 256, [4 * 40 + 0.5 * 6, 4 * 20 + 0.5 * 3])
    np.testing.assert_array_equal(decoded.scores, np.float32(0.7))


@pytest.mark.parametrize("best", [0.0, -1.0])
def test_a_map_without_a_positive_value_counts_as_cell_0_0(best):
    heatmaps, offsets = np.full((1, 1, 64, 64), best - 1), np.full((1, 1, 8, 8), best - 1)
    heatmaps[0, 0, 20, 40] = offsets[0, 0, 3, 6] = best
    np.testing.assert_array_equal(decode(heatmaps, offsets).points, 0.0)
    heatmaps[0, 0, 20, 40] = 1.0  # the offset map alone
    np.testing.assert_array_equal(decode(heatmaps, offsets).points[0, 0] * 64, [40, 20])


def test_no_face_gives_empty_arrays():
    decoded = decode(np.zeros((0, 98, 64, 64)), np.zeros((0, 98, 8, 8)))
    assert decoded.points.shape == (0, 98, 2)
    assert decoded.scores.shape == (0, 98)


def test_it_reads_heatmaps_and_offsets():
    assert DECODERS["hih"].outputs == ("heatmaps", "offsets")
