"""The side-by-side benchmark counts operations, decodes and divides as it says."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import ROOT
from onnx import TensorProto, helper, numpy_helper
from test_pip_decode import loop_decode

sys.path.insert(0, str(ROOT / "benchmarks" / "side_by_side"))  # as Python does for the folder

from claims import Claim, claims
from eager import (
    LANDMARKS,
    NEIGHBOURS,
    decode_gathered,
    decode_point_by_point,
    made_up_face,
    opinion_table,
)
from field import (
    BOXES,
    BOXES_32,
    DEFAULT,
    FRAME_1,
    FRAME_4,
    FRAME_9,
    FRAME_32,
    MANY,
    MESH,
    NETWORK,
    NETWORK_32,
    NUMPY,
    PRODUCT,
    R18,
    RUNTIME,
)
from flops import count_flops
from rates import FLOPS
from small_networks import PFLD, YuNet, count_weights
from turns import Contender, Measured, Worker, quotient

from facemark_sdk.decode.pip import nearest_neighbours


def model_of(
    nodes: list[onnx.NodeProto], image: list[int | str], **constants: tuple[int, ...]
) -> onnx.ModelProto:
    """A graph from `image` to `out`, whose constants are ones of the shapes given."""
    graph = helper.make_graph(
        nodes,
        "some",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, image)],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.ones(s, np.float32), n) for n, s in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


def test_operations_of_a_convolution() -> None:
    nodes = [
        helper.make_node(
            "Conv", ["image", "w", "b"], ["mid"], strides=[2, 2], pads=[1, 1, 1, 1], group=2
        ),
        helper.make_node("Relu", ["mid"], ["out"]),
    ]
    model = model_of(nodes, ["N", 4, 10, 8], w=(6, 2, 3, 3), b=(6,))
    products = 0
    for _ in range(6 * 5 * 4):  # every output: 6 maps of 5 x 4
        products += 2 * 3 * 3  # half of the 4 input maps, 3 x 3 each
    assert count_flops(model) == 2 * products
    assert count_flops(model, {"N": 7}) == 7 * 2 * products


def test_operations_of_other_products() -> None:
    up = helper.make_node("ConvTranspose", ["image", "w"], ["out"], strides=[2, 2])
    assert count_flops(model_of([up], [1, 3, 5, 5], w=(3, 4, 2, 2))) == 2 * 75 * 4 * 2 * 2
    gemm = helper.make_node("Gemm", ["image", "w"], ["out"], transA=1, transB=1)
    assert count_flops(model_of([gemm], [7, 5], w=(3, 7))) == 2 * 5 * 3 * 7
    matmul = helper.make_node("MatMul", ["image", "w"], ["out"])
    assert count_flops(model_of([matmul], [2, 5, 7], w=(7, 3))) == 2 * 2 * 5 * 3 * 7


def test_operations_of_an_int8_graph_are_those_of_its_float_one() -> None:
    """QDQ: weights come through DequantizeLinear."""
    nodes = [
        helper.make_node("QuantizeLinear", ["w", "scale", "zero"], ["w8"]),
        helper.make_node("DequantizeLinear", ["w8", "scale", "zero"], ["w32"]),
        helper.make_node("Conv", ["image", "w32"], ["out"]),
    ]
    model = model_of(nodes, [1, 3, 8, 8], w=(5, 3, 1, 1), scale=())
    model.graph.initializer.append(numpy_helper.from_array(np.int8(0), "zero"))
    assert count_flops(model) == 2 * 5 * 8 * 8 * 3


def test_an_unknown_shape_is_an_error() -> None:
    conv = helper.make_node("Conv", ["image", "w"], ["out"])
    with pytest.raises(ValueError, match="unknown"):
        count_flops(model_of([conv], [1, 3, 8, 8]))


@pytest.mark.parametrize("decode", [decode_gathered, decode_point_by_point])
def test_the_eager_decodes_are_the_published_one(decode) -> None:
    rng = np.random.default_rng(3)
    face, grid = made_up_face(), 8
    rows = {"cls": 1, "x": 1, "y": 1, "nb_x": NEIGHBOURS, "nb_y": NEIGHBOURS}
    outputs = {
        name: rng.standard_normal((1, LANDMARKS * each, grid, grid)).astype(np.float32)
        for name, each in rows.items()
    }
    maps = [torch.from_numpy(each[0]) for each in outputs.values()]
    wanted, _ = loop_decode(outputs, nearest_neighbours(face, NEIGHBOURS))
    np.testing.assert_allclose(decode(maps, opinion_table(face)), wanted[0], atol=1e-5)


def test_small_networks_are_as_published() -> None:
    network = YuNet().eval()
    assert count_weights(network) == 75_856
    with torch.inference_mode():
        shapes = [tuple(each.shape[1:]) for each in network(torch.zeros(1, 3, 64, 96))]
        assert PFLD(98, 0.25).eval()(torch.zeros(2, 3, 112, 112)).shape == (2, 196)
    assert shapes == [(c, 64 // s, 96 // s) for s in (32, 16, 8) for c in (1, 1, 4, 10)]


def measured(*turns: list[float]) -> Measured:
    return Measured("", list(turns), [[value * 2 for value in turn] for turn in turns], {})


def test_quotients_are_of_the_same_rounds() -> None:
    """The second round was ten times as slow for both, the third for one of them."""
    above = measured([2, 2, 9], [20, 20, 30], [3, 3, 3])
    below = measured([1, 1, 1], [10, 11, 9], [10, 1, 10])
    assert quotient(above, below) == 2.0  # of 2, 2 and 0.3
    assert above.percentile(50) == 3
    assert above.cores == 2.0


def test_wishes_have_a_direction() -> None:
    assert Claim("", 1.5, 1.5, True, "x").met
    assert not Claim("", 1.4, 1.5, True, "x").met
    assert Claim("", 1.4, 1.5, False, "x").met


def test_wishes_of_what_did_not_run_are_left_out(tmp_path: Path) -> None:
    times = {(BOXES, DEFAULT): measured([3.0]), (BOXES, f"{MESH}, tracking"): measured([2.0])}
    (wish,) = claims(times, tmp_path / "r18.onnx", None)
    assert (wish.value, wish.met) == (1.5, True)


def test_rates_are_judged_by_each_library_that_ran(tmp_path: Path) -> None:
    conv = helper.make_node("Conv", ["image", "w"], ["out"])
    graph = model_of([conv], [1, 3, 8, 8], w=(4, 3, 1, 1))
    graph.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
    file = tmp_path / "r18.onnx"
    onnx.save(graph, file)
    seconds = FLOPS / 1e9  # at 1 GFLOP/s
    network = count_flops(file) / 1e6  # ms, at 1 GFLOP/s
    times = {
        (PRODUCT, NUMPY): measured([1e3 * seconds]),
        (PRODUCT, RUNTIME): measured([500 * seconds]),
        (NETWORK, R18): measured([network / 2]),
    }
    shares = {wish.said: wish.value for wish in claims(times, file, tmp_path / "int8.onnx")}
    assert shares == {
        "R18 fp32: share of ONNX Runtime's matrix-product rate": pytest.approx(100),
        "R18 fp32: share of numpy's matrix-product rate": pytest.approx(200),
    }


def test_a_wish_that_cannot_be_judged_for_another_reason_is_an_error(tmp_path: Path) -> None:
    names = (BOXES_32, NETWORK_32, FRAME_1, FRAME_4, FRAME_9, FRAME_32)
    times = {(MANY, name): measured([3.0]) for name in names}  # nothing timed inside the runs
    with pytest.raises(KeyError, match="around"):
        list(claims(times, tmp_path / "r18.onnx", None))


def test_a_contender_runs_in_turns_and_says_why_it_cannot() -> None:
    worker = Worker(Contender("", "", "rates", "numpy"), threads=1)
    try:
        answer = worker.turn(2)
        assert "numpy" in worker.said
        assert len(answer["wall"]) == len(answer["cpu"]) == 2
    finally:
        worker.close()
    with pytest.raises(RuntimeError, match=r"ModuleNotFoundError: .*nix"):
        Worker(Contender("", "", "nix", "none"), threads=1)
