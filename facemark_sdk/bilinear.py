"""Bilinear resizing of what the networks see."""

from __future__ import annotations

import cv2
import numpy as np

from facemark_sdk.image import Image

ALONE = 1 << 16
"""Pixels of a result up to which OpenCV resizes on one thread."""


def resize(image: Image, width: int, height: int, out: Image | None = None) -> Image:
    """Resize by bilinear sampling, pixel u of the result showing (u + 0.5) * a - 0.5 of the image.

    OpenCV's own kernel rounds twice. Intel's IPP, which its x86 builds have, rounds once and takes
    half the time on one thread: 36 us instead of 67 from 125 to 256 px. OpenCV leaves it out unless
    told that it may differ, here by one grey value. On other processors, and for results so large
    that OpenCV resizes them by several threads, the kernel is its own.

    Args:
        image: (H, W, 3) uint8.
        width: Of the result, in pixels.
        height: Likewise.
        out: (height, width, 3) uint8 to write to.
    """
    before = cv2.ipp.useIPP_NotExact()  # each thread has its own
    cv2.ipp.setUseIPP_NotExact(width * height <= ALONE)
    try:
        resized = cv2.resize(image, (width, height), dst=out, interpolation=cv2.INTER_LINEAR)
    finally:
        cv2.ipp.setUseIPP_NotExact(before)
    return np.asarray(resized, np.uint8)
