"""The 2D Wasserstein loss for heatmaps (Yan et al. 2021, section 5.1), and its rivals of Table 10.

A network's map becomes a distribution by a softmax; the truth is a Gaussian of sigma 1, 1.5 or 3
cells (section 5.2), normalised likewise. The paper leaves open how Sinkhorn's iteration was set and
whether its entropy was removed: see `sinkhorn.SinkhornSettings`.

Every loss takes heatmaps (N, L, H, W) before any softmax, in any floating type (computed in float32
at least), and points (N, L, 2) as fractions of the crop's sides. Cell c stands for the position
c + origin, as `facemark_sdk.decode.heatmap` says: use the decoder's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from facemark_export.training.heatmap_targets import continuous_maps, full_precision
from facemark_export.training.regression_losses import l1
from facemark_export.training.sinkhorn import SinkhornSettings, transport

SIGMAS = (1.0, 1.5, 3.0)
"""Of the targets, in cells: the usual ones, and the robust one (section 5.2)."""


def log_gaussians(
    points: Tensor, height: int, width: int, sigma: float, *, origin: float = 0.0
) -> Tensor:
    """Logarithms of the target distributions: Gaussians about the points, over the map of sum 1.

    A truth outside of the map thus weighs on the cells nearest to it, where the best that the
    network can do is.

    Returns:
        (N, L, H, W), finite however far outside a point is; float64 for such points, else float32.
    """
    points = full_precision(points)
    down, across = (
        _log_gaussian(points[..., axis] * side - origin, side, sigma)
        for axis, side in ((1, height), (0, width))
    )
    return down[..., :, None] + across[..., None, :]


def log_softmax(heatmaps: Tensor) -> Tensor:
    """Logarithms of the maps as distributions, (N, L, H, W)."""
    flat = torch.log_softmax(full_precision(heatmaps).flatten(2), -1)
    return flat.view(heatmaps.shape)


def wasserstein_distances(
    log_p: Tensor, log_q: Tensor, settings: SinkhornSettings | None = None
) -> Tensor:
    """Equation 4, entropic, of each pair of distributions.

    Args:
        log_p: (N, L, H, W) float32 or float64, logarithms; from `log_softmax`. Has a gradient.
        log_q: Likewise. Has none. A map that is minus infinity throughout is no truth: 0.
        settings: The defaults if None.

    Returns:
        (N, L), in cells; squared cells for the squared distance.
    """
    settings = SinkhornSettings() if settings is None else settings
    solved = transport(log_p.detach().flatten(0, 1), log_q.detach().flatten(0, 1), settings)
    p = log_p.exp()
    slopes = solved.gradients.view_as(p)
    # 0 with the envelope theorem's gradient
    linear = ((p - p.detach()) * slopes).sum((2, 3))
    return solved.values.view(p.shape[:2]) + linear


def wasserstein_loss(
    heatmaps: Tensor,
    points: Tensor,
    sigma: float,
    settings: SinkhornSettings | None = None,
    *,
    origin: float = 0.0,
) -> Tensor:
    """Mean Wasserstein distance to the targets, in cells.

    Args:
        heatmaps: (N, L, H, W).
        points: (N, L, 2).
        sigma: Of the targets, in cells.
        settings: Of the iteration.
        origin: Where in its cell a position lies, in cells.
    """
    log_p = log_softmax(heatmaps)
    log_q = log_gaussians(points.to(log_p.dtype), *heatmaps.shape[2:], sigma, origin=origin)
    return wasserstein_distances(log_p, log_q, settings).mean()


def jensen_shannon_loss(
    heatmaps: Tensor, points: Tensor, sigma: float, *, origin: float = 0.0
) -> Tensor:
    """Mean Jensen-Shannon divergence to the targets (Table 10), 0 to ln 2.

    Arguments as of `wasserstein_loss`.
    """
    log_p = log_softmax(heatmaps)
    log_q = log_gaussians(points.to(log_p.dtype), *heatmaps.shape[2:], sigma, origin=origin)
    log_mean = torch.logaddexp(log_p, log_q) - torch.log(log_p.new_tensor(2.0))
    surprise = log_p.exp() * (log_p - log_mean) + log_q.exp() * (log_q - log_mean)
    return surprise.sum((2, 3)).mean() / 2


def soft_argmax_loss(heatmaps: Tensor, points: Tensor, *, origin: float = 0.0) -> Tensor:
    """L1 between the distributions' means and the truth (Table 10; Sun et al. 2018).

    Nothing is asked of a distribution but its mean. In fractions of the crop, as
    `regression_losses`; arguments as of `wasserstein_loss`.
    """
    means = barycentres(log_softmax(heatmaps).exp(), origin=origin)
    return l1(means - points.to(means.dtype))


def l2_loss(heatmaps: Tensor, points: Tensor, sigma: float, *, origin: float = 0.0) -> Tensor:
    """Mean square difference to Gaussians that peak at 1, no softmax (section 5.1's baseline).

    Arguments as of `wasserstein_loss`; the maps must be square.
    """
    heatmaps = full_precision(heatmaps)
    truth = continuous_maps(points.to(heatmaps.dtype), heatmaps.shape[-1], sigma, origin=origin)
    return F.mse_loss(heatmaps, truth)


def barycentres(p: Tensor, *, origin: float = 0.0) -> Tensor:
    """Means of distributions (equation 6, GET_BC), differentiable.

    Args:
        p: (N, L, H, W), each with sum 1.
        origin: Where in its cell a position lies, in cells.

    Returns:
        (N, L, 2) fractions of the crop's sides.
    """
    height, width = p.shape[2:]
    columns, rows = (torch.arange(n, dtype=p.dtype, device=p.device) for n in (width, height))
    # Sums, not products of matrices: autocast leaves them alone.
    x, y = (p.sum(2) * (columns + origin)).sum(2), (p.sum(3) * (rows + origin)).sum(2)
    return torch.stack((x / width, y / height), -1)


def _log_gaussian(centres: Tensor, cells: int, sigma: float) -> Tensor:
    """(N, L) centres in cells to (N, L, cells)."""
    places = torch.arange(cells, dtype=centres.dtype, device=centres.device)
    # No farther than the squares, of which differences are taken, have digits for.
    centres = centres.clamp(-cells, 2 * cells)[..., None]
    return torch.log_softmax(-0.5 * ((places - centres) / sigma).square(), -1)
