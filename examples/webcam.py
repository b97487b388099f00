"""Landmarks on a camera or a video file, with the frames per second.

    python examples/webcam.py --camera 0
    python examples/webcam.py --camera clip.mp4 --no-window --save out.mp4

q or Esc quits. A window needs OpenCV with a GUI: pip install "facemark-sdk[gui]".
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator

os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")  # one line of ours instead of many of OpenCV's
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

import cv2
import numpy as np

from facemark_sdk import Detector, FacemarkError, draw

TITLE = "facemark"
QUIT_KEYS = (ord("q"), 27)
SMOOTHING = 0.9
"""Share of the old value in the displayed frames per second."""


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--camera", default="0", help="camera number or video file (default: 0)")
    parser.add_argument("--model", help="landmark model: bundled name or ONNX file")
    parser.add_argument("--detector", help="face detector: bundled name or ONNX file")
    parser.add_argument("--backend", default="auto", help="auto, cpu, cuda (default: auto)")
    parser.add_argument("--threads", type=int, help="CPU threads of each network")
    parser.add_argument("--max-faces", type=int, help="only the largest faces")
    parser.add_argument("--frames", type=int, help="stop after this many frames")
    parser.add_argument("--save", metavar="OUT.mp4", help="also write a video")
    parser.add_argument("--no-window", action="store_true", help="show nothing")
    return parser.parse_args()


def open_window() -> None:
    """Open the window, or raise an error that says what is missing."""
    build = cv2.getBuildInformation()
    if any(line.split() == ["GUI:", "NONE"] for line in build.splitlines()):
        raise FacemarkError(
            "this OpenCV is headless and cannot open a window; pip uninstall "
            'opencv-python-headless, then pip install "facemark-sdk[gui]", or use --no-window'
        )
    if sys.platform == "linux" and not {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys():
        raise FacemarkError("there is no display to open a window on; use --no-window")
    cv2.namedWindow(TITLE)


def read_frames(source: str) -> Iterator[np.ndarray]:
    """The frames of a camera or a video file, until it ends."""
    capture = cv2.VideoCapture(int(source) if source.isdigit() else source)
    try:
        if not capture.isOpened():
            kind = "camera" if source.isdigit() else "video"
            raise FacemarkError(f"cannot open {kind} {source!r}; choose another with --camera")
        while True:
            there, frame = capture.read()
            if not there:
                return
            yield frame
    finally:
        capture.release()


def open_writer(path: str, frame: np.ndarray) -> cv2.VideoWriter:
    """A video file of this frame's size."""
    height, width = frame.shape[:2]
    codec = cv2.VideoWriter.fourcc(*"mp4v")
    writer = cv2.VideoWriter(path, codec, 25.0, (width, height))
    if not writer.isOpened():
        raise FacemarkError(f"cannot write video {path!r}; choose another with --save")
    return writer


def write_rate(picture: np.ndarray, rate: float) -> None:
    """Frames per second into the top left corner."""
    for colour, width in (((0, 0, 0), 4), ((255, 255, 255), 1)):
        font = cv2.FONT_HERSHEY_SIMPLEX
        cv2.putText(picture, f"{rate:.1f} FPS", (10, 28), font, 0.8, colour, width, cv2.LINE_AA)


def run(options: argparse.Namespace) -> int:
    """Show, and save, until the source ends or a key is pressed; returns the number of frames."""
    frames = read_frames(options.camera)
    frame = next(frames, None)  # first the camera: it is what is missing most often
    if frame is None:
        raise FacemarkError(f"{options.camera!r} gives no frame")
    named = {"landmarks": options.model, "detector": options.detector}
    detector = Detector(
        **{key: value for key, value in named.items() if value is not None},
        backend=options.backend,
        threads=options.threads,
        max_faces=options.max_faces,
    )
    if not options.no_window:
        open_window()
    writer = open_writer(options.save, frame) if options.save else None
    count, rate = 0, 0.0
    try:
        while frame is not None:
            start = time.perf_counter()
            picture = draw(frame, detector(frame))
            now = 1 / (time.perf_counter() - start)
            rate = now if count == 0 else SMOOTHING * rate + (1 - SMOOTHING) * now
            write_rate(picture, rate)
            count += 1
            if writer is not None:
                writer.write(picture)
            if not options.no_window:
                cv2.imshow(TITLE, picture)
                if cv2.waitKey(1) & 0xFF in QUIT_KEYS:
                    break
            if options.frames is not None and count >= options.frames:
                break
            frame = next(frames, None)
    finally:
        if writer is not None:
            writer.release()
        if not options.no_window:
            cv2.destroyAllWindows()
    print(f"{count} frames, {rate:.1f} per second at the end")
    return count


def main() -> None:
    """Run; an error is one line and exit status 1."""
    try:
        run(parse_arguments())
    except FacemarkError as error:
        sys.exit(f"webcam: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
