"""What happens to a photo's pixels but not to its geometry: light, colour, blur, noise,
compression.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

GREY_PROBABILITY = 0.2
BLUR_PROBABILITY = 0.08
NOISE_PROBABILITY = 0.08
JPEG_PROBABILITY = 0.08
LUMA = np.array([0.114, 0.587, 0.299])
"""Weights of blue, green and red in the brightness (ITU-R BT.601)."""


def jitter_colour(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Change contrast, brightness, saturation and hue by one matrix, or leave only the grey."""
    grey = rng.random() < GREY_PROBABILITY
    saturation = 0.0 if grey else rng.uniform(0.5, 1.6)
    turn = np.deg2rad(rng.uniform(-18, 18))
    contrast = rng.uniform(0.55, 1.45)
    matrix = contrast * hue_rotation(turn) @ saturation_matrix(saturation)
    offset = 128 * (1 - contrast) + rng.uniform(-40, 40)
    return cv2.transform(image, np.column_stack([matrix, np.full(3, offset)]))


def saturation_matrix(saturation: float) -> NDArray[np.float64]:
    """(3, 3), BGR to BGR: 0 leaves the brightness in all channels, 1 everything as it was."""
    return saturation * np.eye(3) + (1 - saturation) * np.tile(LUMA, (3, 1))


def hue_rotation(angle: float) -> NDArray[np.float64]:
    """(3, 3), BGR to BGR: turn colours about the grey axis by an angle in radians (Rodrigues'
    formula).
    """
    axis = 1 / np.sqrt(3)
    cross = axis * np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]])
    return (
        np.cos(angle) * np.eye(3)
        + np.sin(angle) * cross
        + (1 - np.cos(angle)) / 3 * np.ones((3, 3))
    )


def degrade(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Sometimes blur, add noise, or compress."""
    if rng.random() < BLUR_PROBABILITY:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.5, 1.8))
    if rng.random() < NOISE_PROBABILITY:
        noise = rng.standard_normal(image.shape, np.float32) * rng.uniform(3, 14)
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
    if rng.random() < JPEG_PROBABILITY:
        packed = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 80))])[
            1
        ]
        image = cv2.imdecode(packed, cv2.IMREAD_COLOR)
    return image
