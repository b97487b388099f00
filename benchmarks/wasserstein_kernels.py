"""One half of a Sinkhorn iteration, by every way to sum over the ground cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from facemark_export.training.ground_kernels import EuclideanKernel, GroundKernel, SquaredKernel
from facemark_export.training.sinkhorn import SinkhornSettings, alternate
from facemark_export.training.wasserstein import log_softmax
from wasserstein_batch import seconds_of
from wasserstein_maps import drawn_pairs


class FftKernel:
    """`GroundKernel` of the distance by FFT, for comparison: what it loses is cut off."""

    def __init__(self, side: int, epsilon: float, dtype: torch.dtype, device: str) -> None:
        self.epsilon, self.double_side = epsilon, (2 * side, 2 * side)
        steps = torch.arange(2 * side, dtype=dtype, device=device)
        steps = torch.minimum(steps, 2 * side - steps)
        self.image = torch.fft.rfft2(torch.exp(-torch.hypot(steps[:, None], steps) / epsilon))

    def log_sums(self, logs: Tensor) -> Tensor:
        """See `GroundKernel`."""
        top = logs.amax((1, 2), keepdim=True)
        spectrum = torch.fft.rfft2(torch.exp(logs - top), s=self.double_side)
        sums = torch.fft.irfft2(spectrum * self.image, s=self.double_side)
        height, width = logs.shape[1:]
        return sums[:, :height, :width].clamp_min(torch.finfo(logs.dtype).tiny).log() + top


def kernel_rows(
    side: int, epsilons: tuple[float, ...], maps: int, device: str, converged: SinkhornSettings
) -> list[dict[str, Any]]:
    """Half an iteration at the solution: the potential's largest error in cells, and time."""
    pairs = drawn_pairs(side)
    log_p, log_q = log_softmax(pairs.logits)[0], pairs.log_q[0]
    where = torch.device(device)
    rows = []
    for epsilon in epsilons:
        of_p, of_q = alternate(log_p, log_q, replace(converged, epsilon=epsilon))
        logs = of_q / epsilon + log_q
        kinds: dict[str, tuple[Callable[[torch.dtype], GroundKernel], torch.dtype]] = {}
        for name, dtype in (("float32", torch.float32), ("float64", torch.float64)):
            kinds[f"matrix, {name}"] = (
                lambda d, e=epsilon: EuclideanKernel(side, side, e, 1.0, d, where),
                dtype,
            )
            kinds[f"FFT, {name}"] = (lambda d, e=epsilon: FftKernel(side, e, d, device), dtype)
        kinds["squared distance, float32"] = (
            lambda d, e=epsilon: SquaredKernel(side, side, e, 1.0, d, where),
            torch.float32,
        )
        for name, (build, dtype) in kinds.items():
            kernel = build(dtype)
            given = logs.to(device, dtype)
            many = given.repeat(-(-maps // len(given)), 1, 1)[:maps]
            row = {"epsilon": epsilon, "kernel": name}
            row["ms_a_map"] = (
                1e3 / maps * seconds_of(lambda k=kernel, m=many: k.log_sums(m), device)
            )
            if "squared" not in name:
                off = -epsilon * kernel.log_sums(given).double().cpu() - of_p
                row["off"] = float(off.abs().max())
            rows.append(row)
    return rows
