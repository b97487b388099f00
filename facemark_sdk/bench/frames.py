"""What is looked at: photos of the caller, or the frame that ships."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from facemark_sdk.files import sha256_of
from facemark_sdk.image import Image, load_image

BUNDLED_FRAME = Path(__file__).with_name("frame.jpg")
"""640 x 480 pixels with one face: the upper part of NASA's portrait of Eileen Collins (NASA Great
Images, GRIN GPN-2000-001177, public domain), as JPEG of quality 90."""


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """A photo: its file, which the first stage reads, and its pixels (H, W, 3) uint8 BGR.

    `sha256` is the file's: the same wherever it lies, and whichever OpenCV decodes it.
    """

    path: Path
    pixels: Image
    sha256: str

    @property
    def name(self) -> str:
        """For people: the file, or that it is the bundled one, and its size."""
        height, width = self.pixels.shape[:2]
        said = "the bundled frame" if self.path == BUNDLED_FRAME else str(self.path)
        return f"{said} ({width}x{height})"


def open_frames(paths: Sequence[Path]) -> list[Frame]:
    """Read the photos once; none given is the bundled frame.

    Raises:
        ImageError: A file is no image.
    """
    return [Frame(path, load_image(path), sha256_of(path)) for path in paths or [BUNDLED_FRAME]]
