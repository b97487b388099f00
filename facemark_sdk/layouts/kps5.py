"""The five points of face detectors (RetinaFace, MTCNN): eye centres, nose tip, mouth corners.

Index 0 is the eye at the image's left for a frontal face, which is the subject's right eye.
"""

from facemark_sdk.layouts.layout import Layout

KPS5 = Layout(
    name="kps5",
    names=("right_eye", "left_eye", "nose_tip", "mouth_right", "mouth_left"),
    flip_pairs=((0, 1), (3, 4)),
    edges=(),
    groups={"right_eye": (0,), "left_eye": (1,), "nose": (2,), "mouth": (3, 4)},
    eye_corners=(0, 1),
)
