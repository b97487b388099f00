"""Files that the contenders need and that no package brings, made once from seeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from eager import LANDMARKS, NEIGHBOURS, SIZE, made_up_face
from small_networks import PFLD, PFLD_SIZE, YuNet
from torch import nn

from facemark_export.export import export_checkpoint
from facemark_export.networks.pipnet import build_pipnet
from facemark_export.source import Choices
from facemark_sdk import FaceDetector, load_image
from facemark_sdk.bench import BUNDLED_FRAME
from facemark_sdk.image import Image
from facemark_sdk.models import DEFAULT_DETECTOR

SEED = 5
GRIDS = (2, 3)
"""Copies of the frame, columns and rows, in one of the same size: four and nine faces, for both of
which the detector looks at all sizes."""
CROWD = (8, 4)
TILE = 160
"""Pixels of a face's square in the crowd."""
YUNET_SIZES = ((640, 480), (320, 256))


@dataclass(frozen=True)
class Prepared:
    """Paths, and the box of the frame's face as our detector gives it."""

    ckpt: Path
    meanface: Path
    r18: Path
    pfld: dict[str, Path]
    yunet: dict[str, Path]
    frame: Path
    grids: list[Path]
    crowd: Path
    box: list[float]
    crowd_boxes: list[list[float]]


def prepare(folder: Path) -> Prepared:
    """Make what is not there yet.

    Args:
        folder: Where the files are kept from run to run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ckpt, meanface, r18 = (folder / name for name in ("r18.pth", "meanface.txt", "r18_98.onnx"))
    if not r18.exists():
        torch.manual_seed(SEED)
        torch.save(build_pipnet("resnet18", LANDMARKS, NEIGHBOURS).state_dict(), ckpt)
        meanface.write_text(" ".join(f"{value:.6f}" for value in made_up_face().ravel()))
        choices = Choices(name="pipnet_r18_98", meanface=meanface, layout="wflw98", size=SIZE)
        export_checkpoint(ckpt, r18, choices)
    pfld = {
        f"PFLD {width:g}x": _export(
            folder / f"pfld_{width}.onnx",
            lambda width=width: PFLD(LANDMARKS, width),
            (PFLD_SIZE, PFLD_SIZE),
        )
        for width in (1.0, 0.25)
    }
    yunet = {
        f"YuNet {width}x{height}": _export(
            folder / f"yunet_{width}x{height}.onnx", YuNet, (height, width)
        )
        for width, height in YUNET_SIZES
    }
    image = load_image(BUNDLED_FRAME)
    box = FaceDetector(DEFAULT_DETECTOR, backend="cpu")(image).boxes[0]
    grids, crowd = [folder / f"grid{side}.png" for side in GRIDS], folder / "crowd.png"
    for grid, side in zip(grids, GRIDS, strict=True):
        cv2.imwrite(str(grid), _grid(image, side))
    cv2.imwrite(str(crowd), _crowd(image, box))
    inner = (box - np.tile(_square(image, box)[:2], 2)) * (TILE / _square(image, box)[2])
    corners = [(TILE * x, TILE * y) for y in range(CROWD[1]) for x in range(CROWD[0])]
    return Prepared(
        ckpt,
        meanface,
        r18,
        pfld,
        yunet,
        BUNDLED_FRAME,
        grids,
        crowd,
        box.tolist(),
        [(inner + np.tile(corner, 2)).tolist() for corner in corners],
    )


def _export(path: Path, make: Callable[[], nn.Module], sides: tuple[int, int]) -> Path:
    if not path.exists():
        torch.manual_seed(SEED)
        image = torch.zeros(1, 3, *sides)
        torch.onnx.export(
            make().eval(), (image,), path, dynamo=True, external_data=False, verbose=False
        )
    return path


def _grid(image: Image, side: int) -> Image:
    """The frame in small, side x side times, in a frame of its size."""
    height, width = image.shape[:2]
    small = cv2.resize(image, (width // side, height // side), interpolation=cv2.INTER_AREA)
    tiled = np.tile(small, (side, side, 1))
    spare = ((0, height - tiled.shape[0]), (0, width - tiled.shape[1]), (0, 0))
    return np.asarray(np.pad(tiled, spare), np.uint8)


def _square(image: Image, box: np.ndarray) -> np.ndarray:
    """A square around the face, half as large again as its box: left, top, side."""
    side = min(1.5 * float((box[2:] - box[:2]).max()), *image.shape[:2])
    left, top = np.maximum((box[:2] + box[2:] - side) / 2, 0)
    return np.round([left, top, side])


def _crowd(image: Image, box: np.ndarray) -> Image:
    """32 times the face."""
    left, top, side = _square(image, box).astype(int)
    face = cv2.resize(
        image[top : top + side, left : left + side], (TILE, TILE), interpolation=cv2.INTER_AREA
    )
    return np.asarray(np.tile(face, (CROWD[1], CROWD[0], 1)), np.uint8)
