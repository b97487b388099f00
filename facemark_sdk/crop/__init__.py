"""From a detector's box to the network's crop, and back with the points.

A rule is data (`CropRule`); its `source` names whose arithmetic cuts the crop. Each source is one
function that writes the crops and returns how points are mapped back.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from facemark_sdk.crop import hrnet, pipnet_demo, warp
from facemark_sdk.crop.affines import Affines, covariances_to_image, to_image
from facemark_sdk.crop.boxes import check_boxes
from facemark_sdk.crop.rules import CROP_RULES
from facemark_sdk.crop.warp import crop_affines, warp_crops
from facemark_sdk.image import Image
from facemark_sdk.spec import CropRule, CropSource

_CUTS: dict[CropSource, Callable[[CropRule, Image, NDArray[np.float64], Image], Affines]] = {
    "facemark": warp.cut,
    "pipnet-demo": pipnet_demo.cut,
    "hrnet": hrnet.cut,
}


def cut(rule: CropRule, image: Image, boxes: NDArray[np.float64], out: Image) -> Affines:
    """Cut the crop of each box by a model's rule.

    Args:
        rule: The rule.
        image: (H, W, 3) uint8.
        boxes: (N, 4) xyxy in image pixels, from `check_boxes`.
        out: (N, S, S, 3) uint8, which the crops are written to.

    Returns:
        (N, 2, 3), or (N, 2, 4) where the rule wants the published whole pixels: from crop units
        to image pixels, what `to_image` maps points with.
    """
    return _CUTS[rule.source](rule, image, boxes, out)


__all__ = [
    "CROP_RULES",
    "Affines",
    "check_boxes",
    "covariances_to_image",
    "crop_affines",
    "cut",
    "to_image",
    "warp_crops",
]
