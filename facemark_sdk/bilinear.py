"""Bilinear resizing, for our own crops and canvases; published ones have their sources' ways."""

from __future__ import annotations

import cv2
import numpy as np

from facemark_sdk.image import Image

SMALL = 1 << 16
"""Pixels of a result up to which IPP is worth it: from 98,304 on OpenCV's own kernel takes several
threads, and 512 x 512 pixels the same time."""


def resize(image: Image, width: int, height: int, out: Image | None = None) -> Image:
    """Resize by bilinear sampling, pixel u of the result showing (u + 0.5) * a - 0.5 of the image.

    OpenCV's own kernel rounds twice, by 0.9 grey values at most. Intel's IPP, which its wheels for
    x86 have, rounds once and takes half the time: 36 us instead of 67 from 125 to 256 px. OpenCV
    leaves it out unless told that it may differ, here by one grey value. It takes one thread while
    image and result fit the second-level cache twice.

    Args:
        image: (H, W, 3) uint8.
        width: Of the result, in pixels.
        height: Likewise.
        out: (height, width, 3) uint8 to write to.
    """
    before = cv2.ipp.useIPP_NotExact()  # each thread has its own
    cv2.ipp.setUseIPP_NotExact(width * height <= SMALL)
    try:
        resized = cv2.resize(image, (width, height), dst=out, interpolation=cv2.INTER_LINEAR)
    finally:
        cv2.ipp.setUseIPP_NotExact(before)
    return np.asarray(resized, np.uint8)
