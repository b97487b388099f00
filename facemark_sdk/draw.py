"""Draw faces on a picture: boxes, the layout's edges, points; sub-pixel and antialiased."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from facemark_sdk.image import Image, ImageLike, load_image
from facemark_sdk.result import Face

# BGR
BOX_COLOUR = (80, 200, 80)
EDGE_COLOUR = (230, 170, 60)
POINT_COLOUR = (255, 255, 255)
RIM_COLOUR = (60, 60, 60)
KPS_COLOUR = (60, 60, 240)

_SHIFT = 4
"""OpenCV draws at 1/2**4 of a pixel."""
_FAR = 1 << 20
"""Coordinates further away than this are drawn at this distance, as OpenCV counts in int32."""


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Line widths and radii in pixels, in proportion to the face and to the picture."""

    box: int
    edge: int
    point: float

    @classmethod
    def of(cls, face: Face, image: Image) -> _Sizes:
        side = float(np.sqrt(np.prod(np.maximum(face.bbox[2:] - face.bbox[:2], 1))))
        picture = max(image.shape[:2])
        return cls(
            box=max(1, round(min(picture / 400, side / 40))),
            edge=max(1, round(min(picture / 300, side / 220))),
            point=max(0.8, min(picture / 180, side / 130)),
        )


def draw(
    image: ImageLike,
    faces: Iterable[Face],
    *,
    boxes: bool = True,
    edges: bool = True,
    points: bool = True,
    kps: bool = False,
) -> Image:
    """A copy of the image with the faces drawn on it.

    Args:
        image: Path, array or Pillow image, as for `load_image`.
        faces: What a `Detector` returned for this image.
        boxes: Draw the detector's boxes.
        edges: Draw the lines between landmarks that the layout names.
        points: Draw the landmarks.
        kps: Draw the detector's five points.

    Returns:
        (H, W, 3) uint8, BGR.

    Raises:
        ImageError: The image cannot be used.
    """
    canvas = load_image(image).copy()
    for face in faces:
        sizes = _Sizes.of(face, canvas)
        if boxes:
            low, high = _fixed(face.bbox.reshape(2, 2))
            cv2.rectangle(canvas, low, high, BOX_COLOUR, sizes.box, cv2.LINE_AA, _SHIFT)
        if edges:
            for a, b in face.layout.edges:
                start, end = _fixed(face.landmarks[[a, b]])
                cv2.line(canvas, start, end, EDGE_COLOUR, sizes.edge, cv2.LINE_AA, _SHIFT)
        if points:
            _dots(canvas, face.landmarks, sizes.point, POINT_COLOUR)
        if kps:
            _dots(canvas, face.kps, sizes.point * 1.5, KPS_COLOUR)
    return canvas


def _dots(canvas: Image, points: NDArray[Any], radius: float, colour: tuple[int, int, int]) -> None:
    rim = radius + max(0.5, radius * 0.3)
    for centre in _fixed(points):
        for size, shade in ((rim, RIM_COLOUR), (radius, colour)):
            fixed = round(size * (1 << _SHIFT))
            cv2.circle(canvas, centre, fixed, shade, cv2.FILLED, cv2.LINE_AA, _SHIFT)


def _fixed(points: NDArray[Any]) -> list[tuple[int, int]]:
    """Points (K, 2) as OpenCV's fixed-point integers."""
    near = np.nan_to_num(points, nan=-_FAR, posinf=_FAR, neginf=-_FAR).clip(-_FAR, _FAR)
    return [(int(x), int(y)) for x, y in np.rint(near * (1 << _SHIFT))]
