"""WFLW 98 points: flip table from COMPAT section 4, NME pair 60-72 (COMPAT 1.7).

A brow is its upper edge and then its lower edge: the right one from the outer end inward and
back, the left one from the inner end outward and back.
"""

from facemark_sdk.layouts.layout import Layout, chain, numbered

WFLW98 = Layout(
    name="wflw98",
    names=(
        *numbered(
            jaw=33,
            right_brow=9,
            left_brow=9,
            nose_bridge=4,
            nose_base=5,
            right_eye=8,
            left_eye=8,
            outer_lip=12,
            inner_lip=8,
        ),
        "right_pupil",
        "left_pupil",
    ),
    flip_pairs=(
        *((i, 32 - i) for i in range(16)),
        *((33 + i, 46 - i) for i in range(5)),
        *((38 + i, 50 - i) for i in range(4)),
        (55, 59),
        (56, 58),
        *((60 + i, 72 - i) for i in range(5)),
        (65, 75),
        (66, 74),
        (67, 73),
        (76, 82),
        (77, 81),
        (78, 80),
        (83, 87),
        (84, 86),
        (88, 92),
        (89, 91),
        (93, 95),
        (96, 97),
    ),
    edges=(
        *chain(0, 32),
        *chain(33, 41, closed=True),
        *chain(42, 50, closed=True),
        *chain(51, 54),
        *chain(55, 59),
        *chain(60, 67, closed=True),
        *chain(68, 75, closed=True),
        *chain(76, 87, closed=True),
        *chain(88, 95, closed=True),
    ),
    groups={
        "jaw": tuple(range(33)),
        "right_brow": tuple(range(33, 42)),
        "left_brow": tuple(range(42, 51)),
        "nose": tuple(range(51, 60)),
        "right_eye": tuple(range(60, 68)),
        "left_eye": tuple(range(68, 76)),
        "mouth": tuple(range(76, 96)),
        "pupils": (96, 97),
    },
    eye_corners=(60, 72),
)
