"""Metrics as COMPAT 1.7, 2.6, 3.3 define them, against cases by hand, plain loops and SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy.integrate import simpson as scipy_simpson

from facemark_sdk import FacemarkError, LayoutError, get_layout
from facemark_sdk.layouts import LAYOUTS
from facemark_sdk.metrics import (
    NORMALISERS,
    auc,
    auc_thresholds,
    ced,
    failure_rate,
    group_means,
    landmark_failure_rate,
    landmark_means,
    mean_per_face,
    normalised_differences,
    normalised_errors,
    point_variance,
    scales,
    simpson,
)

IBUG, KPS5 = get_layout("ibug68"), get_layout("kps5")

# One face of five points: eyes 30 apart, tight box 40 x 30.
FACE = np.float32([[[10, 20], [40, 20], [25, 35], [5, 50], [45, 50]]])


def faces(name: str, count: int, seed: int = 0) -> NDArray[np.float32]:
    shape = (count, get_layout(name).num_points, 2)
    return np.random.default_rng(seed).uniform(10, 200, shape).astype(np.float32)


# --- normalisers ---


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("inter-ocular", 30),
        ("inter-pupil", 30),
        ("box", math.sqrt(40 * 30)),
        ("diagonal", 50),
    ],
)
def test_distances_by_hand(by, expected):
    np.testing.assert_allclose(scales(FACE, KPS5, by), [[expected, expected]], rtol=1e-12)
    moved = FACE + np.float32([3, 4])
    moved[0, 2] = FACE[0, 2]
    errors = normalised_errors(moved, FACE, KPS5, by)
    np.testing.assert_allclose(errors, np.array([[5, 5, 0, 5, 5]]) / expected, rtol=1e-6)


def test_given_boxes_replace_the_tight_ones():
    box = [[0, 0, 90, 160]]
    assert scales(FACE, KPS5, "box", boxes=box)[0, 0] == pytest.approx(120)
    assert scales(FACE, KPS5, "diagonal", boxes=box)[0, 0] == pytest.approx(math.hypot(90, 160))


def test_image_size_divides_x_by_width_and_y_by_height():
    moved = FACE + np.float32([3, 4])
    errors = normalised_errors(moved, FACE, KPS5, "image", sizes=[[30, 80]])
    np.testing.assert_allclose(errors, np.full((1, 5), math.hypot(0.1, 0.05)), rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "corners"),
    [("ibug68", (36, 45)), ("wflw98", (60, 72)), ("cofw29", (8, 9)), ("lapa106", (66, 79))],
)
def test_published_pairs(name, corners):
    """COMPAT 1.7 and 2.6, in crop fractions as PIPNet takes them: x by width, y by height."""
    truth, guess = faces(name, 3), faces(name, 3, 1)
    width, height = 192, 256
    expected = []
    for real, seen in zip(truth / [width, height], guess / [width, height], strict=True):
        norm = math.dist(real[corners[0]], real[corners[1]])
        expected.append(sum(map(math.dist, real, seen)) / len(real) / norm)
    fractions = (array / np.float64([width, height]) for array in (guess, truth))
    nme = mean_per_face(normalised_errors(*fractions, get_layout(name)))
    np.testing.assert_allclose(nme, expected, rtol=1e-9)


def test_aflw_is_over_the_crop():
    """COMPAT 1.7: norm 1 in crop fractions; 3.3: 64 in cells of a 64 x 64 map."""
    truth, guess = faces("aflw19", 2), faces("aflw19", 2, 1)
    layout = get_layout("aflw19")
    in_pixels = normalised_errors(guess, truth, layout, "image", sizes=[[256, 256]] * 2)
    cells = [array / np.float64(4) for array in (guess, truth)]
    in_cells = normalised_errors(*cells, layout, "image", sizes=[[64, 64]] * 2)
    by_hand = [
        [math.dist(p, t) / 256 for p, t in zip(seen, real, strict=True)]
        for seen, real in zip(guess.astype(float), truth.astype(float), strict=True)
    ]
    np.testing.assert_allclose(in_pixels, by_hand, rtol=1e-9)
    np.testing.assert_allclose(in_cells, by_hand, rtol=1e-9)


@pytest.mark.parametrize(
    ("name", "right", "left"),
    [
        ("ibug68", range(36, 42), range(42, 48)),
        ("wflw98", [96], [97]),
        ("lapa106", [74, 104], [83, 105]),
        ("cofw29", [16], [17]),
        ("aflw19", [6, 7, 8], [9, 10, 11]),
        ("kps5", [0], [1]),
    ],
)
def test_eye_centres(name, right, left):
    truth = faces(name, 2)
    expected = []
    for face in truth.astype(float):
        ends = [
            [sum(face[i][axis] for i in eye) / len(eye) for axis in (0, 1)] for eye in (right, left)
        ]
        expected.append(math.dist(*ends))
    np.testing.assert_allclose(scales(truth, get_layout(name), "inter-pupil")[:, 0], expected)


@given(
    scale=st.floats(0.01, 100),
    shift=st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3)),
    by=st.sampled_from([by for by in NORMALISERS if by not in ("image", "given")]),
    name=st.sampled_from(sorted(LAYOUTS)),
)
def test_errors_do_not_change_with_size_and_place(scale, shift, by, name):
    truth, guess = faces(name, 2).astype(float), faces(name, 2, 1).astype(float)
    layout = get_layout(name)
    before = normalised_errors(guess, truth, layout, by)
    after = normalised_errors(guess * scale + shift, truth * scale + shift, layout, by)
    np.testing.assert_allclose(after, before, rtol=1e-6)


def test_errors_are_zero_on_the_truth():
    truth = faces("ibug68", 3)
    for by in NORMALISERS:
        extra = {"sizes": [[99, 99]] * 3, "distances": [9] * 3}
        assert not normalised_errors(truth, truth, IBUG, by, **extra).any()


def test_a_given_distance():
    """COMPAT 2.6: AFLW's errors in pixels over the column box_size."""
    truth, guess = faces("aflw19", 2), faces("aflw19", 2, 1)
    nme = mean_per_face(
        normalised_errors(guess, truth, get_layout("aflw19"), "given", distances=[200, 50])
    )
    for i, box_size in enumerate((200, 50)):
        total = sum(map(math.dist, guess[i].astype(float), truth[i].astype(float)))
        assert nme[i] == pytest.approx(total / (19 * box_size), rel=1e-9)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"layout": get_layout("points5")}, LayoutError, "no eye corners"),
        ({"layout": get_layout("points5"), "by": "inter-pupil"}, LayoutError, "pupils nor eyes"),
        ({"layout": IBUG}, LayoutError, "truth have 5 landmarks a face, layout 'ibug68' has 68"),
        ({"points": FACE[:, :4]}, LayoutError, "points have 4 landmarks"),
        ({"points": FACE[0]}, FacemarkError, r"points must have shape \(N, L, 2\), got \(5, 2\)"),
        ({"points": np.repeat(FACE, 2, 0)}, FacemarkError, "points are of 2 faces, truth of 1"),
        ({"points": FACE * np.nan}, FacemarkError, "points must be finite"),
        ({"points": [["x"]]}, FacemarkError, "points must be numbers"),
        ({"truth": FACE * np.inf}, FacemarkError, "truth must be finite"),
        ({"truth": FACE * 0}, FacemarkError, "'inter-ocular' .* is zero for face 0"),
        ({"truth": FACE * np.float32([1, 0]), "by": "box"}, FacemarkError, "'box' .* is zero"),
        ({"by": "nose"}, FacemarkError, "unknown normaliser 'nose'; known: inter-ocular"),
        ({"by": "image"}, FacemarkError, "needs sizes"),
        ({"by": "image", "sizes": [10, 10]}, FacemarkError, r"shape \(1, 2\), got \(2,\)"),
        ({"by": "image", "sizes": [[0, 10]]}, FacemarkError, "is zero"),
        ({"by": "given"}, FacemarkError, r"needs distances, one a face, of shape \(1,\), got None"),
        ({"by": "given", "distances": [0]}, FacemarkError, "is zero"),
        ({"by": "box", "boxes": [[0, 0, 1, 1]] * 2}, FacemarkError, "boxes are of 2 faces"),
        ({"by": "box", "boxes": [[5, 5, 5, 9]]}, FacemarkError, "x2 > x1"),
    ],
)
def test_what_cannot_be_measured_is_refused(change, error, message):
    arguments = {"points": FACE, "truth": FACE, "layout": KPS5, **change}
    with pytest.raises(error, match=message):
        normalised_errors(**arguments)


# --- rates ---


def test_failures_are_strictly_over_the_threshold():
    """COMPAT 2.6: > 0.08, > 0.10; 1.7: 1 - share of <= 0.10."""
    nme = [0.05, 0.08, 0.0800001, 0.10, 0.1000001]
    assert failure_rate(nme, 0.08) == pytest.approx(3 / 5)
    assert failure_rate(nme, 0.10) == pytest.approx(1 / 5)
    assert failure_rate(nme) == pytest.approx(1 - float(ced(nme, [0.10])[0]))


def test_errors_at_the_threshold_fail_nowhere():
    """Ten pixels of a hundred are 0.1, not a bit more."""
    truth = np.float32([[[0, 0], [100, 0], [50, 40], [20, 80], [80, 80]]])
    errors = normalised_errors(truth + np.float32([0, 10]), truth, KPS5)
    assert landmark_failure_rate(errors, 0.1) == 0
    assert landmark_failure_rate(errors, 0.0999) == 1


def test_failures_by_landmark():
    """The mean over landmarks of the share of faces in which the landmark errs by more."""
    errors = np.array([[0.05, 0.12, 0.3], [0.15, 0.05, 0.1]])
    for threshold in (0.1, 0.15, 0.2):
        by_landmark = [
            sum(errors[i, j] > threshold for i in range(2)) / 2 for j in range(errors.shape[1])
        ]
        assert landmark_failure_rate(errors, threshold) == pytest.approx(sum(by_landmark) / 3)
    assert landmark_failure_rate(errors, 0.1) == pytest.approx(3 / 6)
    assert landmark_failure_rate(errors, 0.2) == pytest.approx(1 / 6)


def test_faces_that_were_not_found_fail_everywhere():
    nme = [0.01, np.inf]
    assert failure_rate(nme, 1e9) == 0.5
    assert auc(nme) == pytest.approx(0.45, abs=1e-3)
    assert list(ced(nme, [0, 0.01, 0.1, 1e300])) == [0, 0.5, 0.5, 0.5]


def test_curve_and_area_by_a_plain_loop():
    """COMPAT 1.7: 1001 thresholds 0, 0.0001, ..., 0.1, Simpson's rule, over 0.1."""
    nme = np.random.default_rng(0).gamma(4, 0.012, 57)
    thresholds = [k * 0.0001 for k in range(1001)]
    shares = [sum(error <= t for error in nme) / len(nme) for t in thresholds]
    np.testing.assert_array_equal(auc_thresholds(), thresholds)
    np.testing.assert_array_equal(ced(nme, thresholds), shares)
    area = 0.0
    for k in range(0, 1000, 2):
        area += (shares[k] + 4 * shares[k + 1] + shares[k + 2]) * 0.0001 / 3
    assert auc(nme) == pytest.approx(area / 0.1, rel=1e-12)
    assert auc(nme) == pytest.approx(scipy_simpson(shares, x=thresholds) / 0.1, rel=1e-9)


def test_area_of_known_curves():
    assert auc([0.0] * 3) == pytest.approx(1)
    assert auc([0.2] * 3) == 0
    assert auc([0.05]) == pytest.approx(0.5, abs=1e-3)
    assert auc([0.05], 0.07) == pytest.approx(2 / 7, abs=1e-3)


@given(arrays(np.float64, st.integers(1, 40).map(lambda k: 2 * k + 1), elements=st.floats(-10, 10)))
def test_simpson_is_scipys(values):
    assert simpson(values, 0.3) == pytest.approx(scipy_simpson(values, dx=0.3), abs=1e-9)


def test_simpson_is_exact_for_cubics():
    x = np.linspace(0, 2, 9)
    assert simpson(x**3 - x, 0.25) == pytest.approx(4 - 2)


ERRORS = arrays(np.float64, st.integers(1, 30), elements=st.floats(0, 0.3))


@given(ERRORS)
def test_curves_rise_from_0_to_1(nme):
    curve = ced(nme, np.linspace(0, 0.31, 50))
    assert (np.diff(curve) >= 0).all()
    assert curve[0] >= 0
    assert curve[-1] == 1
    assert -1e-12 <= auc(nme) <= 1 + 1e-12
    assert failure_rate(nme, 0.08) >= failure_rate(nme, 0.10)


@given(ERRORS, st.floats(0, 0.1))
def test_larger_errors_are_never_better(nme, more):
    assert auc(nme + more) <= auc(nme) + 1e-3  # Simpson's rule sees a step's place to 0.0001
    assert failure_rate(nme + more) >= failure_rate(nme)


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (lambda: failure_rate([]), "the set is empty"),
        (lambda: auc([]), "the set is empty"),
        (lambda: mean_per_face(np.empty((0, 68))), "the set is empty"),
        (lambda: failure_rate([0.1, np.nan]), "not NaN"),
        (lambda: failure_rate([-0.1]), "0 or more"),
        (lambda: failure_rate([[0.1]]), r"must have shape \(N,\).*got \(1, 1\)"),
        (lambda: landmark_failure_rate([0.1]), r"must have shape \(N, L\).*got \(1,\)"),
        (lambda: auc([0.1], 0), "limit must be a positive number, got 0"),
        (lambda: auc([0.1], math.inf), "limit must be"),
        (lambda: simpson(np.zeros(4), 1), "odd number"),
        (lambda: simpson(np.zeros(1), 1), "3 at least"),
        (lambda: point_variance(np.zeros((0, 5, 2))), "with a face at least"),
        (lambda: point_variance(np.zeros((5, 2))), r"\(N, L, 2\)"),
        (lambda: point_variance(np.full((1, 5, 2), np.nan)), "finite"),
    ],
)
def test_no_figures_without_errors(work, message):
    with pytest.raises(FacemarkError, match=message):
        work()


# --- means and variance ---


def test_means_of_faces_landmarks_and_groups():
    errors = np.array([[0.1, 0.2, 0.3, 0.4, 0.5], [0.3, 0.2, 0.1, 0.0, 0.1]])
    np.testing.assert_allclose(mean_per_face(errors), [0.3, 0.14])
    np.testing.assert_allclose(landmark_means(errors), [0.2, 0.2, 0.2, 0.2, 0.3])
    means = group_means(errors, KPS5)
    assert means == pytest.approx(
        {"right_eye": 0.2, "left_eye": 0.2, "nose": 0.2, "mouth": (0.2 + 0.3) / 2}
    )
    assert group_means(errors, get_layout("points5")) == {}
    with pytest.raises(LayoutError, match="errors are of 5 landmarks, layout 'ibug68' has 68"):
        group_means(errors, IBUG)


def test_point_variance_by_hand():
    """PIPNet 4.3.2: the variance of the differences within each image, the mean over the images."""
    shifted = [[[0.1, 0.2]] * 4]
    assert point_variance(np.array(shifted)) == pytest.approx(0)
    # Two landmarks 1 apart in x, about their middle: 0.25; the same in y adds as much.
    assert point_variance(np.array([[[0, 0], [1, 0]]])) == pytest.approx(0.25)
    assert point_variance(np.array([[[0, 0], [1, 1]]])) == pytest.approx(0.5)
    assert point_variance(np.array([[[0, 0], [1, 0]], [[3, 3], [3, 3]]])) == pytest.approx(0.125)


def test_point_variance_by_a_plain_loop():
    truth, guess = faces("ibug68", 4), faces("ibug68", 4, 1)
    expected = []
    for real, seen in zip(truth.astype(float), guess.astype(float), strict=True):
        norm = math.dist(real[36], real[45])
        moves = [
            ((p[0] - t[0]) / norm, (p[1] - t[1]) / norm) for p, t in zip(seen, real, strict=True)
        ]
        mean = [sum(move[axis] for move in moves) / 68 for axis in (0, 1)]
        expected.append(sum(math.dist(move, mean) ** 2 for move in moves) / 68)
    differences = normalised_differences(guess, truth, IBUG)
    assert point_variance(differences) == pytest.approx(sum(expected) / 4, rel=1e-9)
