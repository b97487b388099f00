"""What is compared: tables of rows, each a recipe; within a table only what is named differs.

(Heads need trunks of their own: PIP takes the trunk at the stride that gives its grid; MapNet and
CoordNet take it at 32, from which MapNet makes its maps.)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rows_hih
import rows_subpixel
import rows_wasserstein
from row import Row, Scale, lasting

from facemark_export.networks.trunks import TRUNK_STRIDE
from facemark_export.training.recipes.mapnet import MapnetRecipe
from facemark_export.training.recipes.pipnet import PipnetRecipe
from facemark_export.training.recipes.regression import RegressionRecipe
from facemark_export.training.recipes.self_training import SelfTrainingRecipe

LABELLED = ("landmarks68/helen_train", "landmarks68/afw")
OTHER = "landmarks68/youtube_faces"
"""Video frames of another kind, points by a machine: judged on, never trained on."""
UNLABELLED = ("unlabelled/congress225", "unlabelled/voteview", "unlabelled/facemask_nomask")

_SMALL = {
    "architecture": "efficientnet_lite0",
    "size": 128,
    "batch_size": 16,
    "precision": "bfloat16",
    "workers": 0,
    "threads": 1,
    "checkpoint_minutes": 5.0,
    "device": "cpu",
}
_FULL = {
    "architecture": "efficientnet_lite0",
    "size": 256,
    "batch_size": 16,
    "precision": "bfloat16",
    "workers": 4,
    "device": "cuda",
}
_EPOCHS = {"small": 8, "full": 60}
_LOSS_EPOCHS = {"small": 6, "full": 60}
_ROUND_EPOCHS = {"small": 4, "full": 30}
_ROUNDS = 3
_SEEN = 0.25
"""How often an unlabelled face is seen in an epoch: three labelled ones to two of them."""


def tables(scale: Scale, data: Path) -> dict[str, list[Row]]:
    """All tables at a scale: ``small`` for two CPU cores, ``full`` for a GPU."""
    common: dict[str, Any] = _SMALL if scale == "small" else _FULL
    stride = common["size"] // 8  # 8 x 8 cells, the paper's grid
    epochs = _EPOCHS[scale]
    once = lasting(common, epochs)
    pip = {**once, "stride": stride}
    losses = lasting(once, _LOSS_EPOCHS[scale])
    rounds = lasting(pip, _ROUND_EPOCHS[scale])
    unlabelled = tuple(data / folder for folder in UNLABELLED)
    teaching = {**rounds, "unlabelled": unlabelled, "unlabelled_weight": _SEEN}
    # A round sees unlabelled faces as well: 1.7 times as many steps an epoch.
    one, every = (round(_ROUND_EPOCHS[scale] * n) for n in (1.7, 1 + 1.7 * _ROUNDS))
    coarser = {"PIP, 4 x 4 cells": PipnetRecipe(nrm=False, neighbours=1, **once)}
    if stride == TRUNK_STRIDE:  # at full scale the paper's grid needs no other stride
        coarser = {}
    kinds = {
        "heads": {
            "CoordNet": RegressionRecipe(head="coordnet", loss="l1", pose_bins=0, **once),
            "MapNet": MapnetRecipe(**once),
            **coarser,
            "PIP": PipnetRecipe(nrm=False, neighbours=1, **pip),
            "PIP + NRM": PipnetRecipe(**pip),
        },
        "losses": {
            f"{title}{', poses balanced' if bins else ''}": RegressionRecipe(
                loss=loss, pose_bins=bins, **losses
            )
            for title, loss in (
                ("L2", "l2"),
                ("smooth L1", "smooth_l1"),
                ("Wing", "wing"),
                ("anisotropic", "anisotropic"),
            )
            for bins in (0, 9)
        },
        "unlabelled": {
            "supervised, steps of a round": PipnetRecipe(**lasting(rounds, one)),
            "supervised, steps of all rounds": PipnetRecipe(**lasting(rounds, every)),
            "self-training": SelfTrainingRecipe(curriculum=False, full_rounds=_ROUNDS, **teaching),
            "STC": SelfTrainingRecipe(curriculum=True, full_rounds=_ROUNDS - 2, **teaching),
        },
    }
    plain = {
        table: [Row(scale, table, name, recipe) for name, recipe in rows.items()]
        for table, rows in kinds.items()
    }
    papers = (rows_wasserstein, rows_hih, rows_subpixel)
    return {**plain, **{paper.TABLE: paper.rows(scale, common) for paper in papers}}
