"""int8: what is written, which layers stay in float, what is refused, what the report says."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys

import cv2
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from conftest import CROP, GRID, SHARED, detector_graph, landmark_spec, opened, save
from hypothesis import event, example, given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from test_export import pip_spec, random_checkpoint

from facemark_export import cli, onnx_file, precision, quantise_search
from facemark_export.export import export_checkpoint
from facemark_export.export_file import export_file
from facemark_export.making import Form
from facemark_export.precision import to_int8
from facemark_export.precision_data import Samples, read_samples
from facemark_export.precision_detection import Photos
from facemark_export.precision_landmarks import Crops, Placed
from facemark_export.quantise import Quantiser
from facemark_export.quantise_prepare import prepare
from facemark_export.training.annotations import is_held_out
from facemark_sdk import Detections, FaceDetector, LandmarkModel, load_image
from facemark_sdk.decode.pip import OUTPUT_NAMES
from facemark_sdk.errors import CheckpointError, DataError
from facemark_sdk.models import resolve_model
from facemark_sdk.spec import METADATA_KEY, InputSpec, ModelSpec

LIMIT = 5.0
FIRST_PHOTO = 76
"""From here on, four of the next forty are held out by the hash of their names."""
HURT = "second.weight"
PLAIN = InputSpec(CROP, CROP, "RGB", (127.0, 127.0, 127.0), (128.0, 128.0, 128.0))
IMAGENET = InputSpec(CROP, CROP, "RGB", (123.675, 116.28, 103.53), (58.4, 57.1, 57.4))


def network(pixels=PLAIN, *, hurting=False):
    """A PIPNet of three small layers and five heads; its second layer can hurt in int8.

    There one weight in each output channel is huge, but meets a channel that is always 0: in float
    it counts for nothing, in int8 the scale that it needs leaves nothing of the others.
    """
    rng = np.random.default_rng(5)
    weights = {"mean": np.float32(pixels.mean)[::-1], "std": np.float32(pixels.std)[::-1]}
    nodes = [
        helper.make_node("Cast", ["image"], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["cast", "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "std"], ["scaled"]),
        helper.make_node("Transpose", ["scaled"], ["bgr"], perm=[0, 3, 1, 2]),
        helper.make_node("Gather", ["bgr", "reversed"], ["rgb"], axis=1),
    ]
    weights["reversed"] = np.array([2, 1, 0])
    last, sides = "rgb", (("first", 3, 8), ("second", 8, 16), ("third", 16, 16))
    for name, taken, count in sides:
        weight = rng.normal(0, 1 / np.sqrt(9 * taken), (count, taken, 3, 3))
        bias = rng.normal(0, 0.2, count)
        if name == "first":
            weight[0], bias[0] = 0, 0
        if name == "second" and hurting:
            weight[:, 0, 1, 1] = 500
        weights[f"{name}.weight"] = weight.astype(np.float32)
        weights[f"{name}.bias"] = bias.astype(np.float32)
        steps = {"strides": [2, 2], "pads": [1, 1, 1, 1]}
        inputs = [last, f"{name}.weight", f"{name}.bias"]
        nodes.append(helper.make_node("Conv", inputs, [f"{name}.sum"], name=name, **steps))
        nodes.append(helper.make_node("Relu", [f"{name}.sum"], [f"{name}.out"]))
        last = f"{name}.out"
    pool = {"kernel_shape": [4, 4], "strides": [4, 4]}
    nodes.append(helper.make_node("AveragePool", [last], ["cells"], **pool))
    outputs = {}
    for name in OUTPUT_NAMES:
        channels = 68 * (3 if name.startswith("nb") else 1)
        weights[f"{name}.weight"] = rng.normal(0, 1, (channels, 16, 1, 1)).astype(np.float32)
        weights[f"{name}.bias"] = rng.normal(0.5, 0.1, channels).astype(np.float32)
        inputs = ["cells", f"{name}.weight", f"{name}.bias"]
        made = "scores" if name == "cls" else name
        nodes.append(helper.make_node("Conv", inputs, [made], name=name))
        outputs[name] = ["N", channels, GRID, GRID]
    weights["cell"] = 20 * np.eye(GRID**2, dtype=np.float32)[rng.integers(0, GRID**2, 68)]
    weights["cell"] = weights["cell"].reshape(1, 68, GRID, GRID)  # no two cells are nearly equal
    nodes.append(helper.make_node("Add", ["scores", "cell"], ["cls"]))
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", CROP, CROP, 3])],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.fixture(scope="module")
def spec(mean_face):
    return dataclasses.replace(landmark_spec(mean_face), input=PLAIN, licence="mine")


@pytest.fixture(scope="module")
def faces(photo):
    """Crops of one face, moved, turned, darker."""
    image, made = load_image(photo), []
    for i in range(24):
        turn = cv2.getRotationMatrix2D((225, 120), 6 * (i % 5) - 12, 0.7 + 0.05 * (i % 7))
        turn[:, 2] += CROP / 2 - np.array([225, 120]) + 3 * (i % 4)
        made.append(cv2.warpAffine(image, turn, (CROP, CROP)) * (0.5 + 0.02 * i))
    return np.clip(made, 0, 255).astype(np.uint8)


def counted(files, images):
    """Time as it would be if a layer in float took five times one in int8."""
    convolutions = [inputs_of_convolutions(onnx.load(path)).values() for path in files]
    return [sum(5.0 if weight is None else 1.0 for _, weight in c) for c in convolutions]


@pytest.fixture(autouse=True)
def no_clock(monkeypatch):
    """No test depends on how fast anything is."""
    for module in (quantise_search, precision):
        monkeypatch.setattr(module, "milliseconds", counted)


def run(model, images, level=ort.GraphOptimizationLevel.ORT_ENABLE_ALL):
    session = opened(model, level)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"image": images}), strict=True))


def crops_of(spec, faces, truth=None):
    affines = np.tile(np.eye(2, 3), (len(faces), 1, 1))
    return Crops(spec, faces, affines, truth, "drawn faces")


def samples_of(spec, faces, model, tmp_path):
    """All faces on all sides; the float network's points are the truth."""
    path = tmp_path / "fp32.onnx"
    onnx_file.save(model, spec, path)
    crops = crops_of(spec, faces, LandmarkModel(path, backend="cpu").predict_crops(faces).points)
    return Samples(crops, crops, crops)


def constants(model):
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def makers(model):
    return {name: node for node in model.graph.node for name in node.output}


def inputs_of_convolutions(model):
    """For each convolution, what its image and its weights are made by."""
    made = makers(model)
    return {
        node.name: [made.get(name) for name in node.input[:2]]
        for node in model.graph.node
        if node.op_type == "Conv"
    }


def flat(outputs):
    return np.concatenate([array.ravel() for array in outputs.values()])


def relative(outputs, reference):
    """Mean change over the mean size of what should be."""
    ours, theirs = flat(outputs), flat(reference)
    return np.abs(ours - theirs).mean() / np.abs(theirs).mean()


# --- what is written


def test_activations_are_uint8_and_weights_int8_with_a_scale_a_channel(faces):
    model = Quantiser(network(), PLAIN, [faces])
    written = model.model(model.layers)
    held = constants(written)
    found = inputs_of_convolutions(written)
    assert sorted(found) == sorted(["first", "second", "third", *OUTPUT_NAMES])
    for image, weight in found.values():
        assert image.op_type == weight.op_type == "DequantizeLinear"
        assert held[image.input[2]].dtype == np.uint8
        assert held[weight.input[0]].dtype == np.int8
        assert held[weight.input[1]].shape == held[weight.input[0]].shape[:1]
        assert (held[weight.input[2]] == 0).all()
    kinds = [node.op_type for node in written.graph.node]
    assert "Relu" not in kinds  # it is in the range
    assert {"Cast", "Sub", "Div", "Gather"}.isdisjoint(kinds)  # normalisation is in the weights
    onnx.checker.check_model(written, full_check=True)


def test_the_first_layer_gets_the_pixels_themselves(faces):
    model = Quantiser(network(), PLAIN, [faces])
    written = model.model(model.layers)
    (image, _), held = inputs_of_convolutions(written)["first"], constants(written)
    assert (held[image.input[1]], held[image.input[2]]) == (1.0, 127)
    planes = makers(written)[image.input[0]]
    pairs = makers(written)[planes.input[0]]  # of a row's pixels
    assert (planes.op_type, pairs.op_type, pairs.input[0]) == ("Transpose", "Reshape", "image")


@pytest.mark.parametrize("pixels", [PLAIN, IMAGENET], ids=["one grey", "a grey a channel"])
def test_it_computes_nearly_what_the_float_network_does(faces, pixels):
    model = Quantiser(network(pixels), pixels, [faces])
    assert relative(run(model.model(model.layers), faces), run(network(pixels), faces)) < 0.02


def test_layers_that_share_weights_get_their_own(faces):
    model = network()
    nodes = {node.name: node for node in model.graph.node}
    nodes["y"].input[1:] = nodes["x"].input[1:]
    quantiser = Quantiser(model, PLAIN, [faces])
    assert len({layer.name for layer in quantiser.layers}) == len(quantiser.layers)
    written = quantiser.model(quantiser.layers)
    weights = [weight.input[0] for _, weight in inputs_of_convolutions(written).values()]
    assert len(set(weights)) == len(weights)  # shared, they are not opened by a CPU without VNNI
    found = run(written, faces)
    assert relative(found, run(model, faces)) < 0.02
    np.testing.assert_array_equal(found["x"], found["y"])


def test_a_channel_of_next_to_no_weight_keeps_its_bias(faces):
    model = network()
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    for name, value in (("second.weight", 1e-9), ("second.bias", 1.5)):
        array = numpy_helper.to_array(held[name]).copy()
        array[4:8] = value
        held[name].CopyFrom(numpy_helper.from_array(array, name))
    quantiser = Quantiser(model, PLAIN, [faces])
    found = run(quantiser.model(quantiser.layers), faces)
    assert relative(found, run(model, faces)) < 0.02


def test_a_layer_behind_one_that_is_always_0_keeps_its_bias(faces):
    model = network()
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    low = np.full(16, -100, np.float32)
    held["second.bias"].CopyFrom(numpy_helper.from_array(low, "second.bias"))
    quantiser = Quantiser(model, PLAIN, [faces])
    assert relative(run(quantiser.model(quantiser.layers), faces), run(model, faces)) < 0.05


@pytest.mark.parametrize(
    ("pixels", "one_grey", "apart"),
    [(PLAIN, True, 0), (PLAIN, False, 0), (IMAGENET, False, 0.5), (IMAGENET, True, 10.5)],
)
def test_normalisation_in_the_weights_is_exact_but_for_the_border(faces, pixels, one_grey, apart):
    prepared = prepare(network(pixels), pixels, one_grey=one_grey)
    means = np.full(3, np.mean(pixels.mean)) if one_grey else pixels.mean[::-1]
    assert prepared.grey.tolist() == np.round(means).tolist()
    for model in (float_model := network(pixels), prepared.model):
        model.graph.output.append(
            helper.make_tensor_value_info("first.out", TensorProto.FLOAT, None)
        )
    ours, theirs = (run(m, faces)["first.out"] for m in (prepared.model, float_model))
    np.testing.assert_allclose(ours[..., 1:, 1:], theirs[..., 1:, 1:], atol=1e-4)
    # the border's grey is so far from the mean, on the nine pixels of a window, three channels
    largest = np.abs(constants(prepared.model)["first.weight"]).sum(axis=(1, 2, 3)).max()
    assert np.abs(ours - theirs).max() <= apart * largest + 1e-4


@given(
    kernel=st.sampled_from([(5, 5), (6, 6), (7, 7), (5, 7)]),
    pads=st.tuples(*[st.integers(0, 4)] * 4),
    sides=st.tuples(*[st.sampled_from([8, 10, 14])] * 2),
)
@example(kernel=(7, 7), pads=(3, 3, 3, 3), sides=(8, 10))
def test_a_large_first_kernel_of_stride_2_works_on_blocks_of_pixels(kernel, pads, sides):
    """Any kernel, padding and even size gives what it gave before."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Cast", ["image"], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["cast"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "w"], ["out"], "first", strides=[2, 2], pads=pads),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", *sides, 3])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["N", 4, "h", "w"])],
        [numpy_helper.from_array(rng.normal(size=(4, 3, *kernel)).astype(np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    pixels = InputSpec(sides[1], sides[0], "BGR", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    prepared = prepare(model, pixels).model
    strides = {
        tuple(a.ints) for n in prepared.graph.node for a in n.attribute if a.name == "strides"
    }
    event(f"blocks: {strides == {(1, 1)}}")
    if pads == (3, 3, 3, 3) and kernel == (7, 7):  # ResNet's
        assert strides == {(1, 1)}
    image = rng.integers(0, 256, (2, *sides, 3), np.uint8)
    expected = run(model, image)["out"]
    np.testing.assert_allclose(run(prepared, image)["out"], expected, rtol=1e-4, atol=1e-2)


def test_a_normalisation_that_is_not_the_specs_is_left_alone(faces):
    other = dataclasses.replace(PLAIN, channels="BGR")
    model = Quantiser(network(), other, [faces])
    written = model.model(model.layers)
    assert "Gather" in [node.op_type for node in written.graph.node]
    assert relative(run(written, faces), run(network(), faces)) < 0.02


def test_batch_normalisation_whose_input_is_asked_for_its_shape_is_fused():
    nodes = [
        helper.make_node("Cast", ["image"], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["cast"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "w", "b"], ["sum"]),
        helper.make_node("Shape", ["sum"], ["shape"]),
        helper.make_node("BatchNormalization", ["sum", *"gbmv"], ["normal"]),
        helper.make_node("Reshape", ["normal", "shape"], ["out"]),
    ]
    rng = np.random.default_rng(0)
    held = {name: rng.uniform(0.5, 1.5, 4).astype(np.float32) for name in "gbmv"}
    held["w"] = rng.normal(size=(4, 3, 1, 1)).astype(np.float32)
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 8, 8, 3])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 4, 8, 8])],
        [numpy_helper.from_array(value, name) for name, value in held.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    prepared = prepare(model, InputSpec(8, 8, "BGR", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))).model
    assert "BatchNormalization" not in [node.op_type for node in prepared.graph.node]
    image = rng.integers(0, 256, (1, 8, 8, 3), np.uint8)
    np.testing.assert_allclose(run(prepared, image)["out"], run(model, image)["out"], rtol=1e-4)


def test_tensorrts_form_is_symmetric_and_keeps_biases_in_float(faces):
    model = Quantiser(network(), PLAIN, [faces], symmetric=True)
    written = model.model(model.layers)
    held = constants(written)
    for node in written.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert held[node.input[2]].dtype == np.int8
            assert (held[node.input[2]] == 0).all()
        if node.op_type == "Conv":
            assert held[node.input[2]].dtype == np.float32
    assert relative(run(written, faces), run(network(), faces)) < 0.03


# --- which layers stay in float


def test_a_layer_in_float_is_float_in_onnx_runtime_too(faces):
    # which would make its weights int8 by one scale, as it lies between integers
    model = Quantiser(network(hurting=True), PLAIN, [faces])
    written = model.model([layer for layer in model.layers if layer.name != HURT])
    plainly = run(written, faces, ort.GraphOptimizationLevel.ORT_DISABLE_ALL)
    assert relative(run(written, faces), plainly) < 0.01
    assert relative(plainly, run(network(hurting=True), faces)) < 0.02


def test_the_search_keeps_the_one_layer_that_hurts_in_float(faces, spec, tmp_path):
    model = network(hurting=True)
    samples = samples_of(spec, faces, model, tmp_path)
    written, ladder = to_int8(model, spec, samples, LIMIT, symmetric=False, progress=print)
    search = ladder.search
    assert search.faster == ()
    assert search.kept == (HURT,)
    assert search.alone[0][0] == HURT
    assert search.alone[0][1] > 10 * search.alone[1][1]
    assert search.layers == len(search.alone) == 8
    assert [step.kept for step in search.steps] == [0, 1, 2, 4]  # half of them at most
    assert search.steps[0].loss > LIMIT > search.steps[1].loss
    assert search.steps[0].damage > 5 * search.steps[1].damage
    assert inputs_of_convolutions(written)["second"][1] is None  # a float constant
    assert relative(run(written, faces), run(model, faces)) < 0.02


def test_for_tensorrt_it_is_kept_too_and_nothing_is_timed(faces, spec, tmp_path, monkeypatch):
    monkeypatch.setattr(quantise_search, "milliseconds", None)
    model = network(hurting=True)
    samples = samples_of(spec, faces, model, tmp_path)
    written, ladder = to_int8(model, spec, samples, LIMIT, symmetric=True, progress=print)
    search = ladder.search
    assert (search.first_ms, search.faster, search.kept) == ((), (), (HURT,))
    assert search.alone[0][0] == HURT
    assert [(step.kept, step.time) for step in search.steps] == [(0, None), (1, None)]
    assert search.steps[0].loss > LIMIT > search.steps[1].loss
    assert inputs_of_convolutions(written)["second"][1] is None
    assert relative(run(written, faces), run(model, faces)) < 0.03
    plainly = run(written, faces, ort.GraphOptimizationLevel.ORT_DISABLE_ALL)
    assert relative(plainly, run(model, faces)) < 0.03


def test_for_tensorrt_no_more_is_measured_than_the_limit_needs(faces, spec, tmp_path):
    model = network()
    samples = samples_of(spec, faces, model, tmp_path)
    _, ladder = to_int8(model, spec, samples, LIMIT, symmetric=True, progress=print)
    search = ladder.search
    assert (search.kept, search.alone, len(search.steps)) == ((), (), 1)
    json.dumps(ladder.to_dict())


def test_the_search_keeps_nothing_where_nothing_hurts(faces, spec, tmp_path):
    model = network()
    samples = samples_of(spec, faces, model, tmp_path)
    _, ladder = to_int8(model, spec, samples, 5.0, symmetric=False, progress=print)
    assert ladder.search.kept == ()


def test_first_layers_that_are_faster_in_float_stay_so(faces, spec, tmp_path, monkeypatch):
    model, asked = network(), []

    def times(files, images):
        asked.append(len(files))
        return [1.0, 0.8, 0.79, *[1.0] * (len(files) - 3)] if len(files) > 3 else [1.0, 3.0]

    monkeypatch.setattr(quantise_search, "milliseconds", times)
    samples = samples_of(spec, faces, model, tmp_path)
    written, ladder = to_int8(model, spec, samples, 5.0, symmetric=False, progress=print)
    assert asked[0] == 7  # none to six
    assert ladder.search.faster == ("first.weight",)  # the second saves less than 3 %
    assert inputs_of_convolutions(written)["first"][1] is None


# --- how it is judged


def test_nme_and_flips_are_what_a_plain_loop_finds(spec):
    rng = np.random.default_rng(1)
    truth = rng.uniform(10, 100, (3, 68, 2)).astype(np.float32)
    crops = crops_of(spec, np.zeros((3, CROP, CROP, 3), np.uint8), truth)
    a, b = (truth + rng.normal(0, s, truth.shape).astype(np.float32) for s in (1, 2))
    cells = rng.integers(0, 16, (2, 3, 68))
    found = crops.compare(Placed(a, cells[0]), Placed(b, cells[1]))
    nme = {"a": 0.0, "b": 0.0, "shift": 0.0}
    for n in range(3):
        between = np.hypot(*(truth[n, 36] - truth[n, 45]))
        for point in range(68):
            nme["a"] += np.hypot(*(a[n, point] - truth[n, point])) / between / 204
            nme["b"] += np.hypot(*(b[n, point] - truth[n, point])) / between / 204
            ours = np.hypot(*(a[n, 36] - a[n, 45]))
            nme["shift"] += np.hypot(*(b[n, point] - a[n, point])) / ours / 204
    assert found.figures["nme_percent"] == pytest.approx(100 * nme["b"], rel=1e-4)
    assert found.loss == pytest.approx(100 * (nme["b"] - nme["a"]), rel=1e-4)
    assert found.damage == pytest.approx(100 * nme["shift"], rel=1e-4)
    flips = sum(x != y for x, y in zip(cells[0].ravel(), cells[1].ravel(), strict=True))
    assert found.figures["argmax_flips_share"] == flips / 204


def found_faces(*faces):
    """Detections of square faces: left, top, side, score."""
    boxes = np.float32([(x, y, x + side, y + side) for x, y, side, _ in faces]).reshape(-1, 4)
    kps = boxes[:, None, :2] + np.float32([[1, 1]] * 5)
    return Detections(boxes, np.float32([f[3] for f in faces]), kps.reshape(-1, 5, 2))


def test_a_lost_face_is_lost_precision_and_full_change(detector_file):
    spec = FaceDetector(detector_file, backend="cpu").spec
    truth = (np.float32([[0, 0, 50, 50], [100, 0, 150, 50]]), np.float32([[0, 0, 40, 40]]))
    photos = Photos(spec, (detector_file,) * 2, truth, "two photos")
    whole = [found_faces((0, 0, 50, 0.9), (100, 0, 50, 0.8)), found_faces((0, 0, 40, 0.7))]
    same = photos.compare(whole, whole)
    assert (same.loss, same.damage) == (0, 0)
    assert same.figures["recall_percent"] == 100
    lost = photos.compare(whole, [found_faces((0, 0, 50, 0.9)), whole[1]])
    assert lost.loss == pytest.approx(100 / 3)
    assert lost.damage == pytest.approx(100 / 3)
    # another score by 0.1, a box and its points moved by 5 px of 50: IoU 45/55
    moved = photos.compare(whole, [found_faces((5, 0, 50, 0.8), (100, 0, 50, 0.8)), whole[1]])
    assert moved.damage == pytest.approx(100 * (10 / 55 + 0.1 + 5 / 50) / 3, rel=1e-4)
    unsure = dataclasses.replace(photos, truth=None)  # what the float network finds is true then
    assert unsure.compare(whole, [found_faces(), whole[1]]).loss == pytest.approx(100 * 2 / 3)


def test_a_detector_is_judged_at_the_size_that_the_protocol_states(
    tmp_path, photo, detector_file, monkeypatch
):
    """Without the quick look, whose rule is for another threshold; calibration sees both."""
    spec = FaceDetector(detector_file, backend="cpu").spec
    params = {**spec.decoder_params, "det_size": 320, "quick_size": 160}
    quick = dataclasses.replace(spec, decoder_params=params)
    save(detector_graph(), quick, tmp_path / "quick.onnx")
    assert FaceDetector(tmp_path / "quick.onnx", backend="cpu").quick_size == 160
    looked, look = [], FaceDetector._look

    def watched(self, image, size, threshold=None):
        looked.append(size)
        return look(self, image, size, threshold)

    monkeypatch.setattr(FaceDetector, "_look", watched)
    photos = Photos(quick, (photo, photo), None, "two photos")
    photos.run(tmp_path / "quick.onnx")
    assert looked[0] == 320
    assert set(looked) <= {320, 160}  # half of it where it finds nothing
    assert looked == [320] * len(looked) or looked == [320, 160] * 2
    assert "det_size 320" in photos.protocol
    longer = [max(batch.shape[1:3]) for batch in photos.batches(1)]
    assert longer == [320, 160, 320, 160]
    assert {len(batch) for batch in photos.batches(8)} == {1}
    slow = dataclasses.replace(
        photos, spec=dataclasses.replace(quick, decoder_params={**params, "quick_size": None})
    )
    assert [max(batch.shape[1:3]) for batch in slow.batches(1)] == [320, 320]


@pytest.mark.parametrize(("rest", "sizes"), [(True, [10, 10, 4]), (False, [10, 10])])
def test_the_last_faces_are_left_out_only_where_a_batch_must_be_whole(spec, faces, rest, sizes):
    batches = list(crops_of(spec, faces).batches(10, rest=rest))
    assert [len(batch) for batch in batches] == sizes
    np.testing.assert_array_equal(np.concatenate(batches), faces[: sum(sizes)])


def test_ranges_are_seen_on_every_face(spec, faces, tmp_path, monkeypatch):
    seen = []

    class Watched(Quantiser):
        def __init__(self, model, pixels, calibration, *, symmetric, step):
            seen.append([len(batch) for batch in calibration])
            super().__init__(model, pixels, calibration, symmetric=symmetric, step=step)

    monkeypatch.setattr(precision, "Quantiser", Watched)
    model, some = network(), faces[:19]
    for batch in (None, 8):
        if batch is not None:
            model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = batch
            for output in model.graph.output:
                output.type.tensor_type.shape.dim[0].dim_value = batch
        samples = samples_of(spec, some[: 19 if batch is None else 16], model, tmp_path)
        samples = dataclasses.replace(samples, calibration=crops_of(spec, some))
        to_int8(model, spec, samples, 100, symmetric=True, progress=print)
    assert seen == [[8, 8, 3], [8, 8]]


def test_fewer_faces_than_a_fixed_batch_are_refused(spec, faces, tmp_path):
    model = network()
    samples = samples_of(spec, faces, model, tmp_path)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 32
    with pytest.raises(DataError, match=r"takes 32 images at once, there are 24 .*more photos"):
        to_int8(model, spec, samples, 100, symmetric=False, progress=print)
    few = crops_of(spec, faces[:5])
    with pytest.raises(DataError, match="takes 32 images at once, there are 5"):
        precision._one_run(model, few)


# --- the command


@pytest.fixture(scope="module")
def folder(tmp_path_factory, photo):
    return draw_folder(tmp_path_factory.mktemp("photos"), photo)


def draw_folder(root, photo):
    """40 photos of one face with points drawn by lot, some held out."""
    image, lines = load_image(photo)[:300, 80:380], []
    rng = np.random.default_rng(3)
    for i in range(FIRST_PHOTO, FIRST_PHOTO + 40):
        size = 0.6 + 0.01 * (i - FIRST_PHOTO)
        small = cv2.resize(image, None, fx=size, fy=size)
        cv2.imwrite(str(root / f"face{i:03}.png"), small)
        low, high = np.array([100, 70]), np.array([190, 190])
        points = rng.uniform(low, high, (68, 2)) * small.shape[0] / 300
        record = {"image": f"face{i:03}.png", "points": points.tolist(), "layout": "ibug68"}
        lines.append(json.dumps(record))
    (root / "annotations.jsonl").write_text("\n".join(lines))
    return root


@pytest.fixture
def fp32(tmp_path, spec):
    path = tmp_path / "fp32.onnx"
    onnx_file.save(network(), spec, path)
    return path


def command(monkeypatch, capsys, *arguments):
    """Exit status and what was said."""
    monkeypatch.setattr(sys, "argv", ["facemark-export", *map(str, arguments)])
    try:
        cli.main()
    except SystemExit as end:
        return end.code, capsys.readouterr().err
    return 0, capsys.readouterr().err


def test_int8_from_a_file_of_ours_keeps_its_spec_and_reports(
    fp32, folder, spec, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "int8.onnx"
    options = ("--precision", "int8", "--calibration", folder, "--max-loss", 5)
    assert command(monkeypatch, capsys, "--onnx", fp32, "-o", out, *options)[0] == 0
    model = LandmarkModel(out, backend="cpu")
    stored = model.spec
    assert stored.precision == "int8"
    assert stored.source_sha256 == hashlib.sha256(fp32.read_bytes()).hexdigest()
    assert stored.producer.startswith("facemark-export ")
    for kept in ("name", "decoder_params", "layout", "input", "crop", "licence"):
        assert getattr(stored, kept) == getattr(spec, kept)
    report = json.loads((tmp_path / "int8.onnx.report.json").read_text())
    assert (report["model"], report["source"]) == ("int8.onnx", "fp32.onnx")
    ladder = report["ladder"]
    assert sorted(ladder["rungs"]) == ["fp16", "fp32", "int8"]
    for rung in ladder["rungs"].values():
        assert {"nme_percent", "nme_loss_points", "argmax_flips_share"} <= set(rung)
        assert {"p50_ms", "time_over_fp32", "megabytes"} <= set(rung)
    assert ladder["max_loss"] == 5
    held_out = sum(is_held_out(f"face{i:03}") for i in range(FIRST_PHOTO, FIRST_PHOTO + 40))
    assert f"{held_out} faces, held-out photos of" in ladder["protocol"]
    assert set(ladder["search"]) >= {"alone", "steps", "kept", "faster", "first_ms"}
    assert stored.accuracy["nme_percent"] == ladder["rungs"]["int8"]["nme_percent"]
    photo = load_image(folder / "face080.png")
    found = model.predict(photo, [[20, 20, 120, 120]]).points
    reference = LandmarkModel(fp32, backend="cpu").predict(photo, [[20, 20, 120, 120]]).points
    assert np.abs(found - reference).mean() < 2


def test_int8_that_loses_too_much_is_refused(fp32, folder, tmp_path, monkeypatch, capsys):
    out = tmp_path / "int8.onnx"
    out.write_bytes(b"an earlier file")
    lost = precision.Compared(loss=0.31, damage=0.4, figures={"nme_percent": 4.0})
    monkeypatch.setattr(Crops, "compare", lambda self, reference, other: lost)
    options = ("--onnx", fp32, "-o", out, "--precision", "int8", "--calibration", folder)
    status, said = command(monkeypatch, capsys, *options)
    assert status == 1
    assert "int8 loses 0.31 points of NME" in said
    assert "allowed are 0.1" in said
    assert "--max-loss" in said
    assert out.read_bytes() == b"an earlier file"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fp32.onnx", "int8.onnx"]
    assert command(monkeypatch, capsys, *options, "--max-loss", 0.4)[0] == 0


def test_photos_without_annotations_are_measured_against_fp32(
    fp32, folder, spec, tmp_path, monkeypatch, capsys
):
    for path in folder.glob("*.png"):
        (tmp_path / "plain").mkdir(exist_ok=True)
        (tmp_path / "plain" / path.name).write_bytes(path.read_bytes())
    out = tmp_path / "int8.onnx"
    options = ("--onnx", fp32, "-o", out, "--precision", "int8")
    plain = ("--calibration", tmp_path / "plain")
    status, said = command(monkeypatch, capsys, *options, *plain, "--max-loss", 0)
    assert (status, out.exists()) == (1, False)
    assert "% mean shift of the points" in said
    assert command(monkeypatch, capsys, *options, *plain, "--max-loss", 20)[0] == 0
    ladder = json.loads((tmp_path / "int8.onnx.report.json").read_text())["ladder"]
    assert "nme_percent" not in ladder["rungs"]["int8"]
    assert ladder["rungs"]["int8"]["mean_shift_percent"] > 0


def test_no_photo_is_on_two_sides(folder, spec):
    samples = read_samples([folder], spec)
    parts = (samples.calibration, samples.search, samples.validation)
    sides = [{face.tobytes() for face in part.truth} for part in parts]
    assert not sides[0] & sides[1]
    assert not (sides[0] | sides[1]) & sides[2]
    assert sum(map(len, sides)) == 40


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--precision", "int8"], "needs --calibration"),
        (["--max-loss", "0.3"], "--max-loss is for --precision int8"),
        (["--precision", "int8", "--calibration", ".", "--max-loss", "-1"], "0 or more"),
        (["--precision", "int8", "--calibration", ".", "--layout", "ibug68"], "--layout: not with"),
    ],
)
def test_wrong_options_are_wrong_use(fp32, tmp_path, monkeypatch, capsys, options, message):
    status, said = command(monkeypatch, capsys, "--onnx", fp32, "-o", tmp_path / "x.onnx", *options)
    assert status == 2
    assert message in said


def test_too_few_photos_are_refused(fp32, folder, tmp_path):
    few = tmp_path / "few"
    few.mkdir()
    (few / "one.png").write_bytes((folder / "face080.png").read_bytes())
    with pytest.raises(DataError, match="at least 4 are needed"):
        export_file(fp32, tmp_path / "x.onnx", Form("int8", calibration=[few]))
    with pytest.raises(DataError, match="is no folder"):
        export_file(fp32, tmp_path / "x.onnx", Form("int8", calibration=[tmp_path / "nowhere"]))


def test_files_that_cannot_be_made_int8_are_refused(fp32, folder, spec, tmp_path):
    def refused(path, message):
        with pytest.raises(CheckpointError, match=message):
            export_file(path, tmp_path / "x.onnx", Form("int8", calibration=[folder]))

    other = tmp_path / "other.onnx"
    onnx.save(network(), other)
    refused(other, "no facemark spec yet")
    onnx_file.save(network(), dataclasses.replace(spec, precision="fp16"), other)
    refused(other, "is fp16 already")
    onnx_file.save(network(), dataclasses.replace(spec, decoder="graph"), other)
    refused(other, "decoder inside")
    other.write_bytes(b"no ONNX")
    refused(other, "damaged")
    refused(tmp_path / "nowhere.onnx", "cannot be read")
    with pytest.raises(CheckpointError, match="source itself"):
        export_file(fp32, fp32, Form("int8", calibration=[folder]))


def test_int8_from_a_checkpoint_with_the_decoder_inside(tmp_path, mean_face, folder, monkeypatch):
    monkeypatch.setattr(quantise_search, "PARTS", 2)
    monkeypatch.setattr(quantise_search, "FIRST", 0)
    ckpt, _ = random_checkpoint(tmp_path, pip_spec("resnet18", mean_face))
    out = tmp_path / "model.onnx"
    form = Form("int8", "graph", calibration=[folder], max_loss=50)
    report = export_checkpoint(ckpt, out, form=form)
    assert report.checks["fp32"].passed
    assert report.checks["decoder"].passed
    assert report.to_dict()["ladder"]["rungs"]["int8"]["nme_percent"] > 0
    model = onnx.load(out)
    assert "QuantizeLinear" in [node.op_type for node in model.graph.node]
    stored = ModelSpec.from_json(
        next(e.value for e in model.metadata_props if e.key == METADATA_KEY)
    )
    assert (stored.precision, stored.decoder) == ("int8", "graph")
    crops = np.zeros((2, stored.input.height, stored.input.width, 3), np.uint8)
    assert LandmarkModel(out, backend="cpu").predict_crops(crops).points.shape == (2, 68, 2)


def test_a_float_export_reports_its_rungs_where_faces_are_annotated(tmp_path, folder, mean_face):
    ckpt, _ = random_checkpoint(tmp_path, pip_spec("resnet18", mean_face))
    out = tmp_path / "model.onnx"
    report = export_checkpoint(ckpt, out, form=Form("fp16", calibration=[folder]))
    rungs = report.to_dict()["ladder"]["rungs"]
    assert sorted(rungs) == ["fp16", "fp32"]
    assert rungs["fp16"]["nme_percent"] == pytest.approx(rungs["fp32"]["nme_percent"], rel=0.02)


# --- the bundled models


def test_the_bundled_landmark_model_in_int8_stays_close(photo):
    path = resolve_model("pipnet_lite0_68")
    model = LandmarkModel(path, backend="cpu")
    image = load_image(photo)
    moved = [np.float32([170 + 4 * i, 60, 290, 185 + 3 * i]) for i in range(6)]
    crops, _ = model.crop([image], [np.stack(moved)])
    quantiser = Quantiser(onnx.load(path), model.spec.input, [crops])
    written = quantiser.model(quantiser.layers)
    points = model.decode(run(written, crops)).points
    shift = np.linalg.norm(points - model.predict_crops(crops).points, axis=-1)
    assert shift.mean() < 1.5  # pixels of 256
    assert len(written.SerializeToString()) < 0.3 * path.stat().st_size


@pytest.mark.shared
def test_the_bundled_detector_in_int8_finds_the_same_faces(tmp_path):
    path = resolve_model("retinaface_mnet025")
    spec = FaceDetector(path, backend="cpu").spec
    samples = read_samples([SHARED / "data" / "scenes"], spec)
    assert len(samples.validation) == 96
    few = dataclasses.replace(
        samples.validation,
        paths=samples.validation.paths[:12],
        truth=samples.validation.truth[:12],
    )
    canvases = list(samples.calibration.batches(1))[::7]  # full and quick looks
    quantiser = Quantiser(onnx.load(path), spec.input, canvases)
    out = tmp_path / "int8.onnx"
    onnx_file.save(quantiser.model(quantiser.layers), spec, out)
    found = few.compare(few.run(path), few.run(out))
    assert found.figures["recall_percent"] > 90
    assert found.damage < 15
