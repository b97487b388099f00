"""What a file seems to be that is no checkpoint, for the message that refuses it."""

from __future__ import annotations

from pathlib import Path

_EXPECTED = "expected a file that torch.save wrote, or safetensors"
_LFS = b"version https://git-lfs"
_TAR_MARK, _TAR_AT = b"ustar", 257
_MAGICS = {
    b"\x1f\x8b": "a gzip archive; unpack it",
    b"7z\xbc\xaf": "a 7z archive; unpack it",
    b"Rar!": "a RAR archive; unpack it",
    b"\x89HDF": "an HDF5 file, such as Keras writes",
    b"\x93NUMPY": "a NumPy array",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
}
_ONNX_VERSIONS = range(1, 32)
_LENGTH_DELIMITED, _WIRE_TYPE = 2, 0b111


def no_file(path: Path) -> str:
    """Why there is no file to read at `path`."""
    if path.is_dir():
        return f"a folder; {_EXPECTED}"
    return f"not a regular file; {_EXPECTED}" if path.exists() else f"no such file; {_EXPECTED}"


def description(head: bytes) -> str:
    """What a file that starts with `head` seems to be, and what was expected."""
    return f"{_seems(head)}; {_EXPECTED}"


def _seems(head: bytes) -> str:
    if not head:
        return "an empty file"
    if head.startswith(_LFS):
        return "a git-lfs pointer, not the file that it stands for; run git lfs pull"
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return "an HTML page, perhaps one that says why the download failed"
    if head[_TAR_AT:].startswith(_TAR_MARK):
        return "a tar archive; unpack it"
    for magic, kind in _MAGICS.items():
        if head.startswith(magic):
            return kind
    if _is_onnx(head):
        return "an ONNX model, it seems"
    return "a text file" if _is_text(head) else "no format that is known here"


def _is_onnx(head: bytes) -> bool:
    """Protobuf whose field 1 is a small version and whose next field is a string or message."""
    return (
        head[0] == 0x08
        and len(head) > 2
        and head[1] in _ONNX_VERSIONS
        and head[2] & _WIRE_TYPE == _LENGTH_DELIMITED
    )


def _is_text(head: bytes) -> bool:
    text = head.decode("utf-8", errors="ignore")  # the last character may be cut
    return len(text.encode()) > len(head) - 4 and all(c.isprintable() or c.isspace() for c in text)
