"""Images in: whatever a caller holds becomes BGR uint8, or an `ImageError` that says why not."""

from __future__ import annotations

import os
from typing import Any, Protocol, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from facemark_sdk.errors import ImageError
from facemark_sdk.image_file import is_complete

MIN_SIDE = 8
"""The least width and height in pixels: under it there is nothing that a network could see."""

Image: TypeAlias = NDArray[np.uint8]


class PILImage(Protocol):
    """What is used of a Pillow image, so that Pillow need not be installed."""

    @property
    def mode(self) -> str:
        """Kind of pixels, such as ``RGB``."""

    def convert(self, mode: str) -> Any:
        """The same image with another kind of pixels."""


ImageLike: TypeAlias = "str | os.PathLike[str] | NDArray[Any] | PILImage"
"""A path, a uint8 array (grey (H, W[, 1]), BGR (H, W, 3) or BGRA (H, W, 4)), a Pillow image."""


def load_image(image: ImageLike) -> Image:
    """Read or convert an image.

    Files are turned upright by their EXIF orientation; alpha is dropped. A Pillow image is taken
    as it is (`PIL.ImageOps.exif_transpose` turns it). An array that is right already is returned
    itself, not copied.

    Returns:
        (H, W, 3) uint8, BGR, contiguous, both sides at least `MIN_SIDE`.

    Raises:
        ImageError: The image cannot be used; the message says what was given and what to do.
    """
    if isinstance(image, (str, os.PathLike)):
        pixels = _read_file(os.fspath(image))
    elif isinstance(image, np.ndarray):
        pixels = _from_array(image)
    elif hasattr(image, "convert") and hasattr(image, "mode"):
        pixels = _from_pil(image)
    else:
        raise ImageError(
            f"image must be a path, a uint8 array or a Pillow image, got {_kind(image)}"
        )
    height, width = pixels.shape[:2]
    if min(height, width) < MIN_SIDE:
        raise ImageError(
            f"image is {width}x{height} pixels; each side must be at least {MIN_SIDE} pixels"
        )
    return pixels


def _kind(value: object) -> str:
    return "None" if value is None else type(value).__name__


def _read_file(path: str | bytes) -> Image:
    name = os.fsdecode(path)
    if not name:
        raise ImageError("image path is empty; pass the path of an image file")
    if os.path.isdir(name):
        raise ImageError(f"image {name!r} is a folder; pass the path of one image file")
    try:
        data = np.fromfile(name, np.uint8)  # cv2.imread cannot open every Unicode path on Windows
    except FileNotFoundError:
        raise ImageError(f"image {name!r} does not exist; check the path") from None
    except (OSError, ValueError) as error:
        raise ImageError(f"image {name!r} cannot be read: {error}") from None
    if not data.size:
        raise ImageError(f"image {name!r} is an empty file")
    if not is_complete(data):
        raise ImageError(f"image {name!r} is truncated: its data ends early; copy the file again")
    try:
        pixels = cv2.imdecode(data, cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise ImageError(f"image {name!r} cannot be decoded: {error.err or error}") from None
    if pixels is None:
        raise ImageError(
            f"image {name!r} is not an image, is damaged, or has a format that OpenCV cannot read; "
            "convert it to JPEG or PNG"
        )
    return _as_bgr(pixels)


def _from_array(array: NDArray[Any]) -> Image:
    if not array.size:
        raise ImageError(f"image is an empty array of shape {array.shape}; was it read at all?")
    if array.dtype != np.uint8:
        raise ImageError(_wrong_dtype(array))
    if array.ndim not in (2, 3):
        raise ImageError(
            f"image must have shape (H, W) or (H, W, C), got {array.shape}; "
            "pass several images one by one or as a list to detect_batch"
        )
    if array.ndim == 3 and array.shape[2] not in (1, 3, 4):
        hint = "; transpose it from (C, H, W)" if array.shape[0] in (1, 3, 4) else ""
        raise ImageError(
            f"image must have 1, 3 (BGR) or 4 (BGRA) channels, got shape {array.shape}{hint}"
        )
    return _as_bgr(np.ascontiguousarray(array))


def _wrong_dtype(array: NDArray[Any]) -> str:
    wanted = f"image must be uint8 with values 0..255, got {array.dtype}"
    if np.issubdtype(array.dtype, np.floating):
        if np.isnan(array).any():
            return f"{wanted} with NaN values; replace them, then convert to uint8"
        if array.max() <= 1:
            return f"{wanted} with values up to {array.max():g}; use (image * 255).astype('uint8')"
        return f"{wanted}; use image.clip(0, 255).astype('uint8')"
    if array.dtype == np.uint16:
        return f"{wanted}; use (image // 257).astype('uint8')"
    return f"{wanted}; scale it to 0..255 and use image.astype('uint8')"


def _as_bgr(array: NDArray[Any]) -> Image:
    channels = 1 if array.ndim == 2 else array.shape[2]
    if channels == 1:
        return np.asarray(cv2.cvtColor(array, cv2.COLOR_GRAY2BGR), np.uint8)
    if channels == 4:
        return np.asarray(cv2.cvtColor(array, cv2.COLOR_BGRA2BGR), np.uint8)
    return array


def _from_pil(image: PILImage) -> Image:
    if image.mode.startswith(("I", "F")):  # Pillow cuts these at 255 instead of scaling them
        raise ImageError(
            f"image is a Pillow image of mode {image.mode!r} (more than 8 bits); "
            "scale it to 0..255 and convert it to mode 'RGB' or 'L'"
        )
    try:
        rgb = np.asarray(image.convert("RGB"), np.uint8)
    except (OSError, ValueError, SyntaxError) as error:
        raise ImageError(f"image is a Pillow image that cannot be decoded: {error}") from None
    return np.ascontiguousarray(rgb[..., ::-1])
