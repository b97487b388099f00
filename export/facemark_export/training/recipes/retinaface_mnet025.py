"""RetinaFace with a MobileNet-0.25 trunk, from scratch, on whole photos with five points a face."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from facemark_export.training.detection import VALIDATION_SCORE, DetectionTask
from facemark_export.training.detection_scenes import read_scenes, split_scenes
from facemark_export.training.loop import LoopRecipe
from facemark_sdk.detect import quick
from facemark_sdk.detect.retinaface import MEAN_BGR, NMS_THRESHOLD, STRIDES
from facemark_sdk.spec import InputSpec, ModelSpec


@dataclass(frozen=True, kw_only=True)
class RetinaFaceMnet025(LoopRecipe):
    """RetinaFace, MobileNet-0.25: 0.43 million weights, five points a face.

    About 65,000 frames: 35 minutes of one core.
    """

    epochs: int = 34
    """Passes over the training photos."""
    batch_size: int = 16
    """Frames a step."""
    learning_rate: float = 5e-3
    """Highest learning rate, reached after the warm-up."""
    weight_decay: float = 0.01
    """AdamW's decay."""
    warmup_epochs: float = 1.0
    """Epochs in which the learning rate rises from nothing."""
    ema_decay: float = 0.998
    """Of the averaged weights that are validated and kept."""
    sides: tuple[int, ...] = (256, 256, 320, 416)
    """Sides of the square training frames in pixels, a multiple of 32; every batch draws one."""
    repeats: int = 2
    """Frames an epoch that each training photo is in for certain."""
    architecture: Literal["mobilenet0.25", "mobilenet0.25_relu"] = "mobilenet0.25_relu"
    """The network with plain ReLUs, which save three tenths of its time in int8, or as it was
    published, with leaking ones."""
    det_size: int = 512
    """Longest side in pixels of a photo on the canvas."""
    validation_list: Path | None = None
    """Text file with the name of a held-out photo a line; without one, the bundled list for the
    scenes of ../shared/data, and for other data every tenth photo by the hash of its name."""
    training_data: str = "HELEN and AFW photos (research use, non-commercial), boxes and 5 points"
    """The sets and their terms, for the model's spec."""
    licence: str = "research use"
    """Of the weights, for the model's spec."""

    def build(self, data: Sequence[Path]) -> DetectionTask:
        """Read the scenes and split them."""
        train, validation = split_scenes(read_scenes(data), self.validation_list)
        return DetectionTask(
            train, validation, spec=self.spec(), sides=self.sides, repeats=self.repeats
        )

    def spec(self) -> ModelSpec:
        """What the trained model says about itself."""
        return ModelSpec(
            name="retinaface_mnet025",
            task="detection",
            family="retinaface",
            architecture=self.architecture,
            decoder="retinaface",
            decoder_params={
                "det_size": self.det_size,
                "quick_size": quick.SIZE,
                "stride": STRIDES[-1],
                "score_threshold": VALIDATION_SCORE,
                "nms_threshold": NMS_THRESHOLD,
            },
            layout="kps5",
            input=InputSpec(width=0, height=0, channels="BGR", mean=MEAN_BGR, std=(1.0, 1.0, 1.0)),
            crop=None,
            precision="fp32",
            producer="facemark-train",
            source_sha256="",
            training_data=self.training_data,
            licence=self.licence,
        )
