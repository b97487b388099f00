"""One run of a row: train, export with parity, judge the exported file through the SDK.

A row may be read by several decoders: each has an exported file of its own, proven like the first.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rows import LABELLED, OTHER, Row

from facemark_export.export import export_checkpoint
from facemark_export.source import Choices
from facemark_export.training.annotations import photo_of
from facemark_export.training.landmark_data import for_evaluation, read_faces, split_by_photo
from facemark_export.training.loop import Run, TrainingError
from facemark_export.training.recipes.self_training import SelfTrainingRecipe
from facemark_export.training.self_training import train_rounds
from facemark_sdk import LandmarkModel, get_layout
from facemark_sdk.evaluation import AnnotatedFace, Judged, Norm, judge, predict_faces, tight_boxes
from facemark_sdk.files import replace_file
from facemark_sdk.metrics import failure_rate, landmark_failure_rate, point_variance
from facemark_sdk.robustness import PROTOCOLS, Protocol

_EVERY = 8
"""Of the other set's faces, this many-th one is judged on."""
_HARDER = "afw"
"""The set with turned faces, whose NME is also stated by itself."""
LANDMARK_FAILURES = (0.05, 0.10, 0.15, 0.20)
"""Wasserstein paper, tables 2, 8, 9 and 10."""


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
        if _is_finished(result, row):
            return result
    else:
        logging.basicConfig(level=logging.WARNING)
        _train(row, seed, [data / name for name in LABELLED], folder)
    result = {"table": row.table, "row": row.name, "seed": seed}
    best = folder / "best.safetensors"
    result |= _judged(best, data)
    if row.readings:
        result["readings"] = {decoder: _judged(best, data, decoder) for decoder in row.readings}
    if row.perturbed:
        result["perturbed"] = _perturbed(best.with_suffix(".onnx"), data)
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


def _is_finished(result: dict[str, Any], row: Row) -> bool:
    """Whether all was judged that the row asks for; runs of older rows lack what they did not."""
    read = set(row.readings) <= set(result.get("readings", ()))
    return "nme_of_photos" in result and read and ("perturbed" in result or not row.perturbed)


def _judged(checkpoint: Path, data: Path, decoder: str | None = None) -> dict[str, Any]:
    """Figures of a checkpoint, exported, on held-out faces and on those of the other set.

    Args:
        checkpoint: Its exported file is written beside it.
        data: The folder of all data folders.
        decoder: What its maps are read with; None its own.
    """
    file = checkpoint.with_suffix(f".{decoder}.onnx" if decoder else ".onnx")
    report = export_checkpoint(checkpoint, file, Choices(decoder=decoder))
    model = LandmarkModel(file, backend="cpu", threads=1)
    held_out = _errors(model, _held_out(data))["clean"]
    other = _errors(model, _faces(data / OTHER, held_out=False)[::_EVERY])["clean"]
    harder = [face.set_name == _HARDER for face in held_out.faces]
    photos: dict[str, list[float]] = {}
    for face, nme in zip(held_out.faces, held_out.nme, strict=True):
        photo = f"{face.set_name}/{photo_of({'image': face.image})}"
        photos.setdefault(photo, []).append(round(100 * float(nme), 3))
    return {
        "decoder": model.spec.decoder,
        "parity_px": report.checks["fp32"].largest_px,
        "faces": len(held_out.faces),
        "nme": 100 * float(held_out.nme.mean()),
        "harder_nme": 100 * float(held_out.nme[harder].mean()),
        "failures": 100 * failure_rate(held_out.nme),
        "landmark_failures": _landmark_failures(held_out),
        "point_variance": 1e4 * point_variance(held_out.differences),
        "other_faces": len(other.faces),
        "other_nme": 100 * float(other.nme.mean()),
        "other_landmark_failures": _landmark_failures(other),
        "nme_of_photos": photos,
    }


def _perturbed(file: Path, data: Path) -> dict[Protocol, Any]:
    """Figures of an exported file on held-out faces made harder (Wasserstein, section 4.3)."""
    model = LandmarkModel(file, backend="cpu", threads=1)
    harder = [protocol for protocol in PROTOCOLS if protocol != "clean"]
    return {
        protocol: {
            "nme": 100 * float(judged.nme.mean()),
            "failures": 100 * failure_rate(judged.nme),
            "landmark_failures": _landmark_failures(judged),
        }
        for protocol, judged in _errors(model, _held_out(data), harder).items()
    }


def _errors(
    model: LandmarkModel, faces: list[AnnotatedFace], protocols: Sequence[Protocol] = ("clean",)
) -> dict[Protocol, Judged]:
    predictions = predict_faces(model, faces, tight_boxes, layout=model.layout, protocols=protocols)
    made = list(predictions)
    return {protocol: judge(made, protocol, Norm("inter-ocular")) for protocol in protocols}


def _landmark_failures(judged: Judged) -> dict[str, float]:
    """FR per landmark in %, by threshold."""
    return {f"{t:.2f}": 100 * landmark_failure_rate(judged.errors, t) for t in LANDMARK_FAILURES}


def _held_out(data: Path) -> list[AnnotatedFace]:
    return [face for name in LABELLED for face in _faces(data / name)]


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
