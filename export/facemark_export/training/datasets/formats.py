"""The official data set formats that can be read, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from facemark_export.training.datasets import (
    aflw,
    celeba,
    cofw,
    hrnet_csv,
    menpo2d,
    normalised_txt,
    pts,
    vw300,
    w300,
    wflw,
)
from facemark_export.training.datasets.sample import Sample


@dataclass(frozen=True, slots=True)
class Format:
    """How a data set is read.

    Attributes:
        read: ``(root, split)`` to samples; ``stride`` as well for videos.
        layout: The layout that is converted if none is asked for; None for the file's own.
        origin: What the set calls the centre of the top-left pixel: 1 where it is known to count
            as MATLAB does. We count from 0.
        pipnet: Its rule among `PIPNET_RULES`, for the set's own protocol.
        pipnet_gssl: The same for PIPNet's cross-data-set protocols.
        video: Whether images are frames of videos.
    """

    read: Callable[..., Iterator[Sample]]
    layout: str | None
    origin: int = 0
    pipnet: str | None = None
    pipnet_gssl: str | None = None
    video: bool = False


FORMATS: dict[str, Format] = {
    "300w": Format(w300.read, "ibug68", pts.ORIGIN, "300w", "300w-gssl"),
    "menpo2d": Format(menpo2d.read, "ibug68", pts.ORIGIN),
    "300vw": Format(vw300.read, "ibug68", pts.ORIGIN, video=True),
    "wflw": Format(wflw.read, "wflw98", pipnet="wflw", pipnet_gssl="wflw68-gssl"),
    # Cut as COFW-68 is: its training faces are the unlabelled ones (PIPNet paper, section 4.1.2).
    "cofw": Format(cofw.read, "cofw29", cofw.ORIGIN, "cofw", "cofw68-gssl"),
    "cofw68": Format(cofw.read_68, "ibug68", cofw.ORIGIN, pipnet_gssl="cofw68-gssl"),
    "aflw": Format(aflw.read, "aflw19", pipnet="aflw"),
    "celeba": Format(celeba.read, None, pipnet_gssl="celeba-gssl"),
    "hrnet": Format(hrnet_csv.read, None),
    "pipnet": Format(normalised_txt.read_pipnet, None),
    "hih": Format(normalised_txt.read_hih, None),
}
