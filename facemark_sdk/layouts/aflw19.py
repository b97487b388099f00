"""AFLW 19 points: flip table from COMPAT section 4.

The published protocols divide errors by the size of the face's box, not by a distance between
landmarks (COMPAT 1.7, 2.6, 3.3). `eye_corners` names the outer eye corners, 6-11, so that errors
may be put beside those of other layouts; they are then not comparable with published AFLW ones.
"""

from facemark_sdk.layouts.layout import Layout, chain

AFLW19 = Layout(
    name="aflw19",
    names=(
        "right_brow_outer",
        "right_brow_middle",
        "right_brow_inner",
        "left_brow_inner",
        "left_brow_middle",
        "left_brow_outer",
        "right_eye_outer",
        "right_eye_centre",
        "right_eye_inner",
        "left_eye_inner",
        "left_eye_centre",
        "left_eye_outer",
        "nose_right",
        "nose_tip",
        "nose_left",
        "mouth_right",
        "mouth_centre",
        "mouth_left",
        "chin",
    ),
    flip_pairs=((0, 5), (1, 4), (2, 3), (6, 11), (7, 10), (8, 9), (12, 14), (15, 17)),
    edges=(
        *chain(0, 2),
        *chain(3, 5),
        *chain(6, 8),
        *chain(9, 11),
        *chain(12, 14),
        *chain(15, 17),
    ),
    groups={
        "jaw": (18,),
        "right_brow": (0, 1, 2),
        "left_brow": (3, 4, 5),
        "nose": (12, 13, 14),
        "right_eye": (6, 7, 8),
        "left_eye": (9, 10, 11),
        "mouth": (15, 16, 17),
    },
    eye_corners=(6, 11),
)
