"""Export: the written file computes what the checkpoint does, or is not written at all."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import helper, numpy_helper
from safetensors.torch import save_file
from test_pip_decode import loop_decode

from facemark_export import checkpoint, export
from facemark_export.export import export_checkpoint
from facemark_export.graph import ExportGraph
from facemark_export.networks import build_network
from facemark_export.networks.architecture import Architecture, build
from facemark_export.parity import ParityError
from facemark_export.slim import slim
from facemark_export.source import Choices, read_source
from facemark_export.training.recipes import RECIPES
from facemark_export.training.recipes.heatmaps import HeatmapRecipe
from facemark_export.training.recipes.subpixel import SubpixelRecipe
from facemark_sdk import FaceDetector, LandmarkModel
from facemark_sdk.backends import create_backend
from facemark_sdk.decode.pip import OUTPUT_NAMES
from facemark_sdk.errors import CheckpointError, ImageError, ModelError
from facemark_sdk.spec import METADATA_KEY, CropRule, ModelSpec

SIZE = 96


def random_checkpoint(folder, spec):
    """Seeded weights with lively maps, under the names that facemark-train writes."""
    torch.manual_seed(7)
    network = build_network(spec)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.2, 0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    for name, parameter in network.named_parameters():
        if "_layer.weight" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    path = folder / f"{spec.name}.safetensors"
    checkpoint.write(path, network.state_dict(), spec, {"recipe": "test", "settings": {}})
    return path, network.eval()


def pip_spec(architecture, mean_face):
    recipe = dataclasses.replace(
        RECIPES["pipnet_lite0_68"][1], architecture=architecture, size=SIZE
    )
    return recipe.model_spec(np.asarray(mean_face))


@pytest.fixture(scope="module", params=["resnet18", "efficientnet_lite0"])
def exported(request, tmp_path_factory, mean_face):
    folder = tmp_path_factory.mktemp(request.param)
    spec = pip_spec(request.param, mean_face)
    ckpt, network = random_checkpoint(folder, spec)
    out = folder / "model.onnx"
    report = export_checkpoint(ckpt, out, Choices(name="mine", accuracy={"nme_percent": 3.2}))
    return ckpt, network, spec, out, report


def test_points_equal_torch_and_the_plain_loop(exported):
    _, network, spec, out, _ = exported
    model = LandmarkModel(out, backend="cpu", threads=1)
    for count in (1, 3, 17):
        crops = np.random.default_rng(count).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)
        mean, std = np.float32(spec.input.mean), np.float32(spec.input.std)
        x = (crops[..., ::-1].astype(np.float32) - mean) / std  # BGR to RGB, plainly
        with torch.inference_mode():
            maps = network(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
        outputs = {n: m.numpy() for n, m in zip(OUTPUT_NAMES, maps, strict=True)}
        points, scores = loop_decode(outputs, spec.decoder_params["neighbours"])
        found = model.predict_crops(crops)
        assert np.abs(found.points - points * SIZE).max() < 0.05
        assert np.abs(found.scores - scores).max() < 1e-3


def test_the_file_describes_itself(exported):
    _, _, spec, out, _ = exported
    model = onnx.load(out)
    assert [entry.key for entry in model.metadata_props] == [METADATA_KEY]
    stored = ModelSpec.from_json(model.metadata_props[0].value)
    assert stored.name == "mine"
    assert stored.accuracy == {"nme_percent": 3.2}
    assert len(stored.source_sha256) == 64
    assert stored.decoder_params == spec.decoder_params
    assert stored.input == spec.input
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    operators = [node.op_type for node in model.graph.node]
    assert operators.count("BatchNormalization") == 1  # the image's; the network's are folded
    assert "Pad" not in operators


def test_the_report_lies_beside_the_file(exported):
    _, _, _, out, report = exported
    stored = json.loads((out.parent / "model.onnx.report.json").read_text())
    assert stored["passed"] is True
    assert (stored["structured_images"], stored["photos"]) == (21, 0)
    check = stored["fp32"]
    assert check["largest_px"] == report.checks["fp32"].largest_px <= 0.05
    assert check["tolerance"]["px"] == 0.05
    assert (check["images"], check["points"]) == (21, 21 * 68)
    assert check["argmax_flips"] == len(check["flip_margins"])


def test_a_file_that_computes_something_else_is_not_written(tmp_path, mean_face, monkeypatch):
    ckpt, _ = random_checkpoint(tmp_path, pip_spec("resnet18", mean_face))
    honest = export.network_model

    def shifted(graph, spec):
        with torch.no_grad():
            graph.network.x_layer.bias += 0.05  # a twentieth of a cell: 1.6 px
        return honest(graph, spec)

    monkeypatch.setattr(export, "network_model", shifted)
    out = tmp_path / "model.onnx"
    out.write_bytes(b"an earlier file")
    with pytest.raises(ParityError, match="differ by"):
        export_checkpoint(ckpt, out)
    assert out.read_bytes() == b"an earlier file"
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([ckpt.name, out.name])


def test_a_detector_takes_any_multiple_of_its_stride(tmp_path):
    spec = RECIPES["retinaface_mnet025"][1].spec()
    ckpt, network = random_checkpoint(tmp_path, spec)
    out = tmp_path / "detector.onnx"
    export_checkpoint(ckpt, out, Choices(det_size=320))
    backend = create_backend("cpu", out)
    graph = ExportGraph(network, spec).eval()
    for shape in ((1, 32, 32, 3), (2, 96, 160, 3), (3, 64, 32, 3)):
        image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        outputs = backend.run({"image": image})
        with torch.inference_mode():
            expected = graph(torch.from_numpy(image))
        for name, tensor in zip(graph.outputs, expected, strict=True):
            np.testing.assert_allclose(outputs[name], tensor.numpy(), atol=1e-3)
        assert (outputs["scores"] >= 0).all()
        assert (outputs["scores"] <= 1).all()
    detector = FaceDetector(out, backend="cpu")
    assert detector.det_size == 320
    detector(np.zeros((50, 333, 3), np.uint8))


def test_another_crop_rule_goes_into_the_spec(tmp_path, mean_face):
    ckpt, _ = random_checkpoint(tmp_path, pip_spec("resnet18", mean_face))
    rule = CropRule(0.1, -0.2, 0.1, 0.05, square=True)
    export_checkpoint(ckpt, tmp_path / "model.onnx", Choices(crop=rule))
    assert LandmarkModel(tmp_path / "model.onnx", backend="cpu").spec.crop == rule


SMALL = {"family": "mapnet", "architecture": "mobilenet_v2", "size": 64, "imagenet": False}
HOT = HeatmapRecipe(**SMALL, softmax_temperature=20.0)
WINDOWED = SubpixelRecipe(**SMALL, temperature=7.0)


@pytest.mark.parametrize(
    ("recipe", "decoder", "temperature"),
    [
        (HOT, None, 20.0),
        (HOT, "barycentre_sum", 20.0),
        (HOT, "local_soft_argmax", None),
        (WINDOWED, None, 7.0),
        (WINDOWED, "barycentre", None),
        (WINDOWED, "quarter_shift", 7.0),
    ],
)
def test_a_temperature_goes_with_the_softmax_that_it_is_of(tmp_path, recipe, decoder, temperature):
    """tau of a window of Gaussians' values is none of a whole map's logits, nor the reverse."""
    ckpt, _ = random_checkpoint(tmp_path, recipe.model_spec())
    _, spec = read_source(ckpt, Choices(decoder=decoder))
    assert spec.decoder == (decoder or recipe.model_spec().decoder)
    assert spec.decoder_params.get("temperature") == temperature
    assert spec.decoder_params["origin"] == 0.5


@pytest.mark.parametrize("scale", [0.0, -1.0, 1e-4, 2e3, float("nan"), float("inf")])
def test_a_covariance_scale_out_of_range_is_refused_at_export(tmp_path, scale):
    ckpt, _ = random_checkpoint(tmp_path, HOT.model_spec())
    with pytest.raises(ModelError, match=r"covariance_scale .* from 0\.001 to 1000"):
        export_checkpoint(ckpt, tmp_path / "model.onnx", Choices(covariance_scale=scale))
    assert not (tmp_path / "model.onnx").exists()


def test_a_covariance_scale_of_a_decoder_without_covariances_is_refused(tmp_path):
    ckpt, _ = random_checkpoint(tmp_path, WINDOWED.model_spec())
    with pytest.raises(ModelError, match="covariance_scale is for decoder barycentre"):
        read_source(ckpt, Choices(covariance_scale=2.0))


@pytest.mark.parametrize(
    "architecture",
    [
        Architecture("mapnet", "mobilenet_v2", 68, stride=4),
        Architecture("hrnet", "hrnetv2_w18_coordconv", 68),
        Architecture("hih", "mobilenet_v2", 68, offset_size=8),
    ],
    ids=str,
)
def test_bare_weights_of_networks_that_only_we_make_need_the_file_that_says_what_they_are(
    tmp_path, architecture
):
    torch.save(build(architecture).state_dict(), tmp_path / "bare.pth")
    message = rf"bare\.pth: .*{architecture.name}.*pass the best\.safetensors"
    with pytest.raises(CheckpointError, match=message):
        read_source(tmp_path / "bare.pth", Choices())


def test_weights_that_do_not_fit_their_spec_are_refused(tmp_path, mean_face):
    ckpt, network = random_checkpoint(tmp_path, pip_spec("resnet18", mean_face))
    weights = network.state_dict()
    weights.pop("x_layer.bias")
    checkpoint.write(ckpt, weights, pip_spec("resnet18", mean_face), {})
    with pytest.raises(CheckpointError, match=r"x_layer\.bias"):
        export_checkpoint(ckpt, tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_a_damaged_training_record_is_refused(tmp_path, mean_face):
    spec = pip_spec("resnet18", mean_face)
    _, network = random_checkpoint(tmp_path, spec)
    metadata = {METADATA_KEY: spec.to_json(), "facemark_training": "{"}
    save_file(dict(network.state_dict()), tmp_path / "x.safetensors", metadata)
    with pytest.raises(CheckpointError, match="training record"):
        export_checkpoint(tmp_path / "x.safetensors", tmp_path / "x.onnx")


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no checkpoint"), (b"not safetensors", "safetensors"), (b"", "safetensors")],
)
def test_the_command_refuses_what_is_no_checkpoint(tmp_path, content, message):
    if content is not None:
        (tmp_path / "x.safetensors").write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-m", "facemark_export.cli", "--ckpt", "x.safetensors", "-o", "x.onnx"],
        check=False,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 1, done.stderr
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "x.onnx").exists()


def test_the_midpoint_reads_one_half_and_keeps_the_order(tmp_path):
    spec = RECIPES["retinaface_mnet025"][1].spec()
    _, network = random_checkpoint(tmp_path, spec)
    shifted = dataclasses.replace(
        spec, decoder_params={**spec.decoder_params, "score_midpoint": 0.9}
    )
    image = torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8)
    with torch.inference_mode():
        plain = ExportGraph(network, spec).eval()(image)[1]
        moved = ExportGraph(network, shifted).eval()(image)[1]
    odds = plain / (1 - plain) / 9  # odds of 9 to 1 become even
    torch.testing.assert_close(moved, odds / (1 + odds), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("midpoint", [0.0, 1.0, -1.0])
def test_impossible_midpoints_are_refused(tmp_path, midpoint):
    ckpt, _ = random_checkpoint(tmp_path, RECIPES["retinaface_mnet025"][1].spec())
    with pytest.raises(ModelError, match="score_midpoint"):
        export_checkpoint(ckpt, tmp_path / "model.onnx", Choices(score_midpoint=midpoint))


def test_a_detector_with_other_scores_is_not_written(tmp_path, monkeypatch):
    ckpt, _ = random_checkpoint(tmp_path, RECIPES["retinaface_mnet025"][1].spec())
    honest = export.network_model

    def scaled(graph, spec):
        graph.shift += 0.5
        return honest(graph, spec)

    monkeypatch.setattr(export, "network_model", scaled)
    with pytest.raises(ParityError, match="in scores"):
        export_checkpoint(ckpt, tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_photos_are_counted_and_must_be_photos(tmp_path, photo, exported):
    ckpt = exported[0]
    out = tmp_path / "model.onnx"
    # the bundled detector finds one face on it
    assert export_checkpoint(ckpt, out, photos=[photo, photo]).photos == 2
    (tmp_path / "x.jpg").write_text("no photo")
    with pytest.raises(ImageError, match=r"x\.jpg"):
        export_checkpoint(ckpt, tmp_path / "other.onnx", photos=[tmp_path / "x.jpg"])
    assert not (tmp_path / "other.onnx").exists()


def test_folded_normalisations_keep_the_names_of_weights():
    """`--init` reads weights by the network's names; of two layers that share them one keeps it."""
    rng = np.random.default_rng(0)
    floats = {
        "network.weight": rng.standard_normal((3, 3, 1, 1)),
        **{f"{kind}{i}": rng.uniform(1, 2, 3) for kind in "sbmv" for i in range(2)},
    }
    nodes = [
        node
        for i in range(2)
        for node in (
            helper.make_node("Conv", ["x", "network.weight"], [f"c{i}"], name=f"conv{i}"),
            helper.make_node(
                "BatchNormalization", [f"c{i}", *(k + str(i) for k in "sbmv")], [f"y{i}"]
            ),
        )
    ]
    image = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 3, 8, 8])
    outputs = [
        helper.make_tensor_value_info(f"y{i}", onnx.TensorProto.FLOAT, ["n", 3, 8, 8])
        for i in range(2)
    ]
    constants = [numpy_helper.from_array(np.float32(value), name) for name, value in floats.items()]
    graph = helper.make_graph(nodes, "two", [image], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    slimmed = slim(model)
    assert [node.op_type for node in slimmed.graph.node] == ["Conv", "Conv"]
    weights = [node.input[1] for node in slimmed.graph.node]
    assert len(set(weights)) == 2
    assert "network.weight" in weights
    x = rng.standard_normal((2, 3, 8, 8)).astype(np.float32)
    before, after = (
        ort.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]).run(
            None, {"x": x}
        )
        for m in (model, slimmed)
    )
    for was, now in zip(before, after, strict=True):
        np.testing.assert_allclose(now, was, rtol=1e-4, atol=1e-5)
