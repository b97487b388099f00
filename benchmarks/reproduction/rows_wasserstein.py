"""The rows of the Wasserstein paper: losses and sigmas, read by GET_MAX and GET_BC.

GET_MAX is "the position of the maximum value", resampled "using 4 neighbouring pixel (bilinear
interpolation)" (section 5.3). How, the paper does not say; here it is the quarter shift by which
its baseline, the published HRNet, is read. GET_BC is the barycentre (equation 6), by the recipe's
own decoder after all losses that take maps through a softmax. How the paper took it of L2's maps it
does not say: of the map itself over its sum, or through a softmax; both are read.
"""

from __future__ import annotations

from typing import Any

from row import Row, Scale, lasting

from facemark_export.networks.coordconv import SUFFIX
from facemark_export.training.recipes.heatmaps import HeatmapRecipe

TABLE = "wasserstein"
_EPOCHS = {"small": 6, "full": 60}
_KINDS = {
    "L2, sigma 1": ("l2", 1.0),
    "L2, sigma 1.5": ("l2", 1.5),
    "L2, sigma 3": ("l2", 3.0),
    "Wasserstein, sigma 1": ("wasserstein", 1.0),
    "Wasserstein, sigma 1.5": ("wasserstein", 1.5),
    "Wasserstein, sigma 3": ("wasserstein", 3.0),
    "Wasserstein, sigma 1, CoordConv": ("wasserstein", 1.0),
    "Wasserstein, sigma 3, CoordConv": ("wasserstein", 3.0),
    "Jensen-Shannon, sigma 1": ("js", 1.0),
    "soft-argmax": ("soft_argmax", None),
}
"""By name the loss and sigma; the soft-argmax has no targets."""
_COORDCONV = "CoordConv"
"""Ends the names of rows whose convolutions all see coordinates (section 5.5, tables 4 to 9)."""
_OTHER_READINGS = {
    "l2": ("barycentre_sum", "barycentre"),
    "wasserstein": ("quarter_shift",),
    "js": ("quarter_shift",),
    "soft_argmax": (),
}
"""By loss, what its maps are read with besides the recipe's own decoder (tables 2 and 10)."""
_SOFTMAX_TEMPERATURE = 10.0
"""Of all losses with a softmax. At the paper's 1 they hardly begin in so few steps: after 80 on
afw the Wasserstein loss at sigma 1 was at 51 % NME, with 10 at 24 %, L2 at 17 %."""


def rows(scale: Scale, common: dict[str, Any]) -> list[Row]:
    """Tables 2, 8, 9 and 10, on MapNet: maps of 32 x 32 cells in small, 64 x 64 at full scale."""
    settings = {**lasting(common, _EPOCHS[scale]), "family": "mapnet", "imagenet": True}
    seeing = {"architecture": settings["architecture"] + SUFFIX}
    return [
        Row(
            scale,
            TABLE,
            name,
            HeatmapRecipe(
                loss=loss,
                **({} if sigma is None else {"sigma": sigma}),
                **({} if loss == "l2" else {"softmax_temperature": _SOFTMAX_TEMPERATURE}),
                **(settings | seeing if name.endswith(_COORDCONV) else settings),
            ),
            readings=_OTHER_READINGS[loss],
            perturbed=True,
        )
        for name, (loss, sigma) in _KINDS.items()
    ]
