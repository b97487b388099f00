"""One run of a row: train, export with parity, judge the exported file through the SDK."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rows import LABELLED, OTHER, Row

from facemark_export.export import export_checkpoint
from facemark_export.training.annotations import photo_of
from facemark_export.training.landmark_data import for_evaluation, read_faces, split_by_photo
from facemark_export.training.loop import Run, TrainingError
from facemark_export.training.recipes.self_training import SelfTrainingRecipe
from facemark_export.training.self_training import train_rounds
from facemark_sdk import LandmarkModel, get_layout
from facemark_sdk.evaluation import AnnotatedFace, Judged, Norm, judge, predict_faces, tight_boxes
from facemark_sdk.files import replace_file
from facemark_sdk.metrics import failure_rate, point_variance

_EVERY = 8
"""Of the other set's faces, this many-th one is judged on."""
_HARDER = "afw"
"""The set with turned faces, whose NME is also stated by itself."""


def run_trial(row: Row, seed: int, data: Path, out: Path) -> dict[str, Any]:
    """Do what is not done yet of a run; its figures, also in ``result.json`` of its folder.

    Args:
        row: What to train.
        seed: Of all that is random.
        data: The folder of all data folders.
        out: The folder of all runs.

    Raises:
        TrainingError: The folder holds a run with other settings.
    """
    folder = out / row.key / f"seed{seed}"
    stored = folder / "result.json"
    settings = settings_of(row, seed)
    if stored.exists():
        result: dict[str, Any] = json.loads(stored.read_text())
        if result["settings"] != settings:
            raise TrainingError(
                f"{folder} holds a run with other settings; delete it or choose --out"
            )
        if "nme_of_photos" in result:
            return result
    else:
        logging.basicConfig(level=logging.WARNING)
        _train(row, seed, [data / name for name in LABELLED], folder)
    result = {"table": row.table, "row": row.name, "seed": seed}
    result |= _judged(folder / "best.safetensors", data)
    rounds = sorted(folder.glob("round*/best.safetensors"))
    result["rounds"] = [_judged(checkpoint, data)["nme"] for checkpoint in rounds]
    result["settings"] = settings
    text = json.dumps(result) + "\n"
    replace_file(stored, lambda temporary: temporary.write_text(text))
    return result


def settings_of(row: Row, seed: int) -> dict[str, Any]:
    """All settings of a run, as JSON holds them."""
    plain = {key: _plain(value) for key, value in asdict(row.seeded(seed)).items()}
    return dict(json.loads(json.dumps(plain)))


def _train(row: Row, seed: int, data: list[Path], folder: Path) -> None:
    recipe = row.seeded(seed)
    if isinstance(recipe, SelfTrainingRecipe):
        begun = (folder / "round0" / "last.state.pt").exists()
        train_rounds(recipe, row.key, data, folder, resume=begun)
        return
    torch.manual_seed(seed)
    begun = (folder / "last.state.pt").exists()
    Run(recipe.build(data), recipe, row.key, folder, resume=begun).train()


def _judged(checkpoint: Path, data: Path) -> dict[str, Any]:
    """Figures of a checkpoint, exported, on held-out faces and on those of the other set."""
    file = checkpoint.with_suffix(".onnx")
    report = export_checkpoint(checkpoint, file)
    model = LandmarkModel(file, backend="cpu", threads=1)
    held_out = _errors(model, [face for name in LABELLED for face in _faces(data / name)])
    other = _errors(model, _faces(data / OTHER, held_out=False)[::_EVERY])
    harder = [face.set_name == _HARDER for face in held_out.faces]
    photos: dict[str, list[float]] = {}
    for face, nme in zip(held_out.faces, held_out.nme, strict=True):
        photo = f"{face.set_name}/{photo_of({'image': face.image})}"
        photos.setdefault(photo, []).append(round(100 * float(nme), 3))
    return {
        "parity_px": report.checks["fp32"].largest_px,
        "faces": len(held_out.faces),
        "nme": 100 * float(held_out.nme.mean()),
        "harder_nme": 100 * float(held_out.nme[harder].mean()),
        "failures": 100 * failure_rate(held_out.nme),
        "point_variance": 1e4 * point_variance(held_out.differences),
        "other_faces": len(other.faces),
        "other_nme": 100 * float(other.nme.mean()),
        "nme_of_photos": photos,
    }


def _errors(model: LandmarkModel, faces: list[AnnotatedFace]) -> Judged:
    predictions = predict_faces(model, faces, tight_boxes, layout=model.layout)
    return judge(list(predictions), "clean", Norm("inter-ocular"))


def _faces(folder: Path, *, held_out: bool = True) -> list[AnnotatedFace]:
    """Faces of a folder, those that training holds out or all."""
    layout = get_layout("ibug68")
    faces = read_faces(folder, layout.name, layout.num_points)
    if held_out:
        _, faces = split_by_photo(faces)
    return for_evaluation(faces, folder, layout)


def _plain(value: object) -> object:
    """A setting as JSON can hold it; folders by their names."""
    if isinstance(value, Path):
        return value.name
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
