"""Augmentation of face crops, in OpenCV: one affine warp, then changes of the pixels.

The list is PIPNet's (paper section 4.1.2, COMPAT 1.5: translation, occlusion, flip, rotation,
blur, greyscale), with scale and colour added, each with its own coin.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from facemark_sdk.crop import warp_crops

Image = NDArray[np.uint8]
Points = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How strongly faces are changed; lengths are fractions of the crop's side."""

    translate: float = 30 / 256
    """Largest shift along each axis, probability 0.5."""
    rotate: float = 30.0
    """Largest rotation in degrees, probability 0.5."""
    scale: float = 0.15
    """Largest relative change of size, probability 0.5."""
    flip: float = 0.5
    """Probability of mirroring."""
    occlude: float = 0.4
    """Largest side of an occluding rectangle of one colour, probability 0.5."""
    blur: float = 5.0
    """Largest sigma of a Gaussian blur in pixels, probability 0.3."""
    colour: float = 0.3
    """Largest relative change of contrast and brightness, probability 0.5."""
    grey: float = 0.2
    """Probability of greyscale."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a crop lies in its image.

    Attributes:
        square: Centre x, y and side in image pixels.
        angle: Degrees by which the square is turned about its centre.
        mirror: Whether the crop shows the mirrored face.
    """

    square: tuple[float, float, float]
    angle: float
    mirror: bool

    def matrix(self, size: int) -> NDArray[np.float64]:
        """As `crop_matrix` gives it, for a crop of that many units a side."""
        return crop_matrix(self.square, size, self.angle, self.mirror)


def square_around(points: Points, growth: float) -> tuple[float, float, float]:
    """The training crop of annotated points: a square about the middle of their bounding box.

    Args:
        points: (L, 2).
        growth: Side of the square over the longer side of the box.

    Returns:
        x and y of the centre, and the side, in pixels.
    """
    low, high = points.min(axis=0), points.max(axis=0)
    centre = (low + high) / 2
    return float(centre[0]), float(centre[1]), float((high - low).max()) * growth


def crop_matrix(
    square: tuple[float, float, float], size: int, angle: float = 0.0, mirror: bool = False
) -> NDArray[np.float64]:
    """(2, 3) affine from the crop (0..size) to the image; its inverse moves points into the crop.

    Args:
        square: Centre x, y and side in image pixels.
        size: Side of the crop in its own pixels.
        angle: Degrees by which the square is turned about its centre.
        mirror: Whether the crop shows the mirrored face.
    """
    x, y, side = square
    turn = np.deg2rad(angle)
    along = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    linear = along @ np.diag([-1.0 if mirror else 1.0, 1.0]) * (side / size)
    offset = np.array([x, y]) - linear @ np.array([size / 2, size / 2])
    return np.concatenate((linear, offset[:, None]), axis=1)


def into_crop(points: Points, matrix: NDArray[np.float64]) -> Points:
    """Image points (L, 2) in the coordinates of the crop that `matrix` maps to the image."""
    inverse = cv2.invertAffineTransform(matrix)
    return (points @ inverse[:, :2].T + inverse[:, 2]).astype(np.float32)


def cut(image: Image, matrix: NDArray[np.float64], size: int) -> Image:
    """The crop (size, size, 3), sampled as at run time."""
    return warp_crops(image, matrix[None], size)[0]


def augmented_crop(
    image: Image,
    points: Points,
    flip_index: NDArray[np.intp],
    square: tuple[float, float, float],
    size: int,
    how: Augmentation,
    rng: np.random.Generator,
) -> tuple[Image, Points]:
    """A randomly changed crop and its points.

    Args:
        image: (H, W, 3) uint8 BGR.
        points: (L, 2) in image pixels.
        flip_index: The layout's permutation for mirrored faces.
        square: The undisturbed crop: centre x, y, side.
        size: Side of the crop in pixels.
        how: Strengths.
        rng: Source of chance; all of it.

    Returns:
        The crop (size, size, 3) uint8 and the points (L, 2) in crop pixels.
    """
    placement = drawn_placement(square, how, rng)
    matrix = placement.matrix(size)
    crop, placed = cut(image, matrix, size), into_crop(points, matrix)
    if placement.mirror:
        placed = placed[flip_index]
    return change_pixels(crop, how, rng), placed


def drawn_placement(
    square: tuple[float, float, float], how: Augmentation, rng: np.random.Generator
) -> Placement:
    """Where a randomly changed crop lies; drawn before what `change_pixels` draws.

    Args:
        square: The undisturbed crop: centre x, y, side.
        how: Strengths.
        rng: Source of chance.
    """
    x, y, side = square
    if rng.random() < 0.5:
        dx, dy = rng.uniform(-how.translate, how.translate, 2) * side
        x, y = x + dx, y + dy
    if rng.random() < 0.5:
        side *= 1 + rng.uniform(-how.scale, how.scale)
    angle = rng.uniform(-how.rotate, how.rotate) if rng.random() < 0.5 else 0.0
    return Placement((x, y, side), angle, rng.random() < how.flip)


def change_pixels(crop: Image, how: Augmentation, rng: np.random.Generator) -> Image:
    """A crop (S, S, 3) uint8 with other colours, blurred, grey, occluded: each by chance."""
    size = crop.shape[0]
    if rng.random() < 0.5:
        contrast = 1 + rng.uniform(-how.colour, how.colour)
        shift = 128 * (1 - contrast) + 128 * rng.uniform(-how.colour, how.colour)
        tint = rng.uniform(-0.1, 0.1, 3) * how.colour / 0.3 + 1
        table = np.arange(256)[:, None] * (contrast * tint) + shift
        crop = cv2.LUT(crop, np.clip(table, 0, 255).astype(np.uint8)[:, None])  # type: ignore[assignment]
    if rng.random() < 0.3:
        sigma = rng.uniform(0, how.blur)
        if sigma > 0.3:
            crop = cv2.GaussianBlur(crop, (0, 0), sigma)  # type: ignore[assignment]
    if rng.random() < how.grey:
        grey = cv2.cvtColor(crop, cv2.COLOR_BGR2GRAY)
        crop = cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR)  # type: ignore[assignment]
    if rng.random() < 0.5:
        width, height = (rng.uniform(0, how.occlude, 2) * size).astype(int)
        left, top = rng.integers(0, size - width), rng.integers(0, size - height)
        crop = crop.copy()
        crop[top : top + height, left : left + width] = rng.integers(0, 256, 3)
    return crop
