"""The proof itself: what it lets pass as rounding, and what it does not."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from conftest import landmark_spec

from facemark_export.parity import TOLERANCES, check_graph_decoder, check_parity
from facemark_sdk.errors import ModelError

SIZE = 128
FP32, FP16 = TOLERANCES["fp32"], TOLERANCES["fp16"]


class Gives:
    """A backend that gives the same outputs for any image."""

    def __init__(self, **outputs):
        self.outputs = outputs

    def run(self, inputs):
        return self.outputs


def pip_maps(seed=0, landmarks=68, count=3):
    rng = np.random.default_rng(seed)

    def maps(rows):
        return rng.normal(size=(1, rows, 4, 4)).astype(np.float32)

    own = {name: maps(landmarks) for name in ("cls", "x", "y")}
    return own | {name: maps(landmarks * count) for name in ("nb_x", "nb_y")}


@pytest.fixture
def spec(mean_face):
    return landmark_spec(mean_face)


def proof(spec, ours, theirs, tolerance=FP32):
    image = np.zeros((1, SIZE, SIZE, 3), np.uint8)
    return check_parity(spec, [image], [ours], Gives(**theirs), tolerance)


def test_equal_outputs_pass(spec):
    report = proof(spec, pip_maps(), pip_maps())
    assert report.passed
    assert (report.largest_px, report.ties, report.argmax_flips) == (0, 0, 0)


def test_a_tie_is_counted_with_all_the_points_it_moves_and_passes(spec):
    ours = pip_maps()
    first, second = np.argsort(ours["cls"][0, 5].ravel())[-2:]
    ours["cls"][0, 5].flat[first] = ours["cls"][0, 5].flat[second]
    theirs = {name: maps.copy() for name, maps in ours.items()}
    top = max(first, second)
    theirs["cls"][0, 5].flat[top] = np.nextafter(theirs["cls"][0, 5].flat[top], np.float32(9))
    report = proof(spec, ours, theirs)
    assert report.argmax_flips == 1
    assert report.flip_margins == (0.0,)
    assert report.ties >= 1
    assert report.mean_px > 0
    assert report.largest_px <= FP32.px
    assert report.passed


@pytest.mark.parametrize("shift", [0.0005, 0.005, 1.0])
def test_offsets_that_are_off_pass_up_to_the_tolerance(spec, shift):
    theirs = pip_maps()
    theirs["x"] = theirs["x"] + np.float32(shift)  # in cells of 32 pixels
    report = proof(spec, pip_maps(), theirs)
    # in full where nobody else has an opinion of the landmark
    assert report.largest_px == pytest.approx(shift * 32, rel=0.02)
    assert report.ties == 0
    assert report.passed is (shift * 32 <= FP32.px)


def test_points_far_outside_the_crop_count_in_proportion(spec):
    ours = pip_maps()
    for name in ("x", "nb_x"):
        ours[name] = ours[name] + np.float32(100)  # 3200 pixels to the right
    theirs = {name: maps.copy() for name, maps in ours.items()}
    theirs["x"] = theirs["x"] + np.float32(1)  # a whole cell
    report = proof(spec, ours, theirs)
    assert not report.passed
    assert report.largest_px > 0.5


def test_another_best_cell_does_not_pass(spec):
    theirs = pip_maps()
    theirs["cls"][0, 5] = theirs["cls"][0, 5, ::-1]
    report = proof(spec, pip_maps(), theirs)
    assert report.argmax_flips == 1
    assert report.flip_margins[0] > 0
    assert not report.passed


def test_half_precision_is_judged_by_its_outputs(spec):
    ours = pip_maps()
    halved = {name: maps.astype(np.float16).astype(np.float32) for name, maps in ours.items()}
    assert proof(spec, ours, halved, FP16).passed
    noise = np.random.default_rng(1).normal(scale=0.3, size=ours["x"].shape).astype(np.float32)
    assert not proof(spec, ours, {**halved, "x": halved["x"] + noise}, FP16).passed


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_overflow_is_named(spec, value):
    theirs = pip_maps()
    theirs["nb_y"][0, 7, 1, 1] = value
    with pytest.raises(ModelError, match=r"'nb_y' overflows in fp32"):
        proof(spec, pip_maps(), theirs)


def test_torchs_own_nan_does_not_pass(spec):
    ours = pip_maps()
    ours["x"][:] = np.nan
    assert not proof(spec, ours, ours).passed


def test_a_decoder_in_the_graph_is_held_to_a_thousandth_of_a_pixel(spec):
    spec = dataclasses.replace(spec, decoder="barycentre_sum", decoder_params={}, layout="points2")
    rng = np.random.default_rng(0)
    heatmaps = rng.uniform(size=(1, 2, 16, 16)).astype(np.float32)
    image = [np.zeros((1, SIZE, SIZE, 3), np.uint8)]
    total = heatmaps.sum((2, 3))
    cells = np.arange(16)
    x = (heatmaps.sum(2) * cells).sum(-1) / total
    y = (heatmaps.sum(3) * cells).sum(-1) / total
    points = np.stack((x, y), -1) * SIZE / 16
    grid = np.stack(np.meshgrid(cells, cells), -1).reshape(-1, 2)
    spreads = (
        np.stack([np.cov(grid.T, aweights=heatmaps[0, i].ravel(), ddof=0) for i in range(2)])[None]
        * (SIZE / 16) ** 2
    )

    def check(points, spreads):
        from facemark_sdk.decode import make_decoder

        scores = make_decoder(spec)({"heatmaps": heatmaps}).scores
        whole = Gives(points=np.float32(points), scores=scores, covariances=np.float32(spreads))
        return check_graph_decoder(spec, image, Gives(heatmaps=heatmaps), whole)

    report = check(points, spreads)
    assert report.passed
    assert report.largest_map_difference is None
    assert not check(points + 0.01, spreads).passed
    assert not check(points, spreads * 1.05).passed
