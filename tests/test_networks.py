"""Network architectures: the published arithmetic, shapes, training, export."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import reference_networks as reference
import torch
from conftest import SHARED
from test_identify import EVERY, read_keys

from facemark_export.networks.architecture import Architecture, build
from facemark_export.networks.hourglass import OffsetHead, Residual
from facemark_export.networks.hrnet import HighResolutionModule, HighResolutionNet
from facemark_export.networks.mobilenet_v3 import InvertedResidual
from facemark_export.networks.retinaface import RetinaFace
from facemark_export.networks.weights import shapes_of

FEW_STACKS = [architecture for architecture in EVERY if architecture.stacks < 3]
HIH = Architecture("hih", "hourglass2", 3, stacks=2, offset_size=8)


def lively(network):
    """The network in float64 for inference, with weights and statistics that all matter."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.3, 0.3)
            torch.nn.init.uniform_(module.running_mean, -0.2, 0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
        if isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                torch.nn.init.uniform_(module.bias, -0.3, 0.3)
    return network.double().eval()


def random(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def assert_same(outputs, expected):
    """Equal to ten digits of the largest value, and no constants."""
    assert len(outputs) == len(expected)
    for output, wanted in zip(outputs, expected, strict=True):
        scale = wanted.abs().max()
        assert wanted.std() > 0.01 * scale
        torch.testing.assert_close(output / scale, wanted / scale, rtol=0, atol=1e-10)


def pip(name, stride=32):
    return Architecture("pipnet", name, 7, neighbours=3, stride=stride)


# --- the published arithmetic ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "plain", "size"),
    [
        (pip("resnet18"), reference.resnet_pipnet, (64, 96)),
        (pip("resnet18", 16), reference.resnet_pipnet, (64, 96)),
        (pip("resnet18", 64), reference.resnet_pipnet, (128, 192)),
        (pip("resnet18", 128), reference.resnet_pipnet, (256, 256)),
        (pip("resnet50"), reference.resnet_pipnet, (64, 96)),
        (pip("resnet101"), reference.resnet_pipnet, (64, 64)),
        (pip("mobilenet_v2"), reference.mobilenet_v2_pipnet, (64, 96)),
        (pip("mobilenet_v3_large"), reference.mobilenet_v3_pipnet, (64, 96)),
        (Architecture("hrnet", "hrnetv2_w18", 7), reference.hrnet, (64, 96)),
        (HIH, reference.hih, (256, 256)),
        (Architecture("retinaface", "resnet50", 5), reference.retinaface_resnet50, (64, 96)),
    ],
    ids=lambda value: str(value) if isinstance(value, Architecture) else "",
)
def test_networks_compute_what_compat_says(architecture, plain, size):
    network = lively(build(architecture))
    images = random(2, 3, *size)
    with torch.inference_mode():
        outputs = network(images)
        expected = plain(network.state_dict(), images)
    assert_same(outputs if isinstance(outputs, tuple) else (outputs,), expected)


def test_a_skip_layer_is_not_used_where_the_input_itself_is_added():
    block = lively(Residual(8, 8))
    x = random(2, 8, 5, 6)
    with torch.no_grad():
        expected = reference.hih_residual(
            {f"r.{name}": tensor for name, tensor in block.state_dict().items()}, "r", x
        )
        block.skip_layer.conv.weight.fill_(torch.nan)
        assert_same((block(x),), (expected,))
    assert not any(p.requires_grad for p in block.skip_layer.parameters())
    assert all(p.requires_grad for p in Residual(8, 16).skip_layer.parameters())


def test_squeeze_excite_comes_before_the_second_activation():
    block = lively(
        InvertedResidual(8, 8, kernel=5, expansion=3, excites=True, swishes=True, stride=1)
    )
    x = random(2, 8, 6, 5)
    w = {f"b.{name}": tensor for name, tensor in block.conv.state_dict().items()}
    with torch.no_grad():
        y = reference.hard_swish(reference.norm(w, "b.1", reference.conv(w, "b.0", x)))
        y = reference.norm(w, "b.4", reference.conv(w, "b.3", y))
        y = reference.hard_swish(reference.excite(w, "b.5", y))
        expected = x + reference.norm(w, "b.8", reference.conv(w, "b.7", y))
        assert_same((block(x),), (expected,))


def test_a_branch_takes_the_sum_of_all_then_relu():
    module = lively(HighResolutionModule(3))
    for i in range(3):
        module.branches[i] = torch.nn.Identity()  # only the fusion
    features = [random(1, 18, 8, 8), random(1, 36, 4, 4), random(1, 72, 2, 2)]
    fuse = module.fuse_layers
    with torch.no_grad():
        coarser = bilinear(fuse[1]["2"](features[2]), 2)
        finer = fuse[1]["0"](features[0])
        middle = torch.relu(finer + features[1] + coarser)
        assert_same((module(features)[1],), (middle,))
    assert (finer < 0).any()  # no relu after the last convolution of a chain


def bilinear(x, times):
    """Bilinear enlargement between pixel centres, edges repeated, in plain loops."""
    height, width = x.shape[2:]
    out = torch.zeros(*x.shape[:2], height * times, width * times, dtype=x.dtype)
    for row in range(height * times):
        for column in range(width * times):
            v = min(max((row + 0.5) / times - 0.5, 0), height - 1)
            u = min(max((column + 0.5) / times - 0.5, 0), width - 1)
            top, left = int(v), int(u)
            down, right = min(top + 1, height - 1), min(left + 1, width - 1)
            out[:, :, row, column] = (1 - v + top) * (
                (1 - u + left) * x[:, :, top, left] + (u - left) * x[:, :, top, right]
            ) + (v - top) * (
                (1 - u + left) * x[:, :, down, left] + (u - left) * x[:, :, down, right]
            )
    return out


@pytest.mark.parametrize("stage", [2, 3])
def test_new_branches_come_from_the_last_branch(stage):
    network = HighResolutionNet(3).double().eval()
    seen = {}
    transition = getattr(network, f"transition{stage}")
    getattr(network, f"stage{stage}").register_forward_hook(
        lambda _, __, branches: seen.update(last=branches[-1])
    )
    transition.get_submodule(str(stage)).register_forward_hook(
        lambda _, inputs, __: seen.update(source=inputs[0])
    )
    with torch.inference_mode():
        network(random(1, 3, 64, 64))
    assert torch.equal(seen["source"], seen["last"])
    assert seen["last"].shape[1] == 18 * 2 ** (stage - 1)


@pytest.mark.parametrize("size", [2, 4, 8, 16])
def test_the_offset_head_pools_64_to_31_without_padding(size):
    head = OffsetHead(3, size).eval()
    seen = []
    head.down_ops.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x = torch.randn(1, 256, 64, 64)
    with torch.inference_mode():
        offsets = head(x)
        wide = head.conv1(x)
    assert offsets.shape == (1, 3, size, size)
    assert seen[0].shape == (1, 384, 31, 31)
    for row, column in ((0, 0), (30, 30), (7, 12)):
        window = wide[0, 5, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
        assert window.shape == (3, 3)
        assert seen[0][0, 5, row, column] == window.max()


def test_activations_leak_in_narrow_detectors_only():
    def slopes(network):
        leaky = [m for m in network.modules() if isinstance(m, torch.nn.LeakyReLU)]
        return {m.negative_slope for m in leaky}

    assert slopes(RetinaFace()) == {0.1}
    assert slopes(RetinaFace("mobilenet0.25_relu")) == set()
    assert slopes(RetinaFace("resnet50")) == set()


def test_without_leaks_the_small_detector_has_the_same_tensors():
    plain = RetinaFace("mobilenet0.25_relu").state_dict()
    assert shapes_of(plain) == shapes_of(RetinaFace("mobilenet0.25").state_dict())


@pytest.mark.shared
def test_the_large_detector_has_the_published_resnet50_as_its_body():
    published = read_keys(SHARED / "compat" / "keys" / "pip_resnet50_WFLW98_s32_nb10.txt")
    trunk = {name: shape for name, (shape, _) in published.items() if "_layer." not in name}
    body = RetinaFace("resnet50").body.state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in body.items()} == trunk


@pytest.mark.parametrize("architecture", EVERY, ids=str)
def test_batch_norms_have_the_published_epsilon(architecture):
    with torch.device("meta"):
        network = build(architecture)
    eps = {m.eps for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)}
    assert eps == {1e-3 if architecture.name == "efficientnet_lite0" else 1e-5}


# --- shapes, training, export ---------------------------------------------------------------


def output_shapes(architecture, images):
    with torch.inference_mode():
        outputs = build(architecture).eval()(images)
    return [tuple(o.shape) for o in (outputs if isinstance(outputs, tuple) else (outputs,))]


@pytest.mark.parametrize(("stride", "rows", "columns"), [(16, 8, 16), (64, 2, 4), (128, 1, 2)])
def test_other_strides_have_other_grids(stride, rows, columns):
    shapes = output_shapes(pip("resnet18", stride), torch.zeros(2, 3, 128, 256))
    assert shapes == [(2, n, rows, columns) for n in (7, 7, 7, 21, 21)]


def test_hrnet_takes_any_multiple_of_32():
    hrnet = Architecture("hrnet", "hrnetv2_w18", 7)
    assert output_shapes(hrnet, torch.zeros(2, 3, 96, 32)) == [(2, 7, 24, 8)]
    assert output_shapes(hrnet, torch.zeros(2, 3, 256, 256)) == [(2, 7, 64, 64)]


def test_hih_gives_heatmaps_of_every_stack_and_one_set_of_offsets():
    assert output_shapes(HIH, torch.zeros(2, 3, 256, 256)) == [(2, 2, 3, 64, 64), (2, 1, 3, 8, 8)]


def test_the_large_detector_gives_a_row_a_prior():
    shapes = output_shapes(Architecture("retinaface", "resnet50", 5), torch.zeros(2, 3, 64, 96))
    rows = 2 * (8 * 12 + 4 * 6 + 2 * 3)
    assert shapes == [(2, rows, 4), (2, rows, 2), (2, rows, 10)]


@pytest.mark.parametrize("architecture", FEW_STACKS, ids=str)
def test_every_trainable_weight_learns(architecture):
    """None is left without a gradient, which training on several devices would stumble over."""
    torch.manual_seed(0)
    network = build(architecture).train()
    side = 256 if architecture.family == "hih" else 64
    outputs = network(torch.randn(2, 3, side, side))
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    sum(output.square().mean() for output in outputs).backward()
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
        else:
            assert ".skip_layer." in name


@pytest.mark.parametrize(
    "architecture",
    [
        pip("mobilenet_v3_large"),
        Architecture("hih", "hourglass1", 3, stacks=1, offset_size=16),
    ],
    ids=str,
)
def test_exported_graphs_take_any_batch(architecture, tmp_path):
    network = lively(build(architecture)).float()
    side = 256 if architecture.family == "hih" else 64
    path = tmp_path / "network.onnx"
    torch.onnx.export(
        network,
        (torch.zeros(2, 3, side, side),),
        path,
        dynamo=True,
        verbose=False,
        input_names=["image"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for count in (1, 3):
        images = random(count, 3, side, side).float()
        with torch.inference_mode():
            expected = network(images)
        outputs = session.run(None, {"image": images.numpy()})
        for output, wanted in zip(outputs, expected, strict=True):
            scale = float(wanted.abs().max())
            np.testing.assert_allclose(output / scale, wanted.numpy() / scale, atol=2e-5)
