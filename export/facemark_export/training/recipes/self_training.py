"""PIPNet with self-training, plain or with curriculum (paper section 3.3, COMPAT 1.5 GSSL)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from facemark_export.training.landmark_data import AnnotatedFace
from facemark_export.training.loop_recipe import TrainingError
from facemark_export.training.recipes.landmarks import LandmarkFaces
from facemark_export.training.recipes.pipnet import PipnetRecipe
from facemark_export.training.self_training import CURRICULUM, SelfTrainingTask
from facemark_sdk.spec import CropRule


@dataclass(frozen=True, kw_only=True)
class SelfTrainingRecipe(PipnetRecipe):
    """PIPNet from annotated faces and faces without annotations, in rounds."""

    unlabelled: tuple[Path, ...] = ()
    """Folders whose annotations.jsonl states image and box, a detector's, of each face."""
    curriculum: bool = True
    """Two rounds first in which pseudo-labels count on coarser grids (STC)."""
    full_rounds: int = 3
    """Rounds in which pseudo-labels count as annotations do; the paper's converge in three."""
    unlabelled_weight: float = 1.0
    """How often each unlabelled face is seen in an epoch of a round."""
    box_growth: tuple[float, float, float, float] | None = None
    """How an unlabelled face's box grows on the left, top, right and bottom, in fractions of its
    size, to give (squared) the crop that labelled faces are trained in; by default it is fitted to
    the labelled faces with the bundled detector."""

    def __post_init__(self) -> None:
        """Refuse settings that do not go together.

        Raises:
            TrainingError: As PIPNet's, too few rounds, or a grid that the curriculum cannot halve.
            LayoutError: The layout is unknown.
        """
        PipnetRecipe.__post_init__(self)
        if self.full_rounds < 1:
            raise TrainingError(f"full_rounds must be at least 1, got {self.full_rounds}")
        if not self.unlabelled_weight > 0:
            raise TrainingError(f"unlabelled_weight must be positive, got {self.unlabelled_weight}")
        least = 2 ** (max(CURRICULUM) + 1)  # of which task 1 leaves 2x2 cells
        grid = self.size // self.stride
        if self.curriculum and (grid < least or grid % (least // 2)):
            raise TrainingError(
                f"curriculum halves the grid twice: size / stride must be a multiple of "
                f"{least // 2} from {least}, got {self.size} / {self.stride}"
            )

    @property
    def rounds(self) -> tuple[int, ...]:
        """By round, how often its pseudo-labels' grid is halved."""
        return (*(CURRICULUM if self.curriculum else ()), *(0,) * self.full_rounds)

    @property
    def rule(self) -> CropRule | None:
        """The crop rule for boxes that `box_growth` states."""
        return None if self.box_growth is None else CropRule(*self.box_growth, square=True)

    def round_task(
        self,
        faces: LandmarkFaces,
        pseudo: Sequence[AnnotatedFace],
        squares: Sequence[tuple[float, float, float]],
        halvings: int,
    ) -> SelfTrainingTask:
        """A round with a fresh network; see `SelfTrainingTask`."""
        return SelfTrainingTask(
            self.network(),
            self.model_spec(faces.shapes.mean(axis=0)),
            faces,
            pseudo,
            squares,
            pseudo_weight=self.unlabelled_weight,
            halvings=halvings,
            growth=self.growth,
            augmentation=self.augmentation,
        )
