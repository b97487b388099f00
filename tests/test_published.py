"""Every published checkpoint form becomes an ONNX file that gives torch's own points.

The weights are seeded random tensors under the published names, written the way the authors'
programs write them; what is expected comes from torch and plain loops written from COMPAT.
"""

from __future__ import annotations

import collections
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from test_pip_decode import loop_decode, loop_neighbours

from facemark_export.export import export_checkpoint
from facemark_export.making import Form
from facemark_export.networks.architecture import Architecture, build
from facemark_export.source import Choices
from facemark_sdk import FaceDetector, LandmarkModel
from facemark_sdk.backends import create_backend
from facemark_sdk.errors import CheckpointError, LayoutError, ModelError

IMAGENET_MEAN = np.float32([0.485, 0.456, 0.406])
IMAGENET_STD = np.float32([0.229, 0.224, 0.225])


def pip(backbone, landmarks, stride=32, neighbours=10):
    return Architecture(
        "pipnet", backbone, landmarks=landmarks, neighbours=neighbours, stride=stride
    )


def hrnet(landmarks):
    return Architecture("hrnet", "hrnetv2_w18", landmarks=landmarks)


def hih(landmarks, stacks, offset_size):
    name = f"hourglass{stacks}"
    return Architecture("hih", name, landmarks=landmarks, stacks=stacks, offset_size=offset_size)


# the files of compat/keys, and a RetinaFace on ResNet-50; how each is written is the second entry
LANDMARK_FILES = {
    "pip_resnet18_WFLW98_s32_nb10": (pip("resnet18", 98), "bare"),
    "pip_resnet18_WFLW98_s32_nb5": (pip("resnet18", 98, neighbours=5), "bare"),
    "pip_resnet18_WFLW98_s16_nb10": (pip("resnet18", 98, 16), "bare"),
    "pip_resnet18_WFLW98_s64_nb10": (pip("resnet18", 98, 64), "bare"),
    "pip_resnet18_WFLW98_s128_nb10": (pip("resnet18", 98, 128), "bare"),
    "pip_resnet18_300W68_s32_nb10_legacyzip": (pip("resnet18", 68), "legacy"),
    "pip_resnet18_300W_CELEBA68_gssl_s32_nb10": (pip("resnet18", 68), "bare"),
    "pip_resnet18_COFW29_s32_nb10": (pip("resnet18", 29), "bare"),
    "pip_resnet18_AFLW19_s32_nb10": (pip("resnet18", 19), "bare"),
    "pip_resnet18_LaPa106_s32_nb10": (pip("resnet18", 106), "bare"),
    "pip_resnet50_WFLW98_s32_nb10": (pip("resnet50", 98), "bare"),
    "pip_resnet50_300W68_s32_nb10": (pip("resnet50", 68), "bare"),
    "pip_resnet101_WFLW98_s32_nb10": (pip("resnet101", 98), "bare"),
    "pip_resnet101_300W68_s32_nb10": (pip("resnet101", 68), "bare"),
    "pip_mobilenetv2_WFLW98_s32_nb10": (pip("mobilenet_v2", 98), "bare"),
    "pip_mobilenetv2_300W68_s32_nb10": (pip("mobilenet_v2", 68), "bare"),
    "pip_mobilenetv3_WFLW98_s32_nb10": (pip("mobilenet_v3_large", 98), "bare"),
    "pip_mobilenetv3_300W68_s32_nb10": (pip("mobilenet_v3_large", 68), "bare"),
    "hrnet_w18_WFLW98": (hrnet(98), "bare"),
    "hrnet_w18_300W68": (hrnet(68), "module."),
    "hrnet_w18_COFW29": (hrnet(29), "wrapped"),
    "hrnet_w18_AFLW19": (hrnet(19), "legacy"),
    "hih_WFLW98_stack1_o8": (hih(98, 1, 8), "wrapped"),
    "hih_WFLW98_stack2_o8": (hih(98, 2, 8), "wrapped"),
    "hih_WFLW98_stack2_o4": (hih(98, 2, 4), "wrapped"),
    "hih_WFLW98_stack4_o8": (hih(98, 4, 8), "wrapped"),
    "hih_300W68_stack2_o8": (hih(68, 2, 8), "wrapped"),
    # any number of landmarks and neighbours
    "pip_resnet18_20_s32_nb3": (pip("resnet18", 20, neighbours=3), "bare"),
}
DETECTOR_FILES = {
    "retinaface_mnet025": (Architecture("retinaface", "mobilenet0.25", landmarks=5), "module."),
    "retinaface_resnet50": (Architecture("retinaface", "resnet50", landmarks=5), "wrapped"),
}


def random_network(architecture, seed=3):
    """Lively maps: no layer's output grows or dies."""
    generator = torch.Generator().manual_seed(seed)
    network = build(architecture)

    def normal(tensor, std):
        tensor.data.copy_(torch.randn(tensor.shape, generator=generator) * std)

    def uniform(tensor, low, high):
        tensor.data.copy_(low + (high - low) * torch.rand(tensor.shape, generator=generator))

    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            uniform(module.weight, 0.3, 0.9)
            normal(module.bias, 0.2)
            normal(module.running_mean, 0.2)
            uniform(module.running_var, 0.6, 1.4)
        elif isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d | torch.nn.Linear):
            normal(module.weight, float(np.sqrt(2 / module.weight[0].numel())))
            if module.bias is not None:
                normal(module.bias, 0.1)
    return network.eval()


def write_like_its_authors(network, form, path):
    state = collections.OrderedDict(network.state_dict())
    if form == "module.":
        state = collections.OrderedDict((f"module.{name}", t) for name, t in state.items())
    if form == "wrapped":
        state = {"state_dict": state, "best_nme": {"epoch": 3}, "optimizer": {}, "epoch": 3}
    torch.save(state, path, _use_new_zipfile_serialization=form != "legacy")


def write_meanface(landmarks, path):
    """Upstream's file: one line, x0 y0 x1 y1 ..., no newline at its end."""
    points = np.random.default_rng(landmarks).uniform(0.1, 0.9, (landmarks, 2)).round(6)
    path.write_text(" ".join(str(v) for v in points.ravel()))
    return points


def some_crops(count, size=256):
    rng = np.random.default_rng(11)
    crops = rng.integers(0, 256, (count, size, size, 3), np.uint8)
    for i in range(1, count, 2):
        crops[i] = cv2.normalize(
            cv2.GaussianBlur(crops[i], (0, 0), 6), None, 0, 255, cv2.NORM_MINMAX
        )
    return crops


def torch_maps(network, crops):
    """The network on crops as upstream prepares them (COMPAT 1.2, 2.2, 3.2)."""
    x = (crops[..., ::-1].astype(np.float32) / 255 - IMAGENET_MEAN) / IMAGENET_STD
    with torch.inference_mode():
        outputs = network(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
    return [o.numpy() for o in (outputs if isinstance(outputs, tuple) else (outputs,))]


def is_clear(plane, *pairs):
    """Whether rounding cannot change the best cell, nor which value of each pair is larger."""
    second, first = np.sort(plane, axis=None)[-2:]
    gaps = [first - second, abs(first), *(abs(a - b) for a, b in pairs)]
    return min(gaps) > 1e-5 * np.ptp(plane)


def loop_hrnet(heatmaps):
    """COMPAT 2.3, sub-pixel, for centre (128, 128) and h = 256; and where rounding has no say."""
    points = np.zeros((*heatmaps.shape[:2], 2))
    clear = np.zeros(heatmaps.shape[:2], bool)
    for n, i in np.ndindex(*heatmaps.shape[:2]):
        hm = heatmaps[n, i].astype(np.float64)
        height, width = hm.shape
        r, c = divmod(int(hm.argmax()), width)
        clear[n, i] = is_clear(hm)
        if hm.max() <= 0:
            x = y = 0.0
        else:
            x, y = c + 1.0, r + 1.0
            if 1 <= c <= width - 2 and 1 <= r <= height - 2:
                x += 0.25 * np.sign(hm[r, c + 1] - hm[r, c - 1])
                y += 0.25 * np.sign(hm[r + 1, c] - hm[r - 1, c])
                across, down = hm[r, [c - 1, c + 1]], hm[[r - 1, r + 1], c]
                clear[n, i] &= is_clear(hm, across, down)
        points[n, i] = [(v + 0.5 - 1) * 256 / 64 + 128 - 256 / 2 + 1 for v in (x, y)]
    return points, clear


def loop_hih(heatmaps, offsets):
    """COMPAT 3.2: the last stack; both maps give cell 0 where nothing is above 0."""
    heatmaps, offsets = heatmaps[:, -1], offsets[:, 0]

    def cell(plane):
        r, c = divmod(int(plane.argmax()), plane.shape[1])
        return np.array([c, r]) if plane.max() > 0 else np.zeros(2)

    points = np.zeros((*heatmaps.shape[:2], 2))
    clear = np.zeros(heatmaps.shape[:2], bool)
    for n, i in np.ndindex(*heatmaps.shape[:2]):
        points[n, i] = cell(heatmaps[n, i]) + cell(offsets[n, i]) / offsets.shape[-1]
        clear[n, i] = is_clear(heatmaps[n, i]) and is_clear(offsets[n, i])
    return points * 4, clear


def expected_points(architecture, network, crops, mean_face):
    """(N, L, 2) in crop units, and (N, L) where the network's own rounding cannot change them."""
    maps = torch_maps(network, crops)
    if architecture.family == "pipnet":
        outputs = dict(zip(("cls", "x", "y", "nb_x", "nb_y"), maps, strict=True))
        neighbours = loop_neighbours(mean_face, architecture.neighbours)
        clear = np.ones((len(crops), architecture.landmarks), bool)
        return loop_decode(outputs, neighbours)[0] * crops.shape[1], clear
    return loop_hrnet(maps[0]) if architecture.family == "hrnet" else loop_hih(*maps)


# one of each kind, so that the options are tried on every family
KINDS = {
    "pip": pip("resnet18", 29, neighbours=4),
    "hrnet": hrnet(19),
    "hih": hih(29, 1, 8),
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request, tmp_path_factory):
    """A published checkpoint of each family: its folder, architecture, network and mean face."""
    folder = tmp_path_factory.mktemp(request.param)
    architecture = KINDS[request.param]
    network = random_network(architecture)
    write_like_its_authors(network, "bare", folder / "epoch59.pth")
    mean_face = None
    if architecture.family == "pipnet":
        mean_face = write_meanface(architecture.landmarks, folder / "meanface.txt")
    return folder, architecture, network, mean_face


def choices_for(kind):
    folder, _, _, mean_face = kind
    return Choices(meanface=None if mean_face is None else folder / "meanface.txt")


def test_the_decoder_in_the_graph_gives_the_same_points(kind):
    folder, architecture, network, mean_face = kind
    out = folder / "graph.onnx"
    report = export_checkpoint(folder / "epoch59.pth", out, choices_for(kind), Form(decode="graph"))
    assert report.checks["decoder"].largest_px <= 1e-3
    names = [tensor.name for tensor in create_backend("cpu", out).outputs]
    assert names == ["points", "scores"]
    assert [(o.domain, o.version) for o in onnx.load(out).opset_import] == [("", 18)]
    model = LandmarkModel(out, backend="cpu", threads=2)
    assert (model.spec.decoder, model.spec.decoder_params["decoder"]) == (
        "graph",
        {"pipnet": "pip", "hrnet": "quarter_shift", "hih": "hih"}[architecture.family],
    )
    for count in (1, 3, 17):
        crops = some_crops(count)
        found = model.predict_crops(crops)
        expected, clear = expected_points(architecture, network, crops, mean_face)
        assert np.abs(found.points - expected)[clear].max() < 0.05
        assert clear.mean() > 0.97
        assert ((found.scores >= 0) & (found.scores <= 1)).all()


def test_fp16_halves_the_file_and_has_its_own_line(kind):
    folder, architecture, network, mean_face = kind
    out = folder / "fp16.onnx"
    form = Form("fp16", "graph")
    checks = export_checkpoint(folder / "epoch59.pth", out, choices_for(kind), form).checks
    assert list(checks) == ["fp32", "fp16", "decoder"]
    assert checks["fp16"].largest_map_difference > checks["fp32"].largest_map_difference
    weights = sum(tensor.nbytes for tensor in network.state_dict().values())
    assert out.stat().st_size < 0.6 * weights
    model = LandmarkModel(out, backend="cpu", threads=2)
    assert model.spec.precision == "fp16"
    crops = some_crops(3)
    expected, _ = expected_points(architecture, network, crops, mean_face)
    away = np.linalg.norm(model.predict_crops(crops).points - expected, axis=-1)
    assert np.median(away) < 0.5


@pytest.mark.parametrize(
    "decoder", ["argmax", "dark", "local_soft_argmax", "barycentre", "barycentre_sum"]
)
def test_a_heatmap_network_takes_another_decoder(tmp_path, decoder):
    network = random_network(hih(19, 1, 8))
    write_like_its_authors(network, "bare", tmp_path / "hih.pth")
    out = tmp_path / "model.onnx"
    report = export_checkpoint(
        tmp_path / "hih.pth", out, Choices(decoder=decoder), Form(decode="graph")
    )
    assert report.to_dict()["passed"]
    crops = some_crops(2)
    found = LandmarkModel(out, backend="cpu", threads=2).predict_crops(crops)
    heatmaps = torch_maps(network, crops)[0][:, -1]
    best = heatmaps.reshape(2, 19, -1).argmax(-1)
    middle = 4 * (np.stack((best % 64, best // 64), -1) + 0.5)  # of the best cell
    if decoder.startswith("barycentre"):
        assert found.covariances.shape == (2, 19, 2, 2)
        assert (np.linalg.eigvalsh(found.covariances) >= -1e-2).all()
        assert np.linalg.eigvalsh(found.covariances).max() > 1
    else:
        assert found.covariances is None
        # dark goes a cell at most, the window of local_soft_argmax reaches two
        reach = 4 * {"argmax": 0, "dark": 1, "local_soft_argmax": 2}[decoder]
        assert np.abs(found.points - middle).max() <= reach + 1e-3


def test_dark_in_the_graph_agrees_on_flat_maps_too(tmp_path):
    # HRNet's maps are smooth: second differences are small beside the values
    write_like_its_authors(random_network(hrnet(98), seed=1), "bare", tmp_path / "hr.pth")
    choices, form = Choices(decoder="dark"), Form(decode="graph")
    report = export_checkpoint(tmp_path / "hr.pth", tmp_path / "model.onnx", choices, form)
    assert report.checks["decoder"].largest_px <= 1e-3


def test_the_source_is_never_written_over(tmp_path):
    write_like_its_authors(random_network(pip("resnet18", 7, neighbours=2)), "bare", tmp_path / "x")
    write_meanface(7, tmp_path / "m.txt")
    before = [(tmp_path / name).read_bytes() for name in ("x", "m.txt")]
    for out in ("x", "m.txt"):
        with pytest.raises(CheckpointError, match="source itself"):
            export_checkpoint(tmp_path / "x", tmp_path / out, Choices(meanface=tmp_path / "m.txt"))
    assert [(tmp_path / name).read_bytes() for name in ("x", "m.txt")] == before


@pytest.mark.parametrize("name", LANDMARK_FILES)
def test_a_published_file_gives_torchs_points(tmp_path, name):
    architecture, form = LANDMARK_FILES[name]
    network = random_network(architecture)
    write_like_its_authors(network, form, tmp_path / "epoch59.pth")
    choices, mean_face = Choices(), None
    if architecture.family == "pipnet":
        mean_face = write_meanface(architecture.landmarks, tmp_path / "meanface.txt")
        choices = Choices(meanface=tmp_path / "meanface.txt")
    out = tmp_path / "model.onnx"
    report = export_checkpoint(tmp_path / "epoch59.pth", out, choices)
    assert report.checks["fp32"].passed
    model = LandmarkModel(out, backend="cpu", threads=2)
    for count in (1, 3):
        crops = some_crops(count)
        points = model.predict_crops(crops).points
        expected, clear = expected_points(architecture, network, crops, mean_face)
        assert np.abs(points - expected)[clear].max() < 0.05
        assert clear.mean() > 0.97
        inside = (expected > -256).all() and (expected < 512).all()
        assert inside, "the random network is not a fair test"
        assert np.ptp(expected[..., 0]) > 20, "the random network is not a fair test"


@pytest.mark.parametrize("name", DETECTOR_FILES)
def test_a_published_detector_gives_torchs_outputs(tmp_path, name):
    architecture, form = DETECTOR_FILES[name]
    network = random_network(architecture)
    write_like_its_authors(network, form, tmp_path / "Final.pth")
    out = tmp_path / "detector.onnx"
    assert export_checkpoint(tmp_path / "Final.pth", out).checks["fp32"].passed
    image = some_crops(2, 320)[:, :256]
    outputs = create_backend("cpu", out).run({"image": image})
    x = image.astype(np.float32) - np.float32([104, 117, 123])
    with torch.inference_mode():
        loc, conf, landms = network(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
    np.testing.assert_allclose(outputs["loc"], loc, atol=2e-3)
    np.testing.assert_allclose(outputs["scores"], conf.softmax(-1)[..., 1], atol=1e-4)
    np.testing.assert_allclose(outputs["landms"], landms, atol=2e-3)
    assert FaceDetector(out, backend="cpu").det_size == 640
    assert FaceDetector(out, backend="cpu").quick_size is None


def refused(tmp_path, architecture, error, match, *, text=None, decode="numpy", **options):
    write_like_its_authors(build(architecture), "bare", tmp_path / "x.pth")
    if architecture.family == "pipnet" and options:  # it would be asked for that first
        text = "0.5 0.25 " * (architecture.landmarks - 1) + "0.1 0.2"
    if text is not None:
        (tmp_path / "meanface.txt").write_text(text)
        options["meanface"] = tmp_path / "meanface.txt"
    with pytest.raises(error, match=match):
        export_checkpoint(
            tmp_path / "x.pth", tmp_path / "x.onnx", Choices(**options), Form(decode=decode)
        )
    assert sorted(path.suffix for path in tmp_path.iterdir() if path.suffix != ".txt") == [".pth"]


def test_a_pipnet_without_its_mean_face_is_asked_for_it(tmp_path):
    refused(tmp_path, pip("resnet18", 68), CheckpointError, "--meanface")


@pytest.mark.parametrize("text", ["", "0.5 0.5", "0.5 " * 135, "a " * 136, "nan " * 136])
def test_a_mean_face_of_another_set_is_refused(tmp_path, text):
    refused(tmp_path, pip("resnet18", 68), CheckpointError, "meanface|mean face", text=text)


@pytest.mark.parametrize(
    ("architecture", "options", "error", "match"),
    [
        (hrnet(68), {"layout": "wflw98"}, CheckpointError, "68 landmarks"),
        (hrnet(68), {"layout": "no_such"}, LayoutError, "no_such"),
        (hrnet(68), {"arch": "resnet18"}, CheckpointError, "hrnetv2_w18.*resnet18"),
        (hrnet(68), {"decoder": "pip"}, ModelError, "quarter_shift"),
        (hrnet(68), {"decoder": "no_such"}, ModelError, "no_such"),
        (hrnet(68), {"size": 250}, ModelError, "multiple of 32"),
        (pip("resnet18", 68, 16), {"size": 272}, ModelError, "multiple of 32"),
        (hrnet(68), {"det_size": 320}, ModelError, "detectors"),
        (hrnet(68), {"meanface": Path("m.txt")}, CheckpointError, "--meanface"),
        (hih(98, 1, 8), {"size": 128}, ModelError, "256"),
        (DETECTOR_FILES["retinaface_mnet025"][0], {"layout": "ibug68"}, ModelError, "--layout"),
        (DETECTOR_FILES["retinaface_mnet025"][0], {"decode": "graph"}, ModelError, "landmark"),
        (DETECTOR_FILES["retinaface_mnet025"][0], {"decoder": "pip"}, ModelError, "retinaface"),
    ],
)
def test_a_choice_that_does_not_fit_is_refused(tmp_path, architecture, options, error, match):
    refused(tmp_path, architecture, error, match, **options)


def test_a_network_that_is_none_of_these_is_refused_with_what_it_is(tmp_path):
    torch.save(torch.nn.Linear(3, 4).state_dict(), tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"weight.*pipnet") as caught:
        export_checkpoint(tmp_path / "x.pth", tmp_path / "x.onnx")
    assert "hrnet" in str(caught.value)


def test_unknown_numbers_of_landmarks_get_a_numbered_layout(tmp_path):
    write_like_its_authors(random_network(pip("resnet18", 7, neighbours=2)), "bare", tmp_path / "x")
    write_meanface(7, tmp_path / "m.txt")
    out = tmp_path / "x.onnx"
    export_checkpoint(tmp_path / "x", out, Choices(meanface=tmp_path / "m.txt", size=128))
    model = LandmarkModel(out, backend="cpu")
    assert (model.layout.name, model.size) == ("points7", 128)
    params = model.spec.decoder_params
    assert np.asarray(params["neighbours"]).shape == (7, 2)
    lengths = {len(row) for row in params["opinions"]}
    assert len(lengths - {0}) == 1  # every list is padded to the longest


def test_the_command_exports_a_published_file(tmp_path):
    write_like_its_authors(random_network(pip("resnet18", 19)), "bare", tmp_path / "epoch59.pth")
    write_meanface(19, tmp_path / "meanface.txt")
    command = [sys.executable, "-m", "facemark_export.cli", "--ckpt", "epoch59.pth", "-o", "m.onnx"]

    def run(*more):
        return subprocess.run(
            [*command, *more],
            check=False,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )

    asked = run()
    assert asked.returncode == 1
    assert "--meanface" in asked.stderr
    assert not (tmp_path / "m.onnx").exists()
    done = run("--meanface", "meanface.txt", "--crop", "box-square", "--licence", "MIT")
    assert done.returncode == 0, done.stderr
    assert "argmax flips" in done.stderr
    spec = LandmarkModel(tmp_path / "m.onnx", backend="cpu").spec
    assert (spec.layout, spec.crop.square, spec.licence) == ("aflw19", True, "MIT")
    assert json.loads((tmp_path / "m.onnx.report.json").read_text())["passed"]
    wrong = run("--onnx", "other.onnx")
    assert (wrong.returncode, "one source" in wrong.stderr) == (2, True)
