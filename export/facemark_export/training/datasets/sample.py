"""One annotated face as its data set gives it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facemark_sdk.image import Image, load_image
from facemark_sdk.layouts import layouts_with


@dataclass(frozen=True, slots=True)
class Sample:
    """One face of a data set; numbers are those of its files, in pixels of the image.

    Attributes:
        image: The image file, or (H, W) or (H, W, 3) uint8 BGR where images lie inside a file.
        name: A relative path of its own for the image; faces of one image share it.
        points: (L, 2) float64, None where the set has none (faces for self-training).
        layout: The points' layout, None without points.
        photo: Photo or video that the image comes from; training and validation share none.
        box: (4,) float64 xyxy, None where the set gives none.
        subsets: The set's parts for evaluation that the face is in, such as ``largepose``.
        visible: (L,) bool, None where the set does not say.
        norm: What the set divides this face's errors by, in pixels, where its files say so.
    """

    image: Path | NDArray[np.uint8]
    name: str
    points: NDArray[np.float64] | None
    layout: str | None
    photo: str
    box: NDArray[np.float64] | None = None
    subsets: tuple[str, ...] = ()
    visible: NDArray[np.bool_] | None = None
    norm: float | None = None

    def pixels(self) -> Image:
        """The image, (H, W, 3) uint8 BGR.

        Raises:
            ImageError: The file is missing or is no image.
        """
        return load_image(self.image)


def layout_of(count: int) -> str:
    """The described layout of so many points, else the anonymous one."""
    return next(iter(layouts_with(count)), f"points{count}")
