"""Is an image file whole? OpenCV 4 fills what is missing of a JPEG with grey and goes on."""

from __future__ import annotations

import re
import struct

import numpy as np
from numpy.typing import NDArray

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
_EOI = 0xD9
# A marker: not a stuffed zero, a fill byte, TEM, a restart (D0..D7) or a nested start (D8).
_MARKER = re.compile(rb"\xff([^\x00\x01\xff\xd0-\xd8])")


def is_complete(data: NDArray[np.uint8]) -> bool:
    """Whether a JPEG or PNG file reaches its end marker; True for every other format.

    Bytes after the end marker are legal: phones append thumbnails and short films there.

    Args:
        data: (N,) uint8, the file's content.
    """
    content = data.tobytes()
    if content.startswith(_JPEG):
        return _jpeg_ends(content)
    if content.startswith(_PNG):
        return _png_ends(content)
    return True


def _jpeg_ends(content: bytes) -> bool:
    # Segments state their length and are jumped over, as thumbnails inside them have end markers
    # of their own; coded data after a scan's header is searched for the next marker.
    position = len(_JPEG)
    while marker := _MARKER.search(content, position):
        if marker[1][0] == _EOI:
            return True
        length = content[marker.end() : marker.end() + 2]
        if len(length) < 2:
            return False
        position = marker.end() + max(2, int.from_bytes(length, "big"))
    return False


def _png_ends(content: bytes) -> bool:
    position: int = len(_PNG)
    while position + 12 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, position)
        position += 12 + length
        if kind == b"IEND":
            return bool(position <= len(content))
    return False
