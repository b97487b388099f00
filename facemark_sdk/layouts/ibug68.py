"""iBUG 68 points (300W, Menpo, AFW): flip table from COMPAT section 4, NME pair 36-45."""

from facemark_sdk.layouts.layout import Layout, chain


def _names() -> tuple[str, ...]:
    parts = (
        ("jaw", 17),
        ("right_brow", 5),
        ("left_brow", 5),
        ("nose_bridge", 4),
        ("nose_base", 5),
        ("right_eye", 6),
        ("left_eye", 6),
        ("outer_lip", 12),
        ("inner_lip", 8),
    )
    return tuple(f"{part}_{i}" for part, count in parts for i in range(count))


IBUG68 = Layout(
    name="ibug68",
    names=_names(),
    flip_pairs=(
        *((i, 16 - i) for i in range(8)),
        *((17 + i, 26 - i) for i in range(5)),
        (31, 35),
        (32, 34),
        (36, 45),
        (37, 44),
        (38, 43),
        (39, 42),
        (40, 47),
        (41, 46),
        (48, 54),
        (49, 53),
        (50, 52),
        (55, 59),
        (56, 58),
        (60, 64),
        (61, 63),
        (65, 67),
    ),
    edges=(
        *chain(0, 16),
        *chain(17, 21),
        *chain(22, 26),
        *chain(27, 30),
        *chain(31, 35),
        *chain(36, 41, closed=True),
        *chain(42, 47, closed=True),
        *chain(48, 59, closed=True),
        *chain(60, 67, closed=True),
    ),
    groups={
        "jaw": tuple(range(17)),
        "right_brow": tuple(range(17, 22)),
        "left_brow": tuple(range(22, 27)),
        "nose": tuple(range(27, 36)),
        "right_eye": tuple(range(36, 42)),
        "left_eye": tuple(range(42, 48)),
        "mouth": tuple(range(48, 68)),
    },
    eye_corners=(36, 45),
)
