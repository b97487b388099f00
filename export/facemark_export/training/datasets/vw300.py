"""300VW: videos with a .pts file of 68 points a frame."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from facemark_export.training.datasets.pts import read_pts
from facemark_export.training.datasets.sample import Sample
from facemark_export.training.datasets.source import find, missing, require_split
from facemark_sdk.errors import DataError

TEST_VIDEOS: dict[str, tuple[int, ...]] = {
    "category1": (
        *(114, 124, 125, 126, 150, 158, 401, 402, 505, 506, 507, 508, 509, 510, 511, 514, 515),
        *(518, 519, 520, 521, 522, 524, 525, 537, 538, 540, 541, 546, 547, 548),
    ),
    "category2": (
        *(203, 208, 211, 212, 213, 214, 218, 224, 403, 404, 405, 406, 407, 408, 409, 412),
        *(550, 551, 553),
    ),
    "category3": (410, 411, 516, 517, 526, 528, 529, 530, 531, 533, 557, 558, 559, 562),
}
"""The 64 test videos by the challenge's categories; the other 50 are for training."""
NUM_POINTS = 68


def read(root: Path, split: str, *, stride: int = 1) -> Iterator[Sample]:
    """The annotated frames of a split's videos: the first of each and every `stride`-th after it.

    The category is the subset; the frames of a video share its photo.

    Raises:
        DataError: A video, its annotations or some of its frames are missing.
    """
    require_split("300vw", split)
    category = {f"{n:03d}": part for part, videos in TEST_VIDEOS.items() for n in videos}
    if split == "test":
        folders = [find(root, "300vw", video) for video in sorted(category)]
    else:
        folders = [
            annot.parent
            for annot in sorted(root.glob("[0-9][0-9][0-9]/annot"))
            if annot.parent.name not in category
        ]
        if not folders:
            raise missing("300vw", "training videos such as 001/annot", root)
    for folder in folders:
        part = category.get(folder.name)
        for number, frame, file in _annotated_frames(folder, stride):
            points = read_pts(file)
            if len(points) != NUM_POINTS:
                raise DataError(f"{file}: {len(points)} points, 300VW has {NUM_POINTS}")
            yield Sample(
                image=frame,
                name=f"{folder.name}/{number:06d}.jpg",
                points=points,
                layout="ibug68",
                photo=f"300vw/{folder.name}",
                subsets=() if part is None else (part,),
            )


def _annotated_frames(folder: Path, stride: int) -> Iterator[tuple[int, NDArray[np.uint8], Path]]:
    """Number (from 1, as the .pts files count), pixels and .pts file of the frames wanted."""
    video = find(folder, "300vw", "vid.avi")
    files = {int(file.stem): file for file in folder.glob("annot/*.pts") if file.stem.isdecimal()}
    wanted = {number: file for number, file in files.items() if (number - 1) % stride == 0}
    if not wanted:
        raise missing("300vw", "annot/000001.pts", folder)
    capture = cv2.VideoCapture(str(video))
    try:
        for number in range(1, max(wanted) + 1):
            if not capture.grab():
                raise DataError(
                    f"{video} cannot be decoded past frame {number - 1}, annotations go to frame "
                    f"{max(files)}; it is damaged or OpenCV lacks its codec"
                )
            if number in wanted:
                _, frame = capture.retrieve()
                yield number, np.asarray(frame, np.uint8), wanted[number]
    finally:
        capture.release()
