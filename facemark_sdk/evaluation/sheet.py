"""A sheet of faces, truth and prediction drawn on each and its error written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from facemark_sdk.errors import FacemarkError
from facemark_sdk.image import Image

# BGR
TRUTH_COLOUR = (80, 220, 80)
POINT_COLOUR = (60, 60, 255)
ERROR_COLOUR = (0, 200, 255)
TEXT_COLOUR = (255, 255, 255)

SIDE, COLUMNS, BAND = 256, 5, 36
_MARGIN = 0.2
"""Around the points, on each side, over the longer side of their box."""
_SHIFT = 4
"""OpenCV draws at 1/2**4 of a pixel."""
_DOT = 28
"""A point's radius in these."""


@dataclass(frozen=True, slots=True, eq=False)
class Tile:
    """One face of a sheet.

    Attributes:
        image: (H, W, 3) uint8, the photo.
        truth: (L, 2) annotated points.
        points: (L, 2) predicted ones; None draws none.
        lines: Up to two lines of text below.
    """

    image: Image
    truth: NDArray[np.float32]
    points: NDArray[np.float32] | None
    lines: Sequence[str]


def draw_sheet(tiles: Iterable[Tile]) -> Image:
    """Tiles in rows of `COLUMNS`: truth green, prediction red, a yellow line between the two.

    Returns:
        (H, W, 3) uint8, BGR.

    Raises:
        FacemarkError: There is no tile.
    """
    drawn = [draw_tile(tile) for tile in tiles]
    if not drawn:
        raise FacemarkError("there are no faces to draw")
    drawn += [np.zeros_like(drawn[0])] * (-len(drawn) % min(COLUMNS, len(drawn)))
    columns = min(COLUMNS, len(drawn))
    rows = [np.hstack(drawn[i : i + columns]) for i in range(0, len(drawn), columns)]
    return np.asarray(np.vstack([*rows, _legend(rows[0].shape[1])]), np.uint8)


def draw_tile(tile: Tile) -> Image:
    """One face with its points, (SIDE + BAND, SIDE, 3) uint8."""
    shown = tile.truth if tile.points is None else np.concatenate((tile.truth, tile.points))
    corner, side = _square(shown)
    scale = SIDE / side
    canvas = np.zeros((SIDE + BAND, SIDE, 3), np.uint8)
    canvas[:SIDE] = _cut(tile.image, corner, side)
    # A pixel's centre has whole coordinates, in the photo as on the tile.
    truth = (tile.truth - corner + 0.5) * scale - 0.5
    points = truth if tile.points is None else (tile.points - corner + 0.5) * scale - 0.5
    for start, end in zip(_fixed(truth), _fixed(points), strict=True):
        cv2.line(canvas, start, end, ERROR_COLOUR, 1, cv2.LINE_AA, _SHIFT)
    _dots(canvas, truth, TRUTH_COLOUR)
    if tile.points is not None:
        _dots(canvas, points, POINT_COLOUR)
    canvas[SIDE:] = 0
    for i, line in enumerate(tile.lines):
        _write(canvas, line, SIDE + 14 + 16 * i)
    return canvas


def _square(points: NDArray[np.float32]) -> tuple[NDArray[np.int64], int]:
    """The square around points, with a margin: its top left pixel and its side."""
    low, high = points.min(axis=0), points.max(axis=0)
    side = max(16, round(float((high - low).max()) * (1 + 2 * _MARGIN)))
    return np.rint((low + high - side) / 2).astype(np.int64), side


def _cut(image: Image, corner: NDArray[np.int64], side: int) -> Image:
    """A square of an image, black beyond its border, resized to SIDE."""
    height, width = image.shape[:2]
    x, y = (int(v) for v in corner)
    left, top, right, bottom = max(x, 0), max(y, 0), min(x + side, width), min(y + side, height)
    scale = SIDE / side
    tile = np.zeros((SIDE, SIDE, 3), np.uint8)
    if right <= left or bottom <= top:
        return tile
    # Only what is there is resized: points far outside must not make a canvas of their size.
    x1, x2 = (min(SIDE, round((v - x) * scale)) for v in (left, right))
    y1, y2 = (min(SIDE, round((v - y) * scale)) for v in (top, bottom))
    if x2 > x1 and y2 > y1:
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        part = image[top:bottom, left:right]
        tile[y1:y2, x1:x2] = cv2.resize(part, (x2 - x1, y2 - y1), interpolation=method)
    return tile


def _dots(canvas: Image, points: NDArray[np.float32], colour: tuple[int, int, int]) -> None:
    for centre in _fixed(points):
        cv2.circle(canvas, centre, _DOT, colour, cv2.FILLED, cv2.LINE_AA, _SHIFT)


def _fixed(points: NDArray[np.float32]) -> list[tuple[int, int]]:
    return [(int(x), int(y)) for x, y in np.rint(points * (1 << _SHIFT))]


def _write(canvas: Image, text: str, y: int, x: int = 4) -> None:
    """White text in a font that has no more than ASCII."""
    plain = text.encode("ascii", "replace").decode()
    font = cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(canvas, plain, (x, y), font, 0.4, TEXT_COLOUR, 1, cv2.LINE_AA)


def _legend(width: int) -> Image:
    """A line that says what the colours are."""
    band = np.zeros((24, width, 3), np.uint8)
    _dots(band, np.array([[10, 12]], np.float32), TRUTH_COLOUR)
    _write(band, "truth", 16, 18)
    _dots(band, np.array([[70, 12]], np.float32), POINT_COLOUR)
    _write(band, "prediction", 16, 78)
    return band
