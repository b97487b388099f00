from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from facemark_sdk import ImageError, load_image
from facemark_sdk.image import MIN_SIDE
from facemark_sdk.image_file import is_complete

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (20, 30, 3), np.uint8)


def encoded(extension: str, picture: np.ndarray, *parameters: int) -> bytes:
    return cv2.imencode(extension, picture, list(parameters))[1].tobytes()


def test_array_that_is_right_is_returned_itself() -> None:
    assert load_image(COLOUR) is COLOUR


def test_view_becomes_contiguous() -> None:
    mirrored = load_image(COLOUR[:, ::-1])
    assert mirrored.flags.c_contiguous
    assert np.array_equal(mirrored, COLOUR[:, ::-1])


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 1)])
def test_grey_has_three_equal_channels(shape: tuple[int, ...]) -> None:
    grey = RNG.integers(0, 256, shape, np.uint8)
    image = load_image(grey)
    assert image.shape == (20, 30, 3)
    assert (image == grey.reshape(20, 30, 1)).all()


def test_alpha_is_dropped() -> None:
    bgra = np.dstack([COLOUR, np.zeros((20, 30), np.uint8)])
    assert np.array_equal(load_image(bgra), COLOUR)


@pytest.mark.parametrize("as_text", [True, False])
def test_path_with_unicode(tmp_path: Path, as_text: bool) -> None:
    path = tmp_path / "grüße 顔.png"
    path.write_bytes(encoded(".png", COLOUR))
    assert np.array_equal(load_image(str(path) if as_text else path), COLOUR)


def test_files_of_grey_alpha_and_16_bits(tmp_path: Path) -> None:
    for name, picture in {
        "grey": COLOUR[..., 0],
        "alpha": np.dstack([COLOUR, COLOUR[..., :1]]),
        "deep": COLOUR.astype(np.uint16) * 257,
    }.items():
        path = tmp_path / f"{name}.png"
        path.write_bytes(encoded(".png", picture))
        image = load_image(path)
        assert image.shape == (20, 30, 3)
        assert image.dtype == np.uint8


def test_exif_orientation_turns_the_picture(tmp_path: Path) -> None:
    pil = pytest.importorskip("PIL.Image")
    picture = pil.fromarray(COLOUR)
    exif = picture.getexif()
    exif[0x0112] = 6  # turn by 90 degrees
    path = tmp_path / "turned.jpg"
    picture.save(path, exif=exif)
    assert load_image(path).shape == (30, 20, 3)


def test_pillow_image_becomes_bgr() -> None:
    pil = pytest.importorskip("PIL.Image")
    assert np.array_equal(load_image(pil.fromarray(COLOUR[..., ::-1])), COLOUR)
    assert load_image(pil.fromarray(COLOUR[..., 0])).shape == (20, 30, 3)
    with pytest.raises(ImageError, match="mode 'F'"):
        load_image(pil.fromarray(COLOUR[..., 0].astype(np.float32)))


def test_truncated_pillow_image(tmp_path: Path) -> None:
    pil = pytest.importorskip("PIL.Image")
    path = tmp_path / "cut.jpg"
    content = encoded(".jpg", RNG.integers(0, 256, (200, 200, 3), np.uint8))
    path.write_bytes(content[: len(content) // 2])
    with pil.open(path) as lazy, pytest.raises(ImageError, match="cannot be decoded"):
        load_image(lazy)


NAN = np.full((20, 30, 3), np.nan, np.float32)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (None, "got None"),
        ([1, 2], "got list"),
        (b"photo.jpg", "got bytes"),
        ("", "path is empty"),
        (np.zeros((0, 30, 3), np.uint8), "empty array"),
        (np.ones((20, 30, 3), np.float32), r"got float32.*\(image \* 255\)"),
        (np.full((20, 30, 3), 200.0), r"got float64.*clip\(0, 255\)"),
        (NAN, "NaN"),
        (np.zeros((20, 30, 3), np.uint16), "got uint16.*257"),
        (np.zeros((20, 30, 3), bool), "got bool"),
        (np.zeros((20, 30, 3), object), "got object"),
        (np.zeros((20, 30, 2), np.uint8), "channels"),
        (np.zeros((20, 30, 5), np.uint8), "channels"),
        (np.zeros((3, 20, 30), np.uint8), "transpose"),
        (np.zeros(20, np.uint8), "shape"),
        (np.zeros((2, 20, 30, 3), np.uint8), "detect_batch"),
        (np.zeros((1, 1, 3), np.uint8), f"1x1 pixels.*at least {MIN_SIDE}"),
        (np.zeros((3, 20000, 3), np.uint8), "20000x3 pixels"),
        (np.zeros((20000, 3, 3), np.uint8), "3x20000 pixels"),
        ("no/such/file.jpg", "does not exist"),
        ("zero\0byte.jpg", "cannot be read"),
    ],
)
def test_bad_input_says_what_is_wrong(bad: object, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        load_image(bad)  # type: ignore[arg-type]


def test_bad_files(tmp_path: Path) -> None:
    empty, text = tmp_path / "empty.jpg", tmp_path / "text.jpg"
    empty.touch()
    text.write_text("not an image " * 100)
    with pytest.raises(ImageError, match="empty file"):
        load_image(empty)
    with pytest.raises(ImageError, match="not an image"):
        load_image(text)
    with pytest.raises(ImageError, match="folder"):
        load_image(tmp_path)


@pytest.mark.parametrize("extension", [".jpg", ".png"])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.999])
def test_truncated_file(jpeg: Path, photo: Path, extension: str, share: float) -> None:
    content = {".jpg": jpeg, ".png": photo}[extension].read_bytes()
    jpeg.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ImageError, match="truncated"):
        load_image(jpeg)


def test_bytes_after_the_end_are_legal(jpeg: Path, photo: Path) -> None:
    for content in (jpeg.read_bytes(), photo.read_bytes()):
        jpeg.write_bytes(content + b"\xff\xd8 a film follows")
        assert load_image(jpeg).shape == (512, 512, 3)


def test_thumbnail_does_not_hide_truncation(jpeg: Path) -> None:
    content = jpeg.read_bytes()
    thumbnail = encoded(".jpg", COLOUR)
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    whole = content[:2] + segment + content[2:]
    assert is_complete(np.frombuffer(whole, np.uint8))
    assert not is_complete(np.frombuffer(whole[:-2], np.uint8))


@pytest.mark.parametrize(
    "parameters",
    [
        (cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
        (cv2.IMWRITE_JPEG_RST_INTERVAL, 2),
        (cv2.IMWRITE_JPEG_QUALITY, 100),
    ],
)
def test_kinds_of_jpeg_are_complete(parameters: tuple[int, ...]) -> None:
    picture = RNG.integers(0, 256, (100, 140, 3), np.uint8)
    content = np.frombuffer(encoded(".jpg", picture, *parameters), np.uint8)
    assert is_complete(content)
    assert not is_complete(content[:-1])
