"""DARK: a Taylor step from the arg-max to the maximum of the smoothed map's logarithm.

Distribution-aware decoding (Zhang et al., CVPR 2020), as the HIH paper describes it in section
II: smooth the map with a Gaussian, expand its logarithm, which for a Gaussian is a quadratic, and
go to that quadratic's maximum. For a Gaussian map the step is exact. Only the patch about the
peak is looked at.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from facemark_sdk.decode.decoded import Decoder, Floats
from facemark_sdk.decode.heatmap import decode_peaks
from facemark_sdk.decode.params import number_param, origin_param
from facemark_sdk.decode.peaks import Peaks, patches_around

if TYPE_CHECKING:
    from facemark_sdk.spec import ModelSpec

BLUR_SIGMA = 1.5
"""Of the smoothing kernel, in cells: that of the targets of WFLW, COFW, AFLW (COMPAT 2.5)."""
BLUR_SIGMAS = (0.5, 5.0)
"""So that the kernel has neighbours, and the patch stays small."""
KERNEL_SIGMAS = 3.0
"""Where the kernel is cut off, in sigmas."""
RADIUS = 2
"""Cells on each side of the peak whose smoothed values the derivatives need."""
LOG_FLOOR = np.float32(1e-10)
LOWEST = np.float32(-1e6)
"""Peaks under 0 that a value may be, so that float32 can hold their sums."""
NEAR = np.float32(-0.5)
"""Above it log(1 + x) is 2 artanh(x / (2 + x)), exact for small x; ONNX knows no log1p."""
LONGEST_STEP = np.float32(1.0)
"""In cells. A peak of the sampled map is within half a cell of the continuous one on each axis; a
longer step comes from a map that is no single peak."""


def blur_matrix(sigma: float) -> Floats:
    """(5, 2 * R + 5) float32: smooths five cells of a row that reaches R cells further out.

    R is 3 sigma in whole cells; rows of the matrix sum to 1.
    """
    radius = int(KERNEL_SIGMAS * sigma)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    matrix = np.zeros((2 * RADIUS + 1, 2 * (RADIUS + radius) + 1), np.float32)
    for row in range(len(matrix)):
        matrix[row, row : row + len(kernel)] = kernel / kernel.sum()
    return matrix


def dark(maps: Floats, peaks: Peaks, *, blur: Floats) -> Floats:
    """The peak's cell minus inverse(Hessian) @ gradient of log(smoothed map).

    Differences are central, second ones over two cells. The cell stays as it is where the 5 x 5
    cells about it are not all in the map, where the Hessian's determinant is 0, and where the step
    would be longer than `LONGEST_STEP`.

    Args:
        maps: (N, L, H, W); zero outside, as a convolution pads.
        peaks: Theirs, of the unsmoothed maps.
        blur: From `blur_matrix`.

    Returns:
        (N, L, 2) cells.
    """
    around, inside = patches_around(maps, peaks, blur.shape[1] // 2)
    peak = peaks.values[..., None, None]
    positive = peak > LOG_FLOOR
    peak = np.where(positive, peak, np.float32(1))
    # How far the smoothed values are from the peak, in its units, without taking the difference of
    # two that agree in most digits: a flat map's curvature would be lost in their rounding.
    away = np.where(inside, (np.maximum(around, LOWEST * peak) - peak) / peak, np.float32(-1))
    below = blur @ away @ blur.T
    near = np.maximum(below, NEAR)
    far = np.log(np.maximum(1 + below, LOG_FLOOR / peak))
    f = np.where(below > NEAR, 2 * np.arctanh(near / (2 + near)), far)
    m = RADIUS  # the peak's own index in f
    dx = 0.5 * (f[..., m, m + 1] - f[..., m, m - 1])
    dy = 0.5 * (f[..., m + 1, m] - f[..., m - 1, m])
    dxx = 0.25 * (f[..., m, m + 2] - 2 * f[..., m, m] + f[..., m, m - 2])
    dyy = 0.25 * (f[..., m + 2, m] - 2 * f[..., m, m] + f[..., m - 2, m])
    dxy = 0.25 * (
        f[..., m + 1, m + 1] - f[..., m + 1, m - 1] - f[..., m - 1, m + 1] + f[..., m - 1, m - 1]
    )
    determinant = dxx * dyy - dxy * dxy
    solvable = determinant != 0
    divisor = np.where(solvable, determinant, np.float32(1))
    step = np.stack((dxy * dy - dyy * dx, dxy * dx - dxx * dy), axis=-1) / divisor[..., None]
    margin = inside.shape[-1] // 2 - RADIUS
    whole = inside[..., margin:-margin, margin:-margin].all(axis=(-2, -1))
    moves = solvable & positive[..., 0, 0] & whole & ((step * step).sum(axis=-1) <= LONGEST_STEP**2)
    cells: Floats = peaks.cells + np.where(moves[..., None], step, np.float32(0))
    return cells


def blur_sigma_param(spec: ModelSpec) -> float:
    """Sigma of the smoothing kernel in cells, `BLUR_SIGMA` where the spec states none.

    Raises:
        ModelError: Out of range.
    """
    return number_param(spec, "blur_sigma", BLUR_SIGMA, *BLUR_SIGMAS)


def dark_decoder(spec: ModelSpec) -> Decoder:
    """Decoder ``dark``; parameters ``origin``, ``blur_sigma``.

    Raises:
        ModelError: A parameter is out of range.
    """
    locate = partial(dark, blur=blur_matrix(blur_sigma_param(spec)))
    return partial(decode_peaks, locate=locate, origin=origin_param(spec))
