"""LaPa 106 points: flip table from COMPAT section 4, NME pair 66-79 (COMPAT 1.7).

Points 74 and 104 are both the right pupil, 83 and 105 both the left one. The nose's sides run
from beside the right eye (55) round the base (60 in the middle) to beside the left eye (65).
"""

from facemark_sdk.layouts.layout import Layout, chain, numbered

LAPA106 = Layout(
    name="lapa106",
    names=(
        *numbered(jaw=33, right_brow=9, left_brow=9, nose_bridge=4, nose_contour=11, right_eye=8),
        "right_pupil_0",
        *numbered(left_eye=8),
        "left_pupil_0",
        *numbered(outer_lip=12, inner_lip=8),
        "right_pupil_1",
        "left_pupil_1",
    ),
    flip_pairs=(
        *((i, 32 - i) for i in range(16)),
        *((33 + i, 46 - i) for i in range(5)),
        *((38 + i, 50 - i) for i in range(4)),
        *((55 + i, 65 - i) for i in range(5)),
        *((66 + i, 79 - i) for i in range(5)),
        (71, 82),
        (72, 81),
        (73, 80),
        (74, 83),
        (84, 90),
        (85, 89),
        (86, 88),
        (91, 95),
        (92, 94),
        (96, 100),
        (97, 99),
        (101, 103),
        (104, 105),
    ),
    edges=(
        *chain(0, 32),
        *chain(33, 41, closed=True),
        *chain(42, 50, closed=True),
        *chain(51, 54),
        *chain(55, 65),
        *chain(66, 73, closed=True),
        *chain(75, 82, closed=True),
        *chain(84, 95, closed=True),
        *chain(96, 103, closed=True),
    ),
    groups={
        "jaw": tuple(range(33)),
        "right_brow": tuple(range(33, 42)),
        "left_brow": tuple(range(42, 51)),
        "nose": tuple(range(51, 66)),
        "right_eye": tuple(range(66, 74)),
        "left_eye": tuple(range(75, 83)),
        "mouth": tuple(range(84, 104)),
        "pupils": (74, 83, 104, 105),
    },
    eye_corners=(66, 79),
)
