"""Rewritten graphs compute what they did: sizes as constants, pairs of pixels, copies, channels."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import onnx
import pytest
from conftest import detector_spec, opened
from foreign_models import save_detector
from onnx import TensorProto, helper, numpy_helper

from facemark_export import quantise
from facemark_export.constant_shapes import constant_shapes
from facemark_export.foreign import import_onnx
from facemark_export.onnx_file import load
from facemark_export.quantise import Quantiser
from facemark_export.quantise_equalise import equalise
from facemark_export.quantise_pairs import pair_pixels
from facemark_export.quantise_pixels import PLANES
from facemark_export.quantise_prepare import prepare
from facemark_export.quantise_upsample import copy_pixels

GREY = dataclasses.replace(
    detector_spec().input, channels="BGR", mean=(104.0, 117.0, 123.0), std=(1.0, 1.0, 1.0)
)
SPEC = dataclasses.replace(detector_spec(), input=GREY)
STEP = 32
CANVASES = [(1, 64, 96), (2, 96, 32), (3, 160, 224)]


def network(*, fixed=False):
    """A small pyramid: few channels, a depthwise layer, an upsampling that asks for its size."""
    rng = np.random.default_rng(3)
    held = {
        "mean": np.float32([104, 117, 123]).reshape(3, 1, 1),
        "first": rng.normal(0, 0.02, (8, 3, 3, 3)),
        "depthwise": rng.normal(0, 0.5, (8, 1, 3, 3)),
        "wide": rng.normal(0, 0.5, (16, 8, 1, 1)),
        "down": rng.normal(0, 0.1, (16, 16, 3, 3)),
        "head": rng.normal(0, 0.3, (4, 16, 1, 1)),
        "two": np.array([-1, 2]),
        **{f"{name}.bias": rng.normal(0, 0.1, 8) for name in ("first", "depthwise")},
    }
    held["first"][0] *= 30  # one channel that reaches far further
    node = helper.make_node
    pads = {"pads": [1, 1, 1, 1]}
    nodes = [
        node("Transpose", ["image"], ["planes"], perm=[0, 3, 1, 2]),
        node("Cast", ["planes"], ["cast"], to=TensorProto.FLOAT),
        node("Sub", ["cast", "mean"], ["centred"]),
        node("Conv", ["centred", "first", "first.bias"], ["a"], "first", strides=[2, 2], **pads),
        node("LeakyRelu", ["a"], ["b"], alpha=0.1),
        node("Conv", ["b", "depthwise", "depthwise.bias"], ["c"], "depthwise", group=8, **pads),
        node("LeakyRelu", ["c"], ["d"], alpha=0.1),
        node("Conv", ["d", "wide"], ["e"], "wide"),
        node("LeakyRelu", ["e"], ["f"], alpha=0.1),
        node("Conv", ["f", "down"], ["g"], "down", strides=[2, 2], **pads),
        node("LeakyRelu", ["g"], ["h"], alpha=0.1),
        node("Shape", ["h"], ["outer"], end=2),
        node("Shape", ["f"], ["inner"], start=2),
        node("Concat", ["outer", "inner"], ["size"], axis=0),
        node(
            "Resize",
            ["h", "", "", "size"],
            ["up"],
            coordinate_transformation_mode="asymmetric",
            mode="nearest",
            nearest_mode="floor",
        ),
        node("Add", ["f", "up"], ["sum"]),
        node("Concat", ["sum", "f"], ["both"], axis=1),
        node("Relu", ["both"], ["cut"]),
        node("Split", ["cut"], ["left", "right"], axis=1, num_outputs=2),
        node("Add", ["left", "right"], ["joined"]),
        node("Conv", ["joined", "head"], ["i"], "head"),
        node("Transpose", ["i"], ["last"], perm=[0, 2, 3, 1]),
        node("Shape", ["image"], ["batch"], end=1),
        node("Concat", ["batch", "two"], ["flat"], axis=0),
        node("Reshape", ["last", "flat"], ["out"]),
    ]
    kept = {k: v if v.dtype == np.int64 else v.astype(np.float32) for k, v in held.items()}
    sides = [64, 96] if fixed else ["height", "width"]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", *sides, 3])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["batch", "cells", 2])],
        [numpy_helper.from_array(value, name) for name, value in kept.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def canvas(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)


def run(model, image):
    session = opened(model)
    return session.run(None, {"image": image})[0]


def kinds(model):
    return Counter(node.op_type for node in model.graph.node)


def made():
    """A quantiser of the small network, and it."""
    model = constant_shapes(network(), SPEC)
    seen = [canvas(shape, seed) for seed, shape in enumerate(CANVASES)]
    return Quantiser(model, SPEC.input, seen, step=STEP), model


# --- sizes


def test_sizes_become_constants_and_nothing_else_changes():
    model, before = constant_shapes(network(), SPEC), network()
    onnx.checker.check_model(model, full_check=True)
    gone = kinds(before) - kinds(model)
    assert gone == Counter(Shape=3, Concat=2)
    assert not kinds(model) - kinds(before)
    held = {t.name: numpy_helper.to_array(t).tolist() for t in model.graph.initializer}
    by_kind = {node.op_type: node for node in model.graph.node}
    assert held[by_kind["Resize"].input[2]] == [1, 1, 2, 2]
    assert held[by_kind["Reshape"].input[1]] == [0, -1, 2]
    for shape in CANVASES:
        assert np.array_equal(run(model, canvas(shape)), run(before, canvas(shape)))


def test_a_network_of_one_size_is_left_alone():
    model = network(fixed=True)
    fixed = dataclasses.replace(SPEC, input=dataclasses.replace(GREY, width=96, height=64))
    assert constant_shapes(model, fixed) is model


def resize_of(model):
    return next(node for node in model.graph.node if node.op_type == "Resize")


def test_a_resize_by_another_rule_keeps_its_size():
    model = network()
    for setting in resize_of(model).attribute:
        if setting.name == "coordinate_transformation_mode":
            setting.s = b"half_pixel"
    assert len(resize_of(constant_shapes(model, SPEC)).input) == 4


def test_a_resize_that_leaves_its_mode_to_the_default_is_a_nearest_one():
    model = network()
    kept = [a for a in resize_of(model).attribute if a.name != "mode"]
    del resize_of(model).attribute[:]
    resize_of(model).attribute.extend(kept)
    changed = constant_shapes(model, SPEC)
    assert len(resize_of(changed).input) == 3
    assert np.array_equal(run(changed, canvas((2, 96, 32))), run(model, canvas((2, 96, 32))))


def test_another_projects_detector_which_states_no_stride_is_left_alone(tmp_path):
    source = save_detector(tmp_path / "det.onnx", 9, batch="N")
    import_onnx(source, tmp_path / "ours.onnx", notice=lambda text: None)
    model, spec = load(tmp_path / "ours.onnx")
    assert constant_shapes(model, spec) is model


# --- pairs


def test_pairs_of_pixels_give_what_pixels_did():
    prepared = prepare(constant_shapes(network(), SPEC), SPEC.input).model
    paired = pair_pixels(prepared, STEP)
    assert paired.layers == {"first", "depthwise", "wide"}
    assert kinds(paired.model) - kinds(prepared) == Counter(Transpose=2, Reshape=2)
    for shape in CANVASES:
        ours, theirs = run(paired.model, canvas(shape)), run(prepared, canvas(shape))
        np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max())


def test_in_int8_pairs_give_the_same_bits():
    quantiser, _ = made()
    paired = quantiser.model(quantiser.layers)
    quantiser._paired = None
    plain = quantiser.model(quantiser.layers)
    assert kinds(paired) != kinds(plain)
    for shape in CANVASES:
        assert np.array_equal(run(paired, canvas(shape)), run(plain, canvas(shape)))


@pytest.mark.parametrize("step", [1, 2, 6])
def test_widths_that_leave_pixels_over_are_not_paired(step):
    prepared = prepare(constant_shapes(network(), SPEC), SPEC.input).model
    assert pair_pixels(prepared, step) is None


def test_layers_that_share_a_bias_with_others_are_not_paired():
    model = prepare(constant_shapes(network(), SPEC), SPEC.input).model
    other = next(node for node in model.graph.node if node.name == "depthwise")
    first = next(node for node in model.graph.node if node.name == "first")
    other.input[2] = first.input[2]
    assert pair_pixels(model, STEP) is None


@pytest.mark.parametrize("name", ["a", "b", "d"])
def test_what_is_shown_is_not_paired(name):
    model = prepare(constant_shapes(network(), SPEC), SPEC.input).model
    model.graph.output.append(onnx.ValueInfoProto(name=name))
    assert pair_pixels(model, STEP) is None


def test_a_first_layer_in_float_gets_its_pixels_in_one_step():
    quantiser, model = made()
    written = quantiser.model(quantiser.layers[1:])
    assert {"Cast", "Sub"}.isdisjoint(kinds(written))
    fed = [node for node in written.graph.node if PLANES in node.input]
    assert {node.op_type for node in fed} == {"DequantizeLinear"}
    ours, theirs = run(written, canvas((1, 64, 96))), run(model, canvas((1, 64, 96)))
    assert np.abs(ours - theirs).mean() < 0.2 * np.abs(theirs).mean()  # 8 bits, random weights


# --- copies, shared ranges, channels


def test_integers_are_upsampled_by_copies(monkeypatch):
    quantiser, _ = made()
    written = quantiser.model(quantiser.layers)
    monkeypatch.setattr(quantise, "copy_pixels", lambda graph: None)
    before = quantiser.model(quantiser.layers)
    assert kinds(before)["Resize"] == 1
    assert kinds(written)["Resize"] == 0
    assert kinds(written)["Expand"] == 1
    for shape in CANVASES:
        assert np.array_equal(run(written, canvas(shape)), run(before, canvas(shape)))


def scales_of(model):
    """The scale of each activation's integers, by the float tensor they stand for."""
    held = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    return {
        node.input[0]: held[node.input[1]].item()
        for node in model.graph.node
        if node.op_type == "QuantizeLinear"
    }


def test_what_is_joined_and_cut_at_0_has_one_scale():
    quantiser, _ = made()
    scales = scales_of(quantiser.model(quantiser.layers))
    assert scales["sum"] == scales["cut"]
    assert scales["f"] != scales["cut"]  # others read it, too


def test_what_is_joined_but_shown_as_well_is_not_cut():
    model = constant_shapes(network(), SPEC)
    model.graph.output.insert(0, onnx.ValueInfoProto(name="sum"))
    image = canvas((1, 64, 96))
    quantiser = Quantiser(model, SPEC.input, [image], step=STEP)
    ours, theirs = run(quantiser.model(quantiser.layers), image), run(model, image)
    assert theirs.min() < 0
    assert ours.min() == pytest.approx(theirs.min(), rel=0.2)


def test_ranges_can_leave_out_the_batches_that_reach_farthest():
    calm = [canvas((1, 64, 96), seed) // 8 + 100 for seed in range(10)]
    wild = canvas((1, 64, 96), 10)
    quantiser = Quantiser(constant_shapes(network(), SPEC), SPEC.input, [*calm, wild], step=STEP)
    scales = [scales_of(quantiser.model(quantiser.layers))["f"]]
    for share in (0.9, 1.0):
        quantiser.take_ranges(share)
        scales.append(scales_of(quantiser.model(quantiser.layers))["f"])
    assert scales[0] == scales[2] > 2 * scales[1]


def test_upsampling_between_two_scales_is_left_alone():
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "one", "zero"], ["y"]),
        helper.make_node(
            "Resize",
            ["y", "", "scales"],
            ["z"],
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        ),
        helper.make_node("QuantizeLinear", ["z", "two", "zero"], ["out"]),
    ]
    held = {"one": np.float32(1), "two": np.float32(2), "zero": np.uint8(0)}
    held["scales"] = np.float32([1, 1, 2, 2])
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [1, 4, 2, 2])],
        [helper.make_tensor_value_info("out", TensorProto.UINT8, None)],
        [numpy_helper.from_array(np.array(v), k) for k, v in held.items()],
    )
    copy_pixels(graph)
    assert [node.op_type for node in graph.node] == ["DequantizeLinear", "Resize", "QuantizeLinear"]


def test_equal_channels_before_a_depthwise_layer_change_nothing_but_the_reach():
    model = prepare(constant_shapes(network(), SPEC), SPEC.input).model
    before = onnx.ModelProto()
    before.CopyFrom(model)
    equalise(model, [canvas((1, 64, 96))])
    changed = {
        a.name
        for a, b in zip(model.graph.initializer, before.graph.initializer, strict=True)
        if a != b
    }
    layers = {n.name: n for n in model.graph.node if n.op_type == "Conv"}
    first, depthwise = layers["first"], layers["depthwise"]
    assert changed == {*first.input[1:], depthwise.input[1]}
    for shape in CANVASES:
        ours, theirs = run(model, canvas(shape)), run(before, canvas(shape))
        np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max())
    model.graph.output.insert(0, onnx.ValueInfoProto(name=first.output[0]))
    reach = np.abs(run(model, canvas((1, 64, 96)))).max(axis=(0, 2, 3))
    np.testing.assert_allclose(reach, reach.max(), rtol=1e-4)
