"""Training frames for a detector: photos zoomed, turned, flipped and set side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from facemark_export.training.detection_colour import degrade, jitter_colour
from facemark_export.training.detection_loss import FACE, IGNORED
from facemark_export.training.detection_scenes import Scene
from facemark_export.training.detection_warp import (
    Affine,
    about,
    cover,
    fills,
    move_boxes,
    move_points,
    visible_share,
    warp,
)
from facemark_sdk.detect.retinaface import MEAN_BGR

Float = NDArray[np.float32]
Pixels = NDArray[np.uint8]

GRIDS = (1, 2, 3, 4)
"""Tiles a side: portraits have no small faces, but many portraits in one frame do."""
GRID_PROBABILITIES = (0.62, 0.25, 0.08, 0.05)
SPLIT_JITTER = 0.15
"""How far the border of tiles moves, in tile sides."""
EMPTY_PROBABILITY = 0.12
"""Tiles taken from beside the faces."""
WHOLE_PROBABILITY = 0.3
"""Single tiles that show a whole photo, as a detector meets it."""
SMALLEST_FACE = 14.0
"""Longest side, in pixels, of the smallest face aimed at."""
SMALLEST_SHARE = 0.15
"""The same, in tile sides: less would leave the tile nearly empty."""
LARGEST_FACE = 1.2
"""Longest side of the largest face aimed at, in tile sides."""
COVER_PROBABILITY = 0.8
"""Photos moved so that they cover as much of their tile as they can."""
BACKDROP_PROBABILITY = 0.6
"""Tiles whose photo has a piece of another photo around it, not one colour."""
LARGEST_ZOOM = 4.0
TURN_PROBABILITY = 0.5
LARGEST_TURN = 45.0
STRETCH = 0.08
"""Largest natural logarithm of a stretch along either axis."""
IGNORED_SIDE = 10.0
"""A face whose longest side has fewer pixels is neither found nor missed."""
IGNORED_VISIBLE = 0.45
"""So is a face less of which is inside its tile, or whose centre is outside."""
DROPPED_VISIBLE = 0.05
"""Less of a face than this is background."""


@dataclass(frozen=True, slots=True)
class Faces:
    """Faces in a frame, in its pixels."""

    boxes: Float
    """(M, 4) xyxy, of the whole face: as in the annotations they may reach over the border."""
    kps: Float
    """(M, 5, 2)."""
    kinds: NDArray[np.int64]
    """(M,) FACE or IGNORED."""
    pointed: NDArray[np.bool_]
    """(M,) whether `kps` are known."""


def compose(
    scenes: Sequence[Scene], first: int, side: int, rng: np.random.Generator
) -> tuple[Pixels, Faces]:
    """Make one training frame, a grid of 1x1 to 4x4 tiles.

    Args:
        scenes: All of them.
        first: The one that is in the frame for certain.
        side: Of the square frame, in pixels.
        rng: Source of every choice.

    Returns:
        (side, side, 3) uint8 BGR, and its faces.
    """
    grid = int(rng.choice(GRIDS, p=GRID_PROBABILITIES))
    columns, rows = split_side(side, grid, rng), split_side(side, grid, rng)
    chosen = rng.integers(len(scenes), size=grid * grid)
    chosen[rng.integers(len(chosen))] = first
    frame = np.empty((side, side, 3), np.uint8)
    found = []
    for index, scene in enumerate(chosen):
        row, column = divmod(index, grid)
        top, bottom, left, right = rows[row], rows[row + 1], columns[column], columns[column + 1]
        backdrop = scenes[rng.integers(len(scenes))]
        tile, faces = make_tile(
            scenes[scene], backdrop, right - left, bottom - top, rng, single=grid == 1
        )
        frame[top:bottom, left:right] = tile
        found.append(shift(faces, left, top))
    return degrade(frame, rng), join(found)


def split_side(side: int, parts: int, rng: np.random.Generator) -> list[int]:
    """Borders of the tiles along one side, from 0 to `side`."""
    jitter = rng.uniform(-SPLIT_JITTER, SPLIT_JITTER, parts + 1)
    jitter[[0, -1]] = 0
    return [round(side * (k + jitter[k]) / parts) for k in range(parts + 1)]


def make_tile(
    scene: Scene,
    backdrop: Scene,
    width: int,
    height: int,
    rng: np.random.Generator,
    *,
    single: bool,
) -> tuple[Pixels, Faces]:
    """One photo under one random warp.

    Args:
        scene: The photo and its faces.
        backdrop: The photo whose background fills what the first one leaves open.
        width: Of the tile, in pixels.
        height: Of the tile, in pixels.
        rng: Source of every choice.
        single: The tile is the whole frame.
    """
    kind = rng.random()
    affine = None
    if kind < EMPTY_PROBABILITY or not len(scene.boxes):
        affine = beside_faces(scene, width, height, rng)
    elif single and kind < EMPTY_PROBABILITY + WHOLE_PROBABILITY:
        affine = whole_photo(scene, width, height, rng)
    if affine is None:
        affine = around_face(scene, width, height, rng)
    tile = np.empty((height, width, 3), np.uint8)
    tile[:] = border_colour(rng)
    if rng.random() < BACKDROP_PROBABILITY and not fills(scene, affine, width, height):
        paint_background(tile, backdrop, rng)
    warp(scene, affine, tile)
    return jitter_colour(tile, rng), place(scene, affine, width, height)


def around_face(scene: Scene, width: int, height: int, rng: np.random.Generator) -> Affine:
    """A warp that brings one of the faces to a size drawn log-uniformly, anywhere in the tile."""
    if not len(scene.boxes):
        return whole_photo(scene, width, height, rng)
    box = scene.boxes[rng.integers(len(scene.boxes))].astype(np.float64)
    tile = min(width, height)
    smallest = max(SMALLEST_FACE, SMALLEST_SHARE * tile)
    target = np.exp(rng.uniform(np.log(smallest), np.log(max(LARGEST_FACE * tile, smallest))))
    scale = min(target / (box[2:] - box[:2]).max(), LARGEST_ZOOM)
    side = scale * (box[2:] - box[:2]).max()
    margin = np.minimum(0.35 * side, 0.4 * np.array([width, height]))
    target_centre = rng.uniform(margin, np.array([width, height]) - margin)
    affine = about((box[:2] + box[2:]) / 2, target_centre, random_linear(scale, rng))
    return cover(scene, affine, width, height) if rng.random() < COVER_PROBABILITY else affine


def paint_background(tile: Pixels, scene: Scene, rng: np.random.Generator) -> None:
    """Put a piece of a photo without a face into a tile, in place, if one is found."""
    affine = beside_faces(scene, tile.shape[1], tile.shape[0], rng)
    if affine is not None:
        warp(scene, affine, tile)


def whole_photo(scene: Scene, width: int, height: int, rng: np.random.Generator) -> Affine:
    """A warp that shows about the whole photo."""
    photo = np.array(scene.image.shape[1::-1], np.float64)
    scale = (np.array([width, height]) / photo).min() * np.exp(rng.uniform(-0.35, 0.25))
    centre = np.array([width, height]) * rng.uniform(0.4, 0.6, 2)
    return about(photo / 2, centre, random_linear(scale, rng))


def beside_faces(
    scene: Scene, width: int, height: int, rng: np.random.Generator, *, tries: int = 8
) -> Affine | None:
    """A warp that shows a piece of the photo without a face; None if none is found."""
    photo = np.array(scene.image.shape[1::-1], np.float64)
    tile = np.array([width, height], np.float64)
    for _ in range(tries):
        scale = (tile / photo).max() * np.exp(rng.uniform(0.2, 1.6))
        margin = np.minimum(0.5 * tile / scale, 0.5 * photo)
        affine = about(rng.uniform(margin, photo - margin), tile / 2, random_linear(scale, rng))
        if not (visible_share(move_boxes(scene.boxes, affine), width, height) > 0).any():
            return affine
    return None


def random_linear(scale: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """(2, 2): flip, stretch, turn, scale."""
    angle = (
        np.deg2rad(rng.uniform(-LARGEST_TURN, LARGEST_TURN))
        if rng.random() < TURN_PROBABILITY
        else 0.0
    )
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    stretch = np.exp(rng.uniform(-STRETCH, STRETCH, 2))
    flip = -1.0 if rng.random() < 0.5 else 1.0
    return scale * turn @ np.diag(stretch * (flip, 1.0))


def place(scene: Scene, affine: Affine, width: int, height: int) -> Faces:
    """The faces of a warped photo that can be seen, in pixels of its tile."""
    boxes = move_boxes(scene.boxes, affine)
    kps = move_points(scene.kps, affine)
    share = visible_share(boxes, width, height)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = ((centres >= 0) & (centres < (width, height))).all(axis=1)
    large = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0) >= IGNORED_SIDE
    learnt = inside & large & (share >= IGNORED_VISIBLE) & ~scene.doubtful
    kinds = np.where(learnt, FACE, IGNORED)
    kept = share > DROPPED_VISIBLE
    return Faces(boxes[kept], kps[kept], kinds[kept], scene.pointed[kept])


def border_colour(rng: np.random.Generator) -> tuple[int, int, int]:
    """What is around a photo: the padding's colour or any other."""
    if rng.random() < 0.5:
        return MEAN_BGR
    blue, green, red = rng.integers(0, 256, 3).tolist()
    return blue, green, red


def shift(faces: Faces, left: int, top: int) -> Faces:
    """Faces of a tile in pixels of the frame."""
    offset = np.array([left, top], np.float32)
    return Faces(faces.boxes + np.tile(offset, 2), faces.kps + offset, faces.kinds, faces.pointed)


def join(faces: Sequence[Faces]) -> Faces:
    """All faces of several tiles."""
    return Faces(
        np.concatenate([part.boxes for part in faces]),
        np.concatenate([part.kps for part in faces]),
        np.concatenate([part.kinds for part in faces]),
        np.concatenate([part.pointed for part in faces]),
    )
