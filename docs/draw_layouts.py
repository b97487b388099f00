"""Draw every layout as numbered points on white, for docs/layouts.md. No photo is shown.

The shape is the mean of the annotations at hand and of their mirror images, after similarity
Procrustes alignment, so it is symmetric and looks straight ahead. Two annotated faces are all
there is for cofw29, aflw19 and lapa106; kps5 is the mean of ibug68, converted.

    python docs/draw_layouts.py --data ../shared/data --out docs/layouts
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tyro
from numpy.typing import NDArray

from facemark_sdk.layouts import LAYOUTS, Layout, convert

Floats = NDArray[np.float64]

LARGE, SMALL, FEW = 1400, 1000, 30
"""The longer side of a picture in pixels; the small one for up to so many points."""
MARGIN = 90
FONT, FONT_SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.7
CAPTION = 15
"""Pixels between a caption and the border."""
DOT = 5
PAD = 3
"""Pixels kept free around a number and around a point."""
REACHES = range(16, 100, 6)
"""How far from its point a number's middle may stand, in pixels."""
CLEAR = 2.0
"""A number needs a leader unless it is this many times nearer to its point than to any other."""
ROUNDS = 10
"""Procrustes iterations; the mean stands still long before."""

# BGR; the subject's right in warm colours, the left in cold ones.
COLOURS = {
    "jaw": (90, 90, 90),
    "right_brow": (0, 110, 200),
    "left_brow": (170, 110, 0),
    "nose": (30, 120, 30),
    "right_eye": (30, 30, 200),
    "left_eye": (190, 30, 30),
    "mouth": (150, 30, 150),
    "pupils": (0, 0, 0),
}
EDGE_COLOUR = (205, 205, 205)
LEADER_COLOUR = (150, 150, 150)


def main(data: Path, out: Path) -> None:
    """Draw the layouts.

    Args:
        data: The folder with annotations_only and samples_multi_layout.
        out: Folder for the PNG files, one a layout.
    """
    out.mkdir(parents=True, exist_ok=True)
    faces = read_shapes(data)
    means = {name: mean_shape(np.array(some), LAYOUTS[name]) for name, some in faces.items()}
    means["kps5"] = convert(means["ibug68"], "ibug68", "kps5").astype(np.float64)
    for name, mean in means.items():
        picture = drawing(mean, LAYOUTS[name])
        cv2.imwrite(str(out / f"{name}.png"), picture, [cv2.IMWRITE_PNG_COMPRESSION, 9])


def read_shapes(data: Path) -> dict[str, list[Any]]:
    """Annotated shapes by layout: the large sets without photos, else the samples."""
    only = data / "annotations_only"
    rows = records(data / "samples_multi_layout" / "annotations.jsonl")
    faces: dict[str, list[Any]] = {}
    for row in rows:
        faces.setdefault(row["layout"], []).append(row["points"])
    faces["wflw98"] = [row["points"] for row in records(only / "wflw98_test_subsets.jsonl")]
    test_set = json.loads((only / "spiga_300wpublic_test.json").read_text())
    faces["ibug68"] = [row["landmarks"] for row in test_set]
    return faces


def records(path: Path) -> list[Any]:
    """The objects of a file with one JSON object a line."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def mean_shape(faces: Floats, layout: Layout) -> Floats:
    """The symmetric mean of shapes (N, L, 2): centred, of unit size, y downwards."""
    mirrored = faces[:, layout.flip_index] * (-1, 1)
    shapes = np.concatenate([faces, mirrored])
    shapes -= shapes.mean(axis=1, keepdims=True)
    shapes /= np.linalg.norm(shapes, axis=(1, 2), keepdims=True)
    mean: Floats = shapes.mean(axis=0)
    for _ in range(ROUNDS):
        u, _, v = np.linalg.svd(np.einsum("nlc,ld->ncd", shapes, mean))
        mean = (shapes @ (u @ v)).mean(axis=0)
        mean /= np.linalg.norm(mean)
    return mean


def drawing(shape: Floats, layout: Layout) -> NDArray[np.uint8]:
    """The picture of a layout whose points lie as in `shape` (L, 2)."""
    low, high = shape.min(axis=0), shape.max(axis=0)
    side = SMALL if layout.num_points <= FEW else LARGE
    scale = (side - 2 * MARGIN) / (high - low).max()
    points = (shape - low) * scale + MARGIN
    width, height = np.rint((high - low) * scale).astype(int) + 2 * MARGIN
    canvas = np.full((height, width, 3), 255, np.uint8)
    colours = {i: COLOURS[name] for name, group in layout.groups.items() for i in group}
    for a, b in layout.edges:
        cv2.line(canvas, pixel(points[a]), pixel(points[b]), EDGE_COLOUR, 2, cv2.LINE_AA)
    texts, anchors = numbers(points)
    boxes = place(texts, anchors, edge_samples(points, layout), np.array([width, height]))
    for anchor, box in zip(anchors, boxes, strict=True):
        own, *others = np.sort(distances(anchors, box))
        if others and others[0] < CLEAR * own:
            target = pixel((box[:2] + box[2:]) / 2)
            cv2.line(canvas, pixel(anchor), target, LEADER_COLOUR, 1, cv2.LINE_AA)
    for i, point in enumerate(points):
        cv2.circle(canvas, pixel(point), DOT, colours[i], cv2.FILLED, cv2.LINE_AA)
    for text, box in zip(texts, boxes, strict=True):
        low, high = box[:2] + PAD, box[2:] - PAD
        cv2.rectangle(canvas, pixel(low), pixel(high), (255, 255, 255), cv2.FILLED)
        colour = colours[int(text.split(",")[0])]
        at = pixel(np.array([low[0], high[1]]))
        cv2.putText(canvas, text, at, FONT, FONT_SCALE, colour, 1, cv2.LINE_AA)
    left = "subject's left"
    for side, x in (("subject's right", CAPTION), (left, width - text_size(left)[0] - CAPTION)):
        cv2.putText(
            canvas, side, (int(x), 2 * CAPTION), FONT, FONT_SCALE, (0, 0, 0), 1, cv2.LINE_AA
        )
    return canvas


def numbers(points: Floats) -> tuple[list[str], Floats]:
    """What stands where: points in the same place share one text, as in "74, 104".

    Returns:
        K texts and the (K, 2) points they belong to.
    """
    together: dict[tuple[int, int], list[int]] = {}
    for i, point in enumerate(points):
        together.setdefault(pixel(point), []).append(i)
    texts = [", ".join(map(str, group)) for group in together.values()]
    return texts, np.array([points[group[0]] for group in together.values()])


def place(texts: list[str], anchors: Floats, edges: Floats, canvas: Floats) -> Floats:
    """A box for each text: near its point, off other texts, points and, if possible, edges.

    The most crowded point chooses first, but two numbers in one text, which need room, last.

    Args:
        texts: K numbers.
        anchors: (K, 2) where their points are.
        edges: (M, 2) places on the edges.
        canvas: Width and height.

    Returns:
        (K, 4) boxes x1 y1 x2 y2, the padding included.
    """
    gaps = np.sort(np.linalg.norm(anchors[:, None] - anchors, axis=-1), axis=1)
    boxes = np.full((len(texts), 4), np.nan)  # not a number: not placed yet, overlaps nothing
    leaders = np.empty((0, 2))
    shared = [text.count(",") for text in texts]
    for i in np.lexsort([gaps[:, 1:4].mean(axis=1), shared]):
        candidates = candidate_boxes(anchors[i], text_size(texts[i]) / 2 + PAD)
        candidates = candidates[inside_canvas(candidates, canvas)]
        costs = [placing_cost(box, i, anchors, boxes, edges, leaders) for box in candidates]
        boxes[i] = candidates[np.argmin(costs)]
        middle = (boxes[i, :2] + boxes[i, 2:]) / 2
        leaders = np.concatenate([leaders, samples(anchors[i], middle)])
    return boxes


def candidate_boxes(anchor: Floats, half: Floats) -> Floats:
    """(C, 4) boxes of half size `half` around a point; wide ones stand further off sideways."""
    angles = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    direction = np.stack([np.cos(angles), np.sin(angles)], axis=1)[None]
    reach = np.array(REACHES)[:, None, None] + np.abs(direction[..., :1]) * (half[0] - half[1])
    middles = (anchor + direction * reach).reshape(-1, 2)
    return np.concatenate([middles - half, middles + half], axis=1)


def inside_canvas(boxes: Floats, canvas: Floats) -> NDArray[np.bool_]:
    """Which boxes (C, 4) lie wholly on a canvas of this width and height."""
    return np.asarray((boxes[:, :2] >= 0).all(axis=1) & (boxes[:, 2:] <= canvas).all(axis=1))


def placing_cost(
    box: Floats, own: int, anchors: Floats, boxes: Floats, edges: Floats, leaders: Floats
) -> float:
    """How bad a text's place is, in pixels that one would rather go further."""
    middle = (box[:2] + box[2:]) / 2
    leader = samples(anchors[own], middle)
    others = np.delete(anchors, own, axis=0)
    overlaps = ((box[:2] < boxes[:, 2:]) & (box[2:] > boxes[:, :2])).all(axis=1).sum()
    covered = (distances(anchors, box) < DOT).sum()
    crossed = (np.linalg.norm(leader[:, None] - others, axis=-1) < DOT + PAD).any(axis=0).sum()
    crossed += inside(leader, boxes).any(axis=0).sum() + inside(leaders, box[None]).any()
    unclear = (distances(others, box) < CLEAR * distances(anchors[own : own + 1], box)).sum()
    on_edges = inside(edges, box[None]).sum()
    length = np.linalg.norm(middle - anchors[own])
    return float(length + 1000 * (overlaps + covered) + 300 * crossed + 80 * unclear + 8 * on_edges)


def distances(points: Floats, box: Floats) -> Floats:
    """(K,) distances of points (K, 2) from a box x1 y1 x2 y2; 0 inside."""
    gaps = np.maximum(np.maximum(box[:2] - points, points - box[2:]), 0)
    return np.asarray(np.linalg.norm(gaps, axis=1))


def inside(points: Floats, boxes: Floats) -> NDArray[np.bool_]:
    """(K, B): which of the points (K, 2) lie in which of the boxes (B, 4)."""
    at = points[:, None]
    return np.asarray(((at > boxes[:, :2]) & (at < boxes[:, 2:])).all(axis=-1))


def edge_samples(points: Floats, layout: Layout) -> Floats:
    """(M, 2) places along all edges."""
    along = [samples(points[a], points[b]) for a, b in layout.edges]
    return np.concatenate([np.empty((0, 2)), *along])


def samples(start: Floats, end: Floats) -> Floats:
    """Places along a line, about 4 pixels apart."""
    count = max(2, int(np.linalg.norm(end - start) / 4))
    return np.asarray(np.linspace(start, end, count))


def text_size(text: str) -> Floats:
    """(2,) width and height of a number as drawn."""
    return np.array(cv2.getTextSize(text, FONT, FONT_SCALE, 1)[0], np.float64)


def pixel(point: Floats) -> tuple[int, int]:
    """The point as OpenCV's drawing functions take it."""
    return round(float(point[0])), round(float(point[1]))


if __name__ == "__main__":
    tyro.cli(main)
