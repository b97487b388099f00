"""PIPNet in PyTorch, batch 1: from a uint8 crop to points, with the published decode."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from worker import Run

from facemark_export.networks.normalise import IMAGENET_MEAN, IMAGENET_STD
from facemark_export.networks.pipnet import build_pipnet
from facemark_sdk.decode.pip import nearest_neighbours, padded_opinions

SEED = 5
SIZE = 256
LANDMARKS, NEIGHBOURS = 98, 10


def crop_to_points(
    *, threads: int, ckpt: str, meanface: str, decode: str, compiled: bool = False
) -> tuple[Run, str]:
    """Input as COMPAT 1.2 says, network, and one of `DECODES`."""
    torch.set_num_threads(threads)
    network: Callable[[Tensor], tuple[Tensor, ...]] = _network(ckpt)
    if compiled:
        network = torch.compile(network)
    pairs = opinion_table(np.loadtxt(meanface).reshape(-1, 2))
    crop = np.random.default_rng(SEED).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    mean = torch.tensor(IMAGENET_MEAN).view(3, 1, 1) / 255
    std = torch.tensor(IMAGENET_STD).view(3, 1, 1) / 255

    def run() -> None:
        rgb = torch.from_numpy(np.ascontiguousarray(crop[..., ::-1].transpose(2, 0, 1)))
        image = rgb.float().div_(255).sub_(mean).div_(std)
        with torch.inference_mode():
            maps = [each[0] for each in network(image[None])]
            DECODES[decode](maps, pairs)

    return run, f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads"


def network(*, threads: int, ckpt: str) -> tuple[Run, str]:
    """The forward pass alone."""
    torch.set_num_threads(threads)
    loaded = _network(ckpt)
    image = torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(SEED))

    def run() -> None:
        with torch.inference_mode():
            loaded(image)

    return run, f"PyTorch {torch.__version__}"


def _network(ckpt: str) -> torch.nn.Module:
    network = build_pipnet("resnet18", LANDMARKS, NEIGHBOURS)
    network.load_state_dict(torch.load(ckpt, weights_only=True))
    return network.eval()


def made_up_face() -> np.ndarray:
    """(L, 2) mean face in 0..1: a lattice, shaken so that no two distances are equal, and where, as
    in the published ones, every landmark is somebody's neighbour.
    """
    rows = 7
    y, x = np.divmod(np.arange(LANDMARKS), LANDMARKS // rows)
    lattice = np.stack(((x + 1) / (LANDMARKS // rows + 1), (y + 1) / (rows + 1)), 1)
    return lattice + np.random.default_rng(SEED).uniform(-0.02, 0.02, lattice.shape)


def opinion_table(meanface: np.ndarray) -> Tensor:
    """(L, M) numbers i * C + j of the opinions about each landmark (COMPAT 1.3)."""
    return torch.tensor(padded_opinions(nearest_neighbours(meanface, NEIGHBOURS)))


def decode_gathered(maps: Sequence[Tensor], pairs: Tensor) -> np.ndarray:
    """COMPAT 1.4 for one face, all landmarks at a time: (L, 2) fractions of the crop."""
    return decode_batch([each[None] for each in maps], pairs)[0].numpy()


def decode_batch(maps: Sequence[Tensor], pairs: Tensor) -> Tensor:
    """The same for many, on whatever device the maps are: (N, L, 2) fractions of the crops."""
    cls, x, y, nb_x, nb_y = maps
    faces, landmarks, rows, columns = cls.shape
    best = cls.flatten(2).argmax(2)
    corner = torch.stack((best % columns, torch.div(best, columns, rounding_mode="floor")), -1)
    picked = [
        each.view(faces, landmarks, -1, rows * columns)
        .gather(3, best[..., None, None].expand(-1, -1, each.shape[1] // landmarks, 1))
        .squeeze(3)
        for each in (x, y, nb_x, nb_y)
    ]
    own = corner + torch.cat(picked[:2], 2)
    opinions = (corner[:, :, None] + torch.stack(picked[2:], -1)).view(faces, -1, 2)
    merged = torch.cat((own[:, :, None], opinions[:, pairs]), 2).mean(2)
    # by numbers: a tensor of them would be copied to the GPU in every run, and waited for
    return torch.stack((merged[..., 0] / columns, merged[..., 1] / rows), -1)


def decode_point_by_point(maps: Sequence[Tensor], pairs: Tensor) -> np.ndarray:
    """The same, one landmark after the other as COMPAT 1.4 words it."""
    cls, x, y, nb_x, nb_y = (each.numpy() for each in maps)
    landmarks, rows, columns = cls.shape
    count = len(nb_x) // landmarks
    own, opinions = [], []
    for i in range(landmarks):
        r, c = divmod(int(cls[i].argmax()), columns)
        own.append((c + x[i, r, c], r + y[i, r, c]))
        for k in range(i * count, (i + 1) * count):
            opinions.append((c + nb_x[k, r, c], r + nb_y[k, r, c]))
    merged = [
        np.mean([own[t], *(opinions[pair] for pair in row)], axis=0)
        for t, row in enumerate(pairs.tolist())
    ]
    return np.array(merged) / (columns, rows)


DECODES = {"gathered": decode_gathered, "point by point": decode_point_by_point}
KINDS = {"crop_to_points": crop_to_points, "network": network}
