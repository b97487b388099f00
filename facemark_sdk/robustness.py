"""Faces made harder: synthetic occlusion and motion blur, medium and large.

The Wasserstein paper (section 4.3) says: "a black ellipse of random size is superposed on each
image at random positions", and of blur that its direction is the movement of the nose tip between
the frames before and after; "we adopt two protocols for both perturbations: large and medium". It
gives no numbers. What it leaves open is chosen here:

- Sizes are in terms of the face, sqrt(width x height) of the tight box of its points, so that a
  face is treated alike at any resolution.
- The ellipse: both diameters drawn uniformly from `OCCLUSION_DIAMETERS`, its centre uniformly from
  the box, its direction uniformly.
- The blur: the mean of the image along a straight line of the length `BLUR_LENGTHS`, its middle at
  the pixel, so that the annotated points stay right; the direction is the movement that is given
  or, for a photo without neighbours in time, drawn uniformly.
- The numbers are such that our bundled model loses about as much on AFW as the paper's HRNet does
  in its tables 6, 8 and 9: NME 3.7 % clean, 4.4 and 5.3 % occluded (3.3, 3.6 and 4.6 % there);
  blurred, 20 and 53 % of the landmarks err by more than 0.1 (28 and 57 % there).

Random numbers come from a seed: the same image, points and seed give the same picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from facemark_sdk.errors import FacemarkError
from facemark_sdk.image import Image

Severity = Literal["medium", "large"]
Protocol = Literal["clean", "occlusion-medium", "occlusion-large", "blur-medium", "blur-large"]
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)
Seed = int | Sequence[int]

OCCLUSION_DIAMETERS: dict[Severity, tuple[float, float]] = {
    "medium": (0.1, 0.3),
    "large": (0.3, 0.5),
}
"""Least and largest diameter of the ellipse over the face's size."""

BLUR_LENGTHS: dict[Severity, float] = {"medium": 0.15, "large": 0.25}
"""Length of the movement over the face's size."""

_SHIFT = 4
"""OpenCV draws at 1/2**4 of a pixel."""
_SAMPLES_A_PIXEL = 8
"""How finely the line of a blur is laid over the kernel's cells."""


def perturb(image: Image, points: NDArray[Any], protocol: Protocol, seed: Seed) -> Image:
    """The image as a protocol wants it; ``clean`` returns the image itself.

    Args:
        image: (H, W, 3) uint8.
        points: (L, 2) the face's annotated points, pixels.
        protocol: One of `PROTOCOLS`.
        seed: A number of 0 or more, or several.

    Returns:
        (H, W, 3) uint8.

    Raises:
        FacemarkError: An unknown protocol, or points without extent.
    """
    if protocol not in PROTOCOLS:
        raise FacemarkError(f"unknown protocol {protocol!r}; known: {', '.join(PROTOCOLS)}")
    match protocol:
        case "occlusion-medium":
            return occlude(image, points, "medium", seed)
        case "occlusion-large":
            return occlude(image, points, "large", seed)
        case "blur-medium":
            return motion_blur(image, points, "medium", seed)
        case "blur-large":
            return motion_blur(image, points, "large", seed)
        case _:
            return image


def occlude(image: Image, points: NDArray[Any], severity: Severity, seed: Seed) -> Image:
    """A copy of the image with a black ellipse on the face.

    Args:
        image: (H, W, 3) uint8.
        points: (L, 2) the face's annotated points, pixels.
        severity: ``medium`` or ``large``.
        seed: A number of 0 or more, or several.

    Raises:
        FacemarkError: An unknown severity, or points without extent.
    """
    low, high, size = _extent(points)
    least, largest = OCCLUSION_DIAMETERS[_known(severity)]
    rng = np.random.default_rng(seed)
    half = rng.uniform(least, largest, 2) * size / 2
    centre = rng.uniform(low, high)
    angle = rng.uniform(0, 180)
    occluded = image.copy()
    cv2.ellipse(
        occluded,
        tuple(_fixed(centre)),
        tuple(_fixed(half)),
        angle,
        0,
        360,
        (0, 0, 0),
        cv2.FILLED,
        cv2.LINE_AA,
        _SHIFT,
    )
    return occluded


def motion_blur(
    image: Image,
    points: NDArray[Any],
    severity: Severity,
    seed: Seed,
    *,
    movement: ArrayLike | None = None,
) -> Image:
    """The image as a camera sees it that moves while the shutter is open.

    Args:
        image: (H, W, 3) uint8.
        points: (L, 2) the face's annotated points, pixels.
        severity: ``medium`` or ``large``.
        seed: A number of 0 or more, or several.
        movement: (2,) of the nose tip, from the frame before to the one after, of which the
            direction is taken; None, or no movement, draws a direction.

    Raises:
        FacemarkError: An unknown severity, points without extent, or a malformed movement.
    """
    _, _, size = _extent(points)
    length = min(BLUR_LENGTHS[_known(severity)] * size, math.hypot(*image.shape[:2]))
    step = np.zeros(2) if movement is None else np.asarray(movement, np.float64)
    if step.shape != (2,) or not np.isfinite(step).all():
        raise FacemarkError(f"movement must be two finite numbers, got {movement!r}")
    if step.any():
        angle = math.atan2(step[1], step[0])
    else:
        angle = float(np.random.default_rng(seed).uniform(0, math.pi))
    blurred = cv2.filter2D(image, -1, line_kernel(length, angle), borderType=cv2.BORDER_REPLICATE)
    return np.asarray(blurred, np.uint8)


def line_kernel(length: float, angle: float) -> NDArray[np.float32]:
    """Weights (K, K) of a line of `length` pixels through the middle, K odd, that sum to 1.

    Args:
        length: Pixels.
        angle: Radians from the x axis towards y, which points down.
    """
    reach = max(1, math.ceil(length / 2))
    along = np.linspace(-length / 2, length / 2, max(2, math.ceil(length * _SAMPLES_A_PIXEL)))
    kernel = np.zeros((2 * reach + 2, 2 * reach + 2))
    x, y = reach + along * math.cos(angle), reach + along * math.sin(angle)
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    for right, down in ((0, 0), (0, 1), (1, 0), (1, 1)):  # each sample over its four cells
        weight = np.abs(1 - right - (x - left)) * np.abs(1 - down - (y - top))
        np.add.at(kernel, (top + down, left + right), weight)
    kernel = kernel[:-1, :-1]
    return np.asarray(kernel / kernel.sum(), np.float32)


def _known(severity: Severity) -> Severity:
    if severity not in BLUR_LENGTHS:
        raise FacemarkError(
            f"unknown severity {severity!r}; known: {', '.join(map(str, BLUR_LENGTHS))}"
        )
    return severity


def _extent(points: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """The tight box's corners and the face's size."""
    points = np.asarray(points, np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise FacemarkError(f"points must be finite, of shape (L, 2), got shape {points.shape}")
    low, high = points.min(axis=0), points.max(axis=0)
    size = math.sqrt(float(np.prod(high - low)))
    if not size > 0:
        raise FacemarkError("the face's points have no extent, so nothing can be in terms of it")
    return low, high, size


def _fixed(values: NDArray[np.float64]) -> list[int]:
    return [round(float(value) * (1 << _SHIFT)) for value in values]
