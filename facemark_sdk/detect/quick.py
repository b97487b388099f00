"""When a quick look at a small copy of an image is enough: RetinaFace's default size.

The rule was chosen with a former `retinaface_mnet025`, for few second looks at single faces and at
most 0.003 of recall. What it does with the present one on its 959 training scenes, 306 of them with
several faces, against one look at its own size, 512; scores of 0.5 and more, faces of 24 px and
more (`python benchmarks/quick_look.py retinaface_mnet025 --data SCENES`):

    scenes          recall, one look   with a quick look   second looks
    training, all             0.9063              0.9029           26 %
      several faces           0.8317              0.8256           53 %
      one face                1.0000              1.0000           14 %
    held-out (96)             0.9459              0.9459           25 %

So it costs 0.0034 now, and 0.0061 where there are several faces; the former one with it found
0.8941 and 0.8098. A `HINT` of 0.03 would cost 0.0013 and 0.0024, and take second looks at 36 %.
Precision rises from 0.961 to 0.970, in the held-out scenes from 0.966 to 0.972.
`python benchmarks/detector_size.py` draws the rule beside single sizes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]

SIZE = 256
"""Pixels of the image's longer side in the quick look: the ``quick_size`` of models trained here.
Others state none and look once, as the rule was measured on our scores only."""
LEAST_SIDE = 32
"""Pixels of a face's longer side in the quick look. The five points of smaller ones were off by
11 % of the box's side in the training scenes, and by 6 % in the full look (former detector)."""
HINT = 0.06
"""Share of the score of a face from which something may turn out to be one in the full look."""


def quick_size(chosen: int, det_size: int) -> int | None:
    """The side of the quick look, or None where it would take over a quarter of a full one's time.

    Args:
        chosen: The side that a model asks for.
        det_size: The side of the full look.
    """
    return chosen if 2 * chosen <= det_size else None


def least_score(threshold: float, own_threshold: float) -> float:
    """The score from which `is_sure` must see what the quick look found.

    It falls with the user's threshold: who wants weak faces gets more full looks. It does not rise
    with it, as what is faint in the quick look may be a sure face in the full one.

    Args:
        threshold: Of the user: faces that score less are left out.
        own_threshold: Of the model.
    """
    return HINT * min(threshold, own_threshold)


def is_sure(scores: Float, sides: Float, threshold: float, own_threshold: float) -> bool:
    """Whether the faces of a quick look are all that there are.

    So it is when there is a face, and all that scores at least `least_score` is clearly one: by its
    score, which is neither under the user's threshold nor under the model's, and by its size.

    Args:
        scores: (N,) of all that scores at least `least_score`.
        sides: (N,) longer sides in pixels of the quick look.
        threshold: Of the user.
        own_threshold: Of the model.
    """
    clear = (scores >= max(threshold, own_threshold)) & (sides >= LEAST_SIDE)
    return len(clear) > 0 and bool(clear.all())
