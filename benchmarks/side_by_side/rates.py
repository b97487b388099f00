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


def runtime_product(*, threads: int) -> tuple[Run, str]:
    """float32 through ONNX Runtime, whose kernels our networks run on."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    a, b = _matrices()
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["a", "b"], ["product"])],
        "product",
        [helper.make_tensor_value_info("a", TensorProto.FLOAT, a.shape)],
        [helper.make_tensor_value_info("product", TensorProto.FLOAT, a.shape)],
        [numpy_helper.from_array(b, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )

    def run() -> None:
        session.run(None, {"a": a})

    return run, f"ONNX Runtime {onnxruntime.__version__}, {SIDE} x {SIDE} float32"


def _matrices() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(SEED)
    return (
        generator.standard_normal((SIDE, SIDE), np.float32),
        generator.standard_normal((SIDE, SIDE), np.float32),
    )


KINDS = {"numpy": numpy_product, "torch": torch_product, "runtime": runtime_product}
