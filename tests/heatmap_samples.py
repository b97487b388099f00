"""Heatmaps of many kinds for the decoders' tests, and specs that name a decoder."""

from __future__ import annotations

import dataclasses

import numpy as np
from conftest import landmark_spec
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from facemark_sdk.decode import make_decoder

PEAK_DECODERS = ("argmax", "quarter_shift", "dark", "local_soft_argmax")
BARYCENTRES = ("barycentre", "barycentre_sum")

KINDS = ("noise", "bump", "border", "ties", "negative", "constant", "zero")
"""Kinds of maps; in a bump map the peak is well inside, in a border map beyond the edge."""


def spec_of(decoder, **params):
    base = landmark_spec(np.random.default_rng(0).random((68, 2)))
    return dataclasses.replace(base, decoder=decoder, decoder_params=params)


def decode(decoder, maps, **params):
    maps = np.asarray(maps, np.float32)
    return make_decoder(spec_of(decoder, **params))({"heatmaps": maps})


def cells_of(decoder, maps, **params):
    """(N, L, 2) positions in cells."""
    height, width = np.shape(maps)[-2:]
    return decode(decoder, maps, **params).points * np.float32([width, height])


def maps_of(kind, rng, shape):
    """Maps of a kind: noise, a bump with noise, values that tie, peaks on the border, ..."""
    if kind == "noise":
        return rng.normal(size=shape).astype(np.float32)
    if kind == "ties":
        return rng.integers(-1, 3, shape).astype(np.float32)
    if kind == "negative":
        return rng.uniform(-2, -1, shape).astype(np.float32)
    if kind == "constant":
        return np.full(shape, 0.5, np.float32)
    if kind == "zero":
        return np.zeros(shape, np.float32)
    height, width = shape[-2:]
    last = np.array([width - 1, height - 1])
    centres = rng.uniform(last * 0.25, last * 0.75, (*shape[:2], 2))
    if kind == "border":
        centres[..., 0] = np.where(rng.random(shape[:2]) < 0.5, -0.5, width - 0.5)
    bumps = gaussians(centres, rng.uniform(1, 2, shape[:2]), (height, width))
    return (bumps + rng.normal(scale=0.02, size=shape)).astype(np.float32)


def gaussians(centres, sigmas, size):
    """Gaussians with peak 1 about (N, L, 2) continuous centres, sampled on the cells."""
    y, x = np.mgrid[: size[0], : size[1]]
    dx, dy = x - centres[..., 0, None, None], y - centres[..., 1, None, None]
    return np.exp(-(dx**2 + dy**2) / (2 * np.asarray(sigmas)[..., None, None] ** 2))


def sampled(seed=0, sigma=1.5, count=400):
    """Centres (1, count, 2) anywhere well inside 64 x 64 maps, and the maps."""
    centres = np.random.default_rng(seed).uniform(10, 53, (1, count, 2))
    return centres, gaussians(centres, np.full((1, count), sigma), (64, 64))


ANY_MAPS = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
    elements=st.floats(-1e4, 1e4, width=32),
)
"""Maps of any size and values, from hypothesis."""
