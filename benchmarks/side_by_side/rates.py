"""How fast this machine multiplies matrices: what a convolution cannot beat."""

from __future__ import annotations

import numpy as np
from worker import Run

SIDE = 2048
FLOPS = 2 * SIDE**3
"""Of one product of two square matrices, multiplications and additions counted apart."""
SEED = 5


def numpy_product(*, threads: int) -> tuple[Run, str]:
    """float32 through numpy's BLAS, whose threads the environment limits."""
    a, b = _matrices()
    out = np.empty_like(a)

    def run() -> None:
        np.matmul(a, b, out=out)

    return run, f"numpy {np.__version__}, {SIDE} x {SIDE} float32"


def torch_product(*, threads: int) -> tuple[Run, str]:
    """float32 through PyTorch's BLAS."""
    import torch

    torch.set_num_threads(threads)
    a, b = map(torch.from_numpy, _matrices())
    out = torch.empty_like(a)

    def run() -> None:
        torch.mm(a, b, out=out)

    return run, f"PyTorch {torch.__version__}, {SIDE} x {SIDE} float32"


def _matrices() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(SEED)
    return (
        generator.standard_normal((SIDE, SIDE), np.float32),
        generator.standard_normal((SIDE, SIDE), np.float32),
    )


KINDS = {"numpy": numpy_product, "torch": torch_product}
