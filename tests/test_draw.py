from __future__ import annotations

import numpy as np
import pytest

from facemark_sdk import Face, draw, get_layout


def make_face(side: float, corner: float = 20.0, **changes: object) -> Face:
    rng = np.random.default_rng(0)
    arrays = {
        "bbox": np.array([corner, corner, corner + side, corner + side], np.float32),
        "kps": (corner + rng.uniform(0, side, (5, 2))).astype(np.float32),
        "landmarks": (corner + rng.uniform(0, side, (68, 2))).astype(np.float32),
    }
    return Face(
        **{**arrays, **changes},  # type: ignore[arg-type]
        score=0.9,
        landmark_scores=np.ones(68, np.float32),
        layout=get_layout("ibug68"),
    )


def test_draws_on_a_copy() -> None:
    image = np.zeros((200, 200, 3), np.uint8)
    picture = draw(image, [make_face(100)])
    assert not image.any()
    assert picture.any()
    assert np.array_equal(draw(image, []), image)


@pytest.mark.parametrize("part", ["boxes", "edges", "points", "kps"])
def test_parts_can_be_chosen(part: str) -> None:
    image = np.zeros((200, 200, 3), np.uint8)
    nothing = {"boxes": False, "edges": False, "points": False, "kps": False}
    assert not draw(image, [make_face(100)], **nothing).any()
    assert draw(image, [make_face(100)], **{**nothing, part: True}).any()


def test_points_are_sub_pixel() -> None:
    image = np.zeros((200, 200, 3), np.uint8)
    centres = []
    for x in (50.0, 50.25, 50.5, 50.75):
        landmarks = np.full((68, 2), 5000.0, np.float32)
        landmarks[0] = x, 60.0
        picture = draw(image, [make_face(800, landmarks=landmarks)], boxes=False, edges=False)
        weights = picture[..., 0].astype(float)
        centres.append((weights * np.arange(200)).sum() / weights.sum())
    np.testing.assert_allclose(np.diff(centres), 0.25, atol=0.05)


def test_marks_grow_with_the_face() -> None:
    image = np.zeros((1200, 1200, 3), np.uint8)
    small = np.count_nonzero(draw(image, [make_face(100)], boxes=False, edges=False))
    large = np.count_nonzero(draw(image, [make_face(1000)], boxes=False, edges=False))
    assert large > 4 * small


def test_far_and_broken_points_do_not_crash() -> None:
    image = np.zeros((100, 100, 3), np.uint8)
    landmarks = np.full((68, 2), 1e9, np.float32)
    landmarks[0], landmarks[1], landmarks[2] = np.nan, np.inf, -np.inf
    draw(image, [make_face(50, landmarks=landmarks), make_face(1e8, -5e7)], kps=True)


def test_grey_image_becomes_colour() -> None:
    assert draw(np.zeros((100, 100), np.uint8), [make_face(50)]).shape == (100, 100, 3)
