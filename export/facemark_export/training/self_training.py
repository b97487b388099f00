"""Self-training, plain and with curriculum (STC; PIPNet paper section 3.3, COMPAT 1.5 GSSL).

A round trains a fresh network on labelled faces and on unlabelled ones with the labels that the
round before gives them. With curriculum these pseudo-labels first count on a coarse grid only: the
cell of 2x2 cells that a landmark is in (task 1), then that of 4x4 (task 2), then as the labels of
annotated faces do (task 3). The coarse score maps are `cls_layer`'s, of features that are
max-pooled; they are left out when the network is used.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from facemark_export import checkpoint
from facemark_export.source import Choices, read_source
from facemark_export.training import processes
from facemark_export.training.augment import Augmentation
from facemark_export.training.landmark_data import AnnotatedFace
from facemark_export.training.loop import Run
from facemark_export.training.loop_recipe import TrainingError
from facemark_export.training.pipnet import PipnetTask, pip_losses, score_loss
from facemark_export.training.pseudo_labels import (
    fitted_rule,
    predict_points,
    read_labels,
    read_unlabelled,
    write_labels,
)
from facemark_sdk.files import replace_file
from facemark_sdk.spec import ModelSpec

if TYPE_CHECKING:
    from facemark_export.training.recipes.landmarks import LandmarkFaces
    from facemark_export.training.recipes.self_training import SelfTrainingRecipe

log = logging.getLogger("facemark")

CURRICULUM = (2, 1)
"""How often task 1 and task 2 halve the grid: from 8x8 cells to 2x2 and 4x4."""


def coarse_cells(cell: Tensor, grid: int, halvings: int) -> Tensor:
    """The cells of a grid of G x G as cells of one halved so many times; row-major numbers."""
    row, column = cell // grid, cell % grid
    return (row >> halvings) * (grid >> halvings) + (column >> halvings)


def curriculum_losses(
    outputs: Sequence[Tensor],
    batch: Mapping[str, Tensor],
    halvings: int,
    weights: Mapping[str, float],
) -> dict[str, Tensor]:
    """`pip_losses` of the labelled faces, and the score loss on the coarse grid of the others.

    Every sum is divided by how much counts in it (COMPAT 1.5). Of several processes each divides
    by what counts in its own part of a batch.

    Args:
        outputs: A PIPNet's five maps and the coarse score maps (N, L, g, g).
        batch: As `pip_targets` makes it, and ``labelled`` (N,) bool.
        halvings: From the grid to the coarse one.
        weights: Of `pip_losses`.
    """
    *maps, coarse = outputs
    labelled = batch["labelled"]
    cell = coarse_cells(batch["cell"], maps[0].shape[-1], halvings)
    return {
        **pip_losses(maps, batch, **weights, counted=labelled),
        "coarse_score": score_loss(coarse, cell, ~labelled),
    }


class SelfTrainingTask(PipnetTask):
    """A round: labelled faces and pseudo-labelled ones.

    Args:
        network: The network.
        spec: What its exported model will say.
        faces: The labelled faces.
        pseudo: Faces with pseudo-labels.
        squares: Their crops: centre x, y and side in image pixels.
        pseudo_weight: How often each of them is seen in an epoch.
        halvings: How much coarser the grid is that pseudo-labels count on; 0 for task 3.
        growth: Side of a labelled face's crop over the longer side of its points' box.
        augmentation: Strengths.
    """

    def __init__(
        self,
        network: nn.Module,
        spec: ModelSpec,
        faces: LandmarkFaces,
        pseudo: Sequence[AnnotatedFace],
        squares: Sequence[tuple[float, float, float]],
        *,
        pseudo_weight: float,
        halvings: int,
        growth: float,
        augmentation: Augmentation,
    ) -> None:
        folders, weights = [*faces.folders, pseudo], [*faces.weights, pseudo_weight]
        super().__init__(network, spec, folders, weights, faces.held_out, growth, augmentation)
        self.first_pseudo = len(self.faces) - len(pseudo)
        self.squares[self.first_pseudo :] = squares
        self.halvings = network.halvings = halvings

    def make_batch(self, indices: NDArray[np.intp], rng: np.random.Generator) -> dict[str, Tensor]:
        """As `LandmarkTask.make_batch`, and ``labelled`` (N,) bool."""
        labelled = torch.from_numpy(indices < self.first_pseudo)
        return {**super().make_batch(indices, rng), "labelled": labelled}

    def losses(self, outputs: Sequence[Tensor], batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`pip_losses` of all faces in task 3, `curriculum_losses` before."""
        if not self.halvings:
            return super().losses(outputs, batch)
        return curriculum_losses(outputs, batch, self.halvings, self.loss_weights)


def train_rounds(
    recipe: SelfTrainingRecipe, name: str, data: Sequence[Path], out: Path, *, resume: bool
) -> None:
    """Supervised training in OUT/round0, then the rounds in OUT/round1, OUT/round2, ...

    Each folder holds a run and ``annotations.jsonl``, the pseudo-labels that it trains on.
    ``OUT/best.safetensors`` is the last round's best: held-out faces are of the labelled domain, so
    that choosing among rounds by them would choose against the others.

    Args:
        recipe: The settings.
        name: The recipe's registered name.
        data: Folders of annotated faces.
        out: The folder of the rounds.
        resume: Go on with what `out` holds, in the round in which it stopped.

    Raises:
        TrainingError: As `Run`; there are no unlabelled faces; or the epochs are not those that
            `out` was begun with.
        DataError: A folder is unusable, or no crop rule can be fitted.
        CheckpointError: A stored state cannot be used.
    """
    unlabelled = read_unlabelled(recipe.unlabelled)
    if not unlabelled:
        raise TrainingError("self-training needs unlabelled faces: --unlabelled FOLDER...")
    group = processes.join(recipe.device)
    faces = recipe.read(data)
    rule = recipe.rule or fitted_rule([f for part in faces.folders for f in part], recipe.growth)
    folder = out / "round0"
    torch.manual_seed(recipe.seed)  # the fresh weights
    _train(recipe.task(faces), recipe, name, folder, resume=resume)
    for number, halvings in enumerate(recipe.rounds, 1):
        _wait(group)  # until the first process has validated
        teacher, folder = folder / "best.safetensors", out / f"round{number}"
        if group.first and not (folder / "annotations.jsonl").exists():
            network, spec = read_source(teacher, Choices())
            points = predict_points(network, spec, rule, unlabelled, group.device)
            write_labels(folder, unlabelled, rule, points, recipe.layout)
        _wait(group)  # until it has labelled
        log.info("round %d of %d: labels of %s", number, len(recipe.rounds), teacher)
        of_round = replace(recipe, seed=round_seed(recipe.seed, number))
        torch.manual_seed(of_round.seed)
        task = recipe.round_task(faces, *read_labels(folder, recipe.layout), halvings)
        _train(task, of_round, name, folder, resume=(folder / "last.state.pt").exists())
    if group.first:
        best = folder / "best.safetensors"
        replace_file(out / best.name, lambda temporary: shutil.copyfile(best, temporary))


def round_seed(seed: int, number: int) -> int:
    """A round's own chance: other weights, crops and unlabelled faces than in other rounds."""
    return int(np.random.SeedSequence((seed, number)).generate_state(1)[0])


def _train(
    task: PipnetTask, recipe: SelfTrainingRecipe, name: str, folder: Path, *, resume: bool
) -> None:
    """Train, or go on training, one round."""
    last = folder / "last.safetensors"
    if resume and last.exists():
        begun = checkpoint.read(last).record["settings"]["epochs"]
        if begun != recipe.epochs:  # the rounds that follow have learnt from so many
            raise TrainingError(f"{folder} was begun with --epochs {begun}, got {recipe.epochs}")
    Run(task, recipe, name, folder, resume=resume).train()


def _wait(group: processes.Processes) -> None:
    group.sum(torch.zeros(1, device=group.device))
