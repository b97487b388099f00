"""Layouts, written out again from COMPAT 1.6 and 4 and held against real annotations."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from facemark_sdk import Layout, LayoutError, get_layout
from facemark_sdk.layouts import LAYOUTS, convert, layouts_with, mapping_weights
from facemark_sdk.metrics import normalised_errors

SAMPLES = Path(__file__).parents[2] / "shared" / "data" / "samples_multi_layout"

# COMPAT 4, word for word: "a..b with c..d" runs through both ranges, the rest are pairs.
FLIP_TABLES = {
    "ibug68": "0..7 with 16..9, 17..21 with 26..22, 31-35, 32-34, 36-45, 37-44, 38-43, 39-42, "
    "40-47, 41-46, 48-54, 49-53, 50-52, 55-59, 56-58, 60-64, 61-63, 65-67",
    "wflw98": "0..15 with 32..17, 33-46, 34-45, 35-44, 36-43, 37-42, 38-50, 39-49, 40-48, 41-47, "
    "55-59, 56-58, 60-72, 61-71, 62-70, 63-69, 64-68, 65-75, 66-74, 67-73, 76-82, 77-81, 78-80, "
    "83-87, 84-86, 88-92, 89-91, 93-95, 96-97",
    "cofw29": "0-1, 2-3, 4-6, 5-7, 8-9, 10-11, 12-14, 13-15, 16-17, 18-19, 22-23",
    "aflw19": "0-5, 1-4, 2-3, 6-11, 7-10, 8-9, 12-14, 15-17",
    "lapa106": "0..15 with 32..17, 33-46, 34-45, 35-44, 36-43, 37-42, 38-50, 39-49, 40-48, 41-47, "
    "55..59 with 65..61, 66..70 with 79..75, 71-82, 72-81, 73-80, 74-83, 84-90, 85-89, 86-88, "
    "91-95, 92-94, 96-100, 97-99, 101-103, 104-105",
}
NME_PAIRS = {
    "wflw98": (60, 72),
    "ibug68": (36, 45),
    "cofw29": (8, 9),
    "lapa106": (66, 79),
    "aflw19": (6, 11),
}
# Right eye, left eye, nose tip, right and left corner of the mouth, as seen on the samples.
FIVE_POINTS = {
    "cofw29": ([16], [17], [20], [22], [23]),
    "aflw19": ([7], [10], [13], [15], [17]),
    "lapa106": ([104], [105], [54], [84], [90]),
    "ibug68": ([36, 37, 38, 39, 40, 41], [42, 43, 44, 45, 46, 47], [30], [48], [54]),
}
# The points of the 68 and of the 29 that AFLW's names name; between two edges, their middle.
AFLW_POINTS = {
    "ibug68": {
        **{"right_brow_outer": [17], "right_brow_middle": [19], "right_brow_inner": [21]},
        **{"left_brow_inner": [22], "left_brow_middle": [24], "left_brow_outer": [26]},
        **{"right_eye_outer": [36], "right_eye_inner": [39]},
        **{"left_eye_inner": [42], "left_eye_outer": [45]},
        **{"right_eye_centre": [36, 37, 38, 39, 40, 41]},
        **{"left_eye_centre": [42, 43, 44, 45, 46, 47]},
        **{"nose_right": [31], "nose_tip": [30], "nose_left": [35]},
        **{"mouth_right": [48], "mouth_centre": [62, 66], "mouth_left": [54], "chin": [8]},
    },
    "cofw29": {
        **{"right_brow_outer": [0], "right_brow_middle": [4, 5], "right_brow_inner": [2]},
        **{"left_brow_inner": [3], "left_brow_middle": [6, 7], "left_brow_outer": [1]},
        **{"right_eye_outer": [8], "right_eye_centre": [16], "right_eye_inner": [10]},
        **{"left_eye_inner": [11], "left_eye_centre": [17], "left_eye_outer": [9]},
        **{"nose_right": [18], "nose_tip": [20], "nose_left": [19]},
        **{"mouth_right": [22], "mouth_centre": [25, 26], "mouth_left": [23], "chin": [28]},
    },
}
MAPPINGS = [
    ("wflw98", "ibug68"),
    *(("wflw98", target) for target in ("aflw19", "kps5")),
    *((name, "aflw19") for name in AFLW_POINTS),
    *((name, "kps5") for name in FIVE_POINTS),
]

each_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
each_mapping = pytest.mark.parametrize(("source", "target"), MAPPINGS)


def flip_pairs(table: str) -> set[tuple[int, int]]:
    pairs = set()
    for entry in table.split(", "):
        if "with" in entry:
            first, second = ([int(n) for n in part.split("..")] for part in entry.split(" with "))
            rising = range(first[0], first[1] + 1)
            falling = range(second[0], second[1] - 1, -1)
            pairs |= set(zip(rising, falling, strict=True))
        else:
            a, b = entry.split("-")
            pairs.add((int(a), int(b)))
    return pairs


def random_points(name: str, *batch: int) -> NDArray[np.float32]:
    shape = (*batch, get_layout(name).num_points, 2)
    return np.random.default_rng(0).uniform(0, 1, shape).astype(np.float32)


# --- layouts ---


def test_which_layouts_there_are() -> None:
    counts = {name: layout.num_points for name, layout in LAYOUTS.items()}
    assert counts == {
        "kps5": 5,
        "aflw19": 19,
        "cofw29": 29,
        "ibug68": 68,
        "wflw98": 98,
        "lapa106": 106,
    }
    assert all(get_layout(name).name == name for name in counts)


@pytest.mark.parametrize("name", FLIP_TABLES)
def test_flip_pairs_are_those_of_compat(name: str) -> None:
    expected = flip_pairs(FLIP_TABLES[name])
    assert {tuple(sorted(pair)) for pair in get_layout(name).flip_pairs} == expected
    index = get_layout(name).flip_index
    moved = {i for i in range(len(index)) if index[i] != i}
    assert moved == {i for pair in expected for i in pair}


@pytest.mark.parametrize("name", NME_PAIRS)
def test_eye_corners_are_the_pair_of_the_nme(name: str) -> None:
    assert get_layout(name).eye_corners == NME_PAIRS[name]


@each_layout
def test_flip_is_an_involution(layout: Layout) -> None:
    index = layout.flip_index
    assert np.array_equal(index[index], np.arange(layout.num_points))


@each_layout
def test_flip_pairs_are_disjoint(layout: Layout) -> None:
    flat = [i for pair in layout.flip_pairs for i in pair]
    assert len(flat) == len(set(flat))


@each_layout
def test_flip_keeps_edges_and_eye_corners(layout: Layout) -> None:
    assert layout.eye_corners is not None
    edges = {frozenset(edge) for edge in layout.edges}
    flipped = {frozenset(int(layout.flip_index[i]) for i in edge) for edge in edges}
    assert flipped == edges
    assert len(edges) == len(layout.edges)
    assert {int(layout.flip_index[i]) for i in layout.eye_corners} == set(layout.eye_corners)


@each_layout
def test_indices_are_in_range_and_names_unique(layout: Layout) -> None:
    used = [i for edge in layout.edges for i in edge]
    used += [i for group in layout.groups.values() for i in group]
    used += layout.eye_corners or ()
    assert set(used) <= set(range(layout.num_points))
    assert len(set(layout.names)) == layout.num_points


@each_layout
def test_groups_name_every_point_once(layout: Layout) -> None:
    indices = sorted(i for group in layout.groups.values() for i in group)
    assert indices == list(range(layout.num_points))


@each_layout
def test_edges_stay_within_a_group(layout: Layout) -> None:
    group_of = {i: name for name, group in layout.groups.items() for i in group}
    assert all(group_of[a] == group_of[b] for a, b in layout.edges)


@each_layout
def test_flip_swaps_left_and_right(layout: Layout) -> None:
    swap = {"right": "left", "left": "right"}
    for name, group in layout.groups.items():
        mirrored = "_".join(swap.get(part, part) for part in name.split("_"))
        assert {int(layout.flip_index[i]) for i in group} == set(layout.groups[mirrored])
    for i, name in enumerate(layout.names):
        # A numbered curve of one side may run the other way on the other side.
        here, there = (
            {part for part in side.split("_") if not part.isdigit()}
            for side in (name, layout.names[layout.flip_index[i]])
        )
        assert {swap.get(part, part) for part in here} == there


# --- layouts without a description ---


@given(st.integers(1, 10_000))
def test_anonymous_layout(count: int) -> None:
    layout = get_layout(f"points{count}")
    assert layout.name == f"points{count}"
    assert layout.num_points == count
    assert layout.names[0] == "point_0"
    assert layout.names[-1] == f"point_{count - 1}"
    assert layout.flip_pairs == layout.edges == ()
    assert layout.groups == {}
    assert layout.eye_corners is None
    assert layout is get_layout(f"points{count}")


@pytest.mark.parametrize(
    "name",
    [
        *("points", "points0", "points-1", "points+5", "points020", "points2.0", "points10001"),
        *("points99999999999999999999", "points 20", "points20 ", "points20\n", "Points20"),
        *("points²", "points٣", "", "nix", None, 20, ["points20"]),
    ],
)
def test_only_canonical_names(name: Any) -> None:
    with pytest.raises(LayoutError, match="unknown layout"):
        get_layout(name)


def test_no_errors_without_eye_corners() -> None:
    points = random_points("points20", 3)
    with pytest.raises(LayoutError, match="'points20' has no eye corners"):
        normalised_errors(points, points, get_layout("points20"))


def test_errors_over_the_eye_corners() -> None:
    truth = random_points("wflw98", 2)
    points = truth + np.float32([0.3, 0.4])
    distance = np.hypot(*(truth[:, 60] - truth[:, 72]).T)
    expected = np.repeat(0.5 / distance[:, None], 98, axis=1)
    errors = normalised_errors(points, truth, get_layout("wflw98"))
    np.testing.assert_allclose(errors, expected, rtol=1e-5)


def test_layouts_with_so_many_points() -> None:
    assert layouts_with(68) == ["ibug68"]
    assert layouts_with(106) == ["lapa106"]
    assert layouts_with(20) == []


# --- mappings ---


def published_98_to_68(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """COMPAT 1.6, last paragraph, point by point."""
    out = [p[2 * i] for i in range(17)]
    out.append(p[33])
    for x, below in ((34, 41), (35, 40), (36, 39), (37, 38)):
        out.append(np.array([p[x, 0], (p[x, 1] + p[below, 1]) / 2]))
    for x, below in ((42, 50), (43, 49), (44, 48), (45, 47)):
        out.append(np.array([p[x, 0], (p[x, 1] + p[below, 1]) / 2]))
    out.append(p[46])
    out += [p[i] for i in range(51, 60)]
    out += [p[60], 0.666 * p[61] + 0.333 * p[62], 0.666 * p[63] + 0.333 * p[62], p[64]]
    out += [0.666 * p[65] + 0.333 * p[66], 0.666 * p[67] + 0.333 * p[66]]
    out += [p[68], 0.666 * p[69] + 0.333 * p[70], 0.666 * p[71] + 0.333 * p[70], p[72]]
    out += [0.666 * p[73] + 0.333 * p[74], 0.666 * p[75] + 0.333 * p[74]]
    out += [p[i] for i in range(76, 96)]
    return np.array(out)


def test_98_to_68() -> None:
    points = random_points("wflw98", 4, 3)
    converted = convert(points, "wflw98", "ibug68")
    assert converted.shape == (4, 3, 68, 2)
    assert converted.dtype == np.float32
    for i in np.ndindex(4, 3):
        np.testing.assert_allclose(converted[i], published_98_to_68(points[i]), atol=1e-6)


def test_98_to_68_keeps_the_published_weights() -> None:
    weights = mapping_weights("wflw98", "ibug68")
    sums = weights.sum(axis=2)
    blended = [37, 38, 40, 41, 43, 44, 46, 47]
    np.testing.assert_allclose(sums[:, blended], 0.999, atol=1e-6)
    np.testing.assert_array_equal(np.delete(sums, blended, axis=1), 1)


@pytest.mark.parametrize("source", FIVE_POINTS)
def test_to_5(source: str) -> None:
    points = random_points(source, 3)
    expected = [points[:, indices].mean(axis=1) for indices in FIVE_POINTS[source]]
    converted = convert(points, source, "kps5")
    np.testing.assert_allclose(converted, np.stack(expected, axis=1), rtol=1e-5)


@pytest.mark.parametrize("source", AFLW_POINTS)
def test_to_19(source: str) -> None:
    points = random_points(source, 3)
    made_of = [AFLW_POINTS[source][name] for name in get_layout("aflw19").names]
    expected = np.stack([points[:, indices].mean(axis=1) for indices in made_of], axis=1)
    np.testing.assert_allclose(convert(points, source, "aflw19"), expected, rtol=1e-5)


def test_points_that_aflw_and_cofw_call_alike_are_the_same() -> None:
    points, names = random_points("cofw29"), get_layout("cofw29").names
    mapped = dict(zip(get_layout("aflw19").names, convert(points, "cofw29", "aflw19"), strict=True))
    shared = mapped.keys() & set(names)
    assert len(shared) == 14
    for name in shared:
        np.testing.assert_array_equal(mapped[name], points[names.index(name)])


def test_98_to_5_goes_through_68() -> None:
    points = random_points("wflw98", 3)
    by_hand = convert(convert(points, "wflw98", "ibug68"), "ibug68", "kps5")
    np.testing.assert_allclose(convert(points, "wflw98", "kps5"), by_hand, rtol=1e-5)
    np.testing.assert_allclose(
        convert(points, "wflw98", "kps5")[:, 2:], points[:, [54, 76, 82]], rtol=1e-6
    )


@each_mapping
def test_mapping_and_mirroring_commute(source: str, target: str) -> None:
    points = random_points(source) - np.float32(0.5)
    mirror = np.float32([-1, 1])
    first = convert(points[get_layout(source).flip_index] * mirror, source, target)
    then = convert(points, source, target)[get_layout(target).flip_index] * mirror
    np.testing.assert_allclose(first, then, atol=1e-6)


@pytest.mark.parametrize("name", [*LAYOUTS, "points20"])
def test_a_layout_maps_to_itself(name: str) -> None:
    points = random_points(name)
    np.testing.assert_array_equal(convert(points, name, name), points)


def test_weights_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="read-only"):
        mapping_weights("wflw98", "kps5")[0, 0, 0] = 1


def test_errors() -> None:
    with pytest.raises(
        LayoutError, match="known layouts: aflw19, cofw29, ibug68, kps5, lapa106, wflw98"
    ):
        get_layout("nix")
    with pytest.raises(LayoutError, match="from layout 'kps5' to 'ibug68'; 'kps5' maps to: noth"):
        mapping_weights("kps5", "ibug68")
    with pytest.raises(LayoutError, match="'wflw98' maps to: aflw19, ibug68, kps5"):
        mapping_weights("wflw98", "lapa106")
    with pytest.raises(LayoutError, match="no mapping from layout 'points98'"):
        mapping_weights("points98", "ibug68")
    with pytest.raises(LayoutError, match=r"shape \(\.\.\., 68, 2\)"):
        convert(np.zeros((5, 2), np.float32), "ibug68", "kps5")
    with pytest.raises(LayoutError, match=r"shape \(\.\.\., 98, 2\)"):
        convert(np.zeros((98, 3), np.float32), "wflw98", "ibug68")


# --- real faces ---


@pytest.fixture(scope="module")
def real() -> dict[str, NDArray[np.float32]]:
    """(N, L, 2) annotated points of single faces, by layout."""
    faces = defaultdict(list)
    for line in (SAMPLES / "annotations.jsonl").read_text().splitlines():
        record = json.loads(line)
        faces[record["layout"]].append(record["points"])
    return {name: np.array(some, np.float32) for name, some in faces.items()}


def outer_corners(points: NDArray[np.float32], layout: Layout) -> NDArray[np.float32]:
    assert layout.eye_corners is not None
    a, b = layout.eye_corners
    return np.linalg.norm(points[:, a] - points[:, b], axis=-1)


def looks_like_a_face(points: NDArray[np.float32], layout: Layout) -> None:
    """Each part is where faces have it, in a picture of upright faces that are not in profile."""
    middle = {name: points[:, list(group)].mean(axis=1) for name, group in layout.groups.items()}
    for part in ("brow", "eye"):
        assert (middle[f"right_{part}"][:, 0] < middle[f"left_{part}"][:, 0]).all()
    for side in ("right", "left"):
        assert (middle[f"{side}_brow"][:, 1] < middle[f"{side}_eye"][:, 1]).all()
    eyes = (middle["right_eye"] + middle["left_eye"]) / 2
    assert (eyes[:, 1] < middle["nose"][:, 1]).all()
    assert (middle["nose"][:, 1] < middle["mouth"][:, 1]).all()
    assert (points[:, list(layout.groups["jaw"])].max(axis=1) > middle["mouth"])[:, 1].all()
    for i, name in enumerate(layout.names):
        if name.startswith("right"):
            twin = layout.flip_index[i]
            assert (points[:, i, 0] < points[:, twin, 0]).all(), name


@pytest.mark.shared
@pytest.mark.parametrize("name", FLIP_TABLES)
def test_groups_are_where_real_faces_have_them(
    name: str, real: dict[str, NDArray[np.float32]]
) -> None:
    looks_like_a_face(real[name], get_layout(name))


@pytest.mark.shared
@pytest.mark.parametrize("name", FLIP_TABLES)
def test_mirrored_real_faces_are_faces(name: str, real: dict[str, NDArray[np.float32]]) -> None:
    layout = get_layout(name)
    mirrored = real[name][:, layout.flip_index] * np.float32([-1, 1])
    looks_like_a_face(mirrored, layout)
    np.testing.assert_allclose(
        outer_corners(mirrored, layout), outer_corners(real[name], layout), rtol=1e-5
    )


@pytest.mark.shared
@pytest.mark.parametrize("name", FLIP_TABLES)
def test_a_mirrored_face_is_nearer_with_the_flip_than_without(
    name: str, real: dict[str, NDArray[np.float32]]
) -> None:
    """Aligned at the centre, a face is like its mirror image only if left and right change."""
    layout = get_layout(name)
    faces = real[name] - real[name].mean(axis=1, keepdims=True)
    mirrored = faces * np.float32([-1, 1])
    flipped = np.linalg.norm(mirrored[:, layout.flip_index] - faces, axis=-1).mean()
    unflipped = np.linalg.norm(mirrored - faces, axis=-1).mean()
    assert flipped < 0.5 * unflipped


@pytest.mark.shared
def test_real_98_points_become_plausible_68(real: dict[str, NDArray[np.float32]]) -> None:
    faces = real["wflw98"]
    converted = convert(faces, "wflw98", "ibug68")
    looks_like_a_face(converted, get_layout("ibug68"))
    size = outer_corners(faces, get_layout("wflw98"))
    # Eye corners, nose tip, mouth corners, chin of 98 and 68.
    for of_98, of_68 in ((60, 36), (64, 39), (72, 45), (54, 30), (76, 48), (82, 54), (16, 8)):
        offset = np.linalg.norm(faces[:, of_98] - converted[:, of_68], axis=-1)
        assert (offset < 0.05 * size).all()
    # Each blended lid point lies on the lid: near the line between the two it is made of.
    for corner, middle, made in ((61, 62, 37), (63, 62, 38), (65, 66, 40), (67, 66, 41)):
        straight = np.linalg.norm(faces[:, corner] - faces[:, middle], axis=-1)
        by_way = np.linalg.norm(faces[:, corner] - converted[:, made], axis=-1)
        by_way += np.linalg.norm(faces[:, middle] - converted[:, made], axis=-1)
        assert (by_way < straight + 0.05 * size).all()


@pytest.mark.shared
@pytest.mark.parametrize("name", [*AFLW_POINTS, "wflw98"])
def test_nineteen_points_of_real_faces(name: str, real: dict[str, NDArray[np.float32]]) -> None:
    """They are a face, with what is made of several points amid what it lies between."""
    faces, layout = convert(real[name], name, "aflw19"), get_layout("aflw19")
    looks_like_a_face(faces, layout)
    slack = 0.2 * outer_corners(faces, layout)
    for first, middle, last in ((0, 1, 2), (3, 4, 5), (6, 7, 8), (9, 10, 11), (15, 16, 17)):
        assert (faces[:, first, 0] < faces[:, middle, 0]).all()
        assert (faces[:, middle, 0] < faces[:, last, 0]).all()
    for corner, centre in ((6, 7), (11, 10)):
        assert (np.abs(faces[:, corner, 1] - faces[:, centre, 1]) < slack).all()


@pytest.mark.shared
@pytest.mark.parametrize("name", [*FIVE_POINTS, "wflw98"])
def test_five_points_of_real_faces(name: str, real: dict[str, NDArray[np.float32]]) -> None:
    """Eyes within their lids' box, widened by a tenth of the face; nose between eyes and mouth."""
    layout, faces = get_layout(name), real[name]
    five = convert(faces, name, "kps5")
    slack = 0.1 * outer_corners(faces, layout)[:, None]
    for point, group in enumerate(("right_eye", "left_eye")):
        lids = faces[:, list(layout.groups[group])]
        assert (five[:, point] > lids.min(axis=1) - slack).all()
        assert (five[:, point] < lids.max(axis=1) + slack).all()
    assert (five[:, :2, 1].max(axis=1) < five[:, 2, 1]).all()
    assert (five[:, 2, 1] < five[:, 3:, 1].min(axis=1)).all()
    assert (five[:, 0, 0] < five[:, 1, 0]).all()
    assert (five[:, 3, 0] < five[:, 4, 0]).all()
