"""Whole photos with every face boxed: reading them, and holding some out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from facemark_export.training.annotations import is_held_out, read_annotations
from facemark_sdk.errors import DataError

Float = NDArray[np.float32]
Pixels = NDArray[np.uint8]

HALVINGS = 4
"""How often a photo's stored copy is halved for sampling without aliasing."""
BUNDLED_LIST = Path(__file__).parent / "splits" / "scenes_val.txt"
"""Held-out photos of ../shared/data/scenes."""
DOUBTFUL_SCORE = 0.7
"""A teacher's faces with a lower score are neither trained on nor trained against."""


@dataclass(frozen=True, slots=True)
class Scene:
    """A photo and its faces, in pixels of the photo."""

    name: str
    """As the annotations give it, for example `images/afw_0001.jpg`."""
    levels: tuple[Pixels, ...]
    """The photo, (H, W, 3) BGR, and its halvings: sampling a small copy is the antialiasing."""
    boxes: Float
    """(M, 4) xyxy. May reach over the photo's border."""
    kps: Float
    """(M, 5, 2) eyes, nose tip, mouth corners."""
    pointed: NDArray[np.bool_]
    """(M,) whether `kps` are known."""
    doubtful: NDArray[np.bool_]
    """(M,) found by a teacher that was not sure: neither a face to learn nor background."""

    @property
    def image(self) -> Pixels:
        """The photo at its full size."""
        return self.levels[0]


def read_scenes(folders: Sequence[Path]) -> list[Scene]:
    """Read `annotations.jsonl` and its photos from every folder."""
    scenes = [
        read_scene(folder, record) for folder in folders for record in read_annotations(folder)
    ]
    if not scenes:
        raise DataError(f"no scenes in {', '.join(map(str, folders))}: annotations.jsonl is empty")
    return scenes


def read_scene(folder: Path, record: Mapping[str, Any]) -> Scene:
    """A record of `annotations.jsonl` with the photo it names."""
    image = cv2.imread(str(folder / record["image"]), cv2.IMREAD_COLOR)
    if image is None:
        raise DataError(f"{folder / record['image']} is missing or is not an image")
    faces = record.get("faces")
    if not isinstance(faces, list):
        raise DataError(f"{folder}: the record of {record['image']} has no list of faces")
    kps = [face.get("kps") or np.zeros((5, 2)) for face in faces]
    return Scene(
        name=record["image"],
        levels=halvings(image),
        boxes=np.asarray([face["box"] for face in faces], np.float32).reshape(-1, 4),
        kps=np.asarray(kps, np.float32).reshape(-1, 5, 2),
        pointed=np.asarray([bool(face.get("kps")) for face in faces], bool),
        doubtful=np.asarray([face.get("score", 1.0) < DOUBTFUL_SCORE for face in faces], bool),
    )


def halvings(image: Pixels) -> tuple[Pixels, ...]:
    """An image and its repeated halvings, each the mean of what it covers."""
    levels = [image]
    for _ in range(HALVINGS):
        height, width = levels[-1].shape[:2]
        size = (max(1, (width + 1) // 2), max(1, (height + 1) // 2))
        levels.append(cv2.resize(levels[-1], size, interpolation=cv2.INTER_AREA))
    return tuple(levels)


def split_scenes(
    scenes: Sequence[Scene], validation_list: Path | None
) -> tuple[list[Scene], list[Scene]]:
    """Split into scenes to train on and scenes held out.

    Args:
        scenes: All of them.
        validation_list: A text file with the name of a held-out photo a line; without one, see
            `held_out`.
    """
    names = held_out(scenes) if validation_list is None else read_names(validation_list)
    unknown = names - {scene.name for scene in scenes}
    if unknown:
        raise DataError(f"{validation_list} names photos that are not there: {sorted(unknown)[:3]}")
    train = [scene for scene in scenes if scene.name not in names]
    validation = [scene for scene in scenes if scene.name in names]
    if not train or not validation:
        raise DataError(
            f"{len(train)} scenes to train on, {len(validation)} held out by "
            f"{validation_list or 'the default split'}: need both"
        )
    return train, validation


def held_out(scenes: Sequence[Scene]) -> set[str]:
    """Photos of the bundled list; for data without any of them, a tenth by hash.

    The bundled list has the photos that the landmark recipes hold out.
    """
    return read_names(BUNDLED_LIST) & {scene.name for scene in scenes} or hashed(scenes)


def read_names(path: Path) -> set[str]:
    """Names of photos, one a line."""
    return {line for line in path.read_text(encoding="utf-8").splitlines() if line}


def hashed(scenes: Sequence[Scene]) -> set[str]:
    """Names of the scenes that `is_held_out` holds out: a scene is a whole photo."""
    return {scene.name for scene in scenes if is_held_out(scene.name)}
