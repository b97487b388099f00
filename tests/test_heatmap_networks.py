"""Stacked hourglasses, the Cascaded Pyramid Network, and coordinates in every convolution."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from test_identify import on_meta, shapes
from torch import nn

from facemark_export import checkpoint
from facemark_export.export import export_checkpoint
from facemark_export.networks import trunks
from facemark_export.networks.architecture import Architecture, architecture_of, build
from facemark_export.networks.coordconv import (
    CoordConv2d,
    CoordConvTranspose2d,
    add_coordinates,
    append_coordinates,
)
from facemark_export.networks.identify import identify
from facemark_export.networks.resnet import ResNet18
from facemark_export.networks.stacked_hourglass import HierarchicalBlock, StackedHourglass
from facemark_export.networks.trunks import TRUNKS, input_statistics
from facemark_export.onnx_file import export_module
from facemark_export.training.loop_recipe import TrainingError
from facemark_export.training.recipes.heatmaps import HeatmapRecipe
from facemark_sdk import LandmarkModel
from facemark_sdk.errors import CheckpointError, ModelError

# family, architecture, maps a landmark (None: one, without an axis for stages)
PLAIN = [
    ("hrnet", "hrnetv2_w18", None),
    *(("mapnet", trunk, None) for trunk in TRUNKS),
    ("hourglass", "hourglass1", 1),
    ("hourglass", "hourglass2", 2),
    ("hourglass", "hourglass1_hierarchical", 1),
    ("hourglass", "hourglass2_hierarchical", 2),
    *(("cpn", trunk, 5) for trunk in ("resnet18", "resnet50", "resnet101")),
]
EVERY = [(f, name + suffix, stages) for f, name, stages in PLAIN for suffix in ("", "_coordconv")]


def described(family, name, landmarks=7):
    return Architecture(family, name, landmarks, stride=4 if family == "mapnet" else 0)


def random(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


# --- every network and option ---------------------------------------------------------------


@pytest.mark.parametrize(("family", "name", "stages"), EVERY)
def test_every_network_gives_a_map_a_landmark_at_stride_4(family, name, stages):
    network = on_meta(described(family, name)).eval()
    heatmaps = network(torch.zeros(2, 3, 64, 64, device="meta"))
    assert heatmaps.shape == ((2, 7) if stages is None else (2, stages, 7)) + (16, 16)


@pytest.mark.parametrize(
    ("family", "name", "stages"),
    [("hourglass", "hourglass1_hierarchical", 1), ("cpn", "resnet18", 5)],
)
def test_the_grid_grows_with_the_input(family, name, stages):
    network = on_meta(described(family, name))
    heatmaps = network(torch.zeros(2, 3, 128, 192, device="meta"))
    assert heatmaps.shape == (2, stages, 7, 32, 48)


@pytest.mark.parametrize(
    ("family", "name", "landmarks"),
    [
        *((family, name, 7) for family, name, _ in EVERY),
        # 3 and 5 are channels of images, plain and with coordinates
        *(("hourglass", f"hourglass2{end}", n) for end in ("", "_coordconv") for n in (3, 5)),
        ("hourglass", "hourglass16", 98),
    ],
)
def test_every_network_is_told_from_its_tensors(family, name, landmarks):
    architecture = described(family, name, landmarks)
    assert identify(shapes(architecture)) == architecture


@pytest.mark.parametrize(("family", "name", "stages"), EVERY)
def test_the_spec_of_every_recipe_tells_its_network(family, name, stages):
    spec = HeatmapRecipe(family=family, architecture=name).model_spec()
    assert architecture_of(spec) == described(family, name, 68)
    plain = name.removesuffix("_coordconv")
    assert (spec.input.mean, spec.input.std) == input_statistics(plain)
    assert (spec.input.mean[0] == 127) == (plain == "efficientnet_lite0")


@pytest.mark.parametrize(
    ("family", "name", "message"),
    [
        ("hourglass", "hourglass0", "unknown hourglass architecture 'hourglass0'"),
        ("hourglass", "hourglass17", "1..16"),
        ("hourglass", "hourglass2_flat", "_hierarchical"),
        ("hourglass", "hourglass2_coordconv_hierarchical", "_hierarchical"),
        ("hourglass", "hourglass2_coordconv_coordconv", "hourglass2_coordconv'"),
        ("cpn", "mobilenet_v2", "known: resnet18, resnet50, resnet101"),
        ("cpn", "mobilenet_v2_coordconv", "unknown CPN architecture 'mobilenet_v2'"),
        ("mapnet", "_coordconv", "unknown MapNet architecture ''"),
        ("hrnet", "hrnetv2_w18_coord", "also with _coordconv"),
    ],
)
def test_networks_that_there_are_not_are_refused(family, name, message):
    with pytest.raises(ModelError, match=message):
        build(described(family, name))
    with pytest.raises(TrainingError, match=message):
        HeatmapRecipe(family=family, architecture=name)


@pytest.mark.parametrize(("family", "name"), [("hourglass", "hourglass1"), ("cpn", "resnet18")])
def test_networks_without_landmarks_are_refused(family, name):
    with pytest.raises(ModelError, match="landmark"):
        build(Architecture(family, name, 0))


@pytest.mark.parametrize(
    "architecture",
    [
        Architecture("pipnet", "resnet18_coordconv", 7, neighbours=3, stride=32),
        Architecture("regression", "resnet18_coordconv", 7),
        Architecture("retinaface", "resnet50_coordconv", 5),
        Architecture("hih", "hourglass1_coordconv", 7, stacks=1, offset_size=8),
    ],
    ids=str,
)
def test_only_heatmap_networks_see_coordinates(architecture):
    with pytest.raises(ModelError, match="_coordconv'"):
        build(architecture)


def test_a_network_that_sees_coordinates_in_part_is_refused():
    found = shapes(described("cpn", "resnet18_coordconv"))
    found["lateral.2.conv.weight"] = (256, 256, 1, 1)
    with pytest.raises(CheckpointError, match=r"looks like cpn resnet18_coordconv .*lateral\.2"):
        identify(found)


# --- stacked hourglasses --------------------------------------------------------------------


def test_a_stacked_hourglass_is_hih_without_offsets():
    """The same tensors, but those that only a next hourglass or the offsets would read."""
    hih = shapes(Architecture("hih", "hourglass3", 7, stacks=3, offset_size=8))
    unread = ("offset_head.", "hg2_conv1.", "hg2_conv2.")
    wanted = {name: shape for name, shape in hih.items() if not name.startswith(unread)}
    assert list(shapes(described("hourglass", "hourglass3")).items()) == list(wanted.items())


def test_hierarchical_blocks_put_a_half_and_two_quarters_side_by_side():
    """Figure 1 of Bulat and Tzimiropoulos: 256 -> 128, 64, 64; 3x3 throughout, 256 together."""
    block = HierarchicalBlock(256, 256)
    assert [m.weight.shape for m in block.modules() if isinstance(m, nn.Conv2d)] == [
        (128, 256, 3, 3),
        (64, 128, 3, 3),
        (64, 64, 3, 3),
    ]
    weights = 9 * (256 * 128 + 128 * 64 + 64 * 64)
    norms = 2 * (256 + 128 + 64)
    assert sum(p.numel() for p in block.parameters()) == weights + norms


@pytest.mark.parametrize("outputs", [8, 16])
def test_hierarchical_blocks_activate_before_they_convolve(outputs):
    torch.manual_seed(0)
    block = HierarchicalBlock(8, outputs).eval()
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.3, 0.3)
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    w = block.state_dict()

    def unit(name, x, padding=1):
        mean, var = w[f"{name}.bn.running_mean"], w[f"{name}.bn.running_var"]
        scale, shift = w[f"{name}.bn.weight"], w[f"{name}.bn.bias"]
        line = (slice(None), None, None)
        x = (x - mean[line]) / (var[line] + 1e-5).sqrt() * scale[line] + shift[line]
        return F.conv2d(x.clamp(min=0), w[f"{name}.conv.weight"], padding=padding)

    x = random(2, 8, 5, 6)
    a = unit("first", x)
    b = unit("second", a)
    c = unit("third", b)
    shortcut = x if outputs == 8 else unit("shortcut", x, padding=0)
    with torch.no_grad():
        torch.testing.assert_close(block(x), torch.cat([a, b, c], dim=1) + shortcut)


def test_every_stack_adds_to_what_the_next_one_sees():
    torch.manual_seed(0)
    network = StackedHourglass(3, 2, hierarchical=True).eval()
    image = random(1, 3, 64, 64)
    with torch.no_grad():
        before = network(image)
        network.hg0_conv_pred.bias += 1
        after = network(image)
    torch.testing.assert_close(after[:, 0], before[:, 0] + 1)
    assert (after[:, 1] - before[:, 1]).abs().max() > 1e-3


# --- CPN ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trunk", "widths"),
    [("resnet18", (64, 128, 256, 512)), ("resnet50", (256, 512, 1024, 2048))],
)
def test_cpn_takes_all_four_levels_and_more_bottlenecks_the_coarser_they_are(trunk, widths):
    network = on_meta(described("cpn", trunk))
    assert [unit.conv.weight.shape for unit in network.lateral] == [(256, w, 1, 1) for w in widths]
    assert [len(blocks) for blocks in network.refine] == [0, 1, 2, 3]
    assert network.refine_head[0].conv1.in_channels == 4 * 256
    levels = network.trunk.levels(torch.zeros(1, 3, 64, 96, device="meta"))
    assert [tuple(x.shape) for x in levels] == [
        (1, width, 16 >> i, 24 >> i) for i, width in enumerate(widths)
    ]


def test_cpn_refines_last_and_coarse_levels_know_nothing_of_fine_ones():
    torch.manual_seed(0)
    network = build(described("cpn", "resnet18", 3)).eval()
    image = random(1, 3, 64, 64)
    with torch.no_grad():
        before = network(image)
        network.lateral[0].bn.bias += 1  # of the finest level
        finest = network(image)
        network.refine_head[1].bias += 1
        refined = network(image)
    same = [torch.equal(a, b) for a, b in zip(before[0], finest[0], strict=True)]
    assert same == [True, True, True, False, False]
    same = [torch.equal(a, b) for a, b in zip(finest[0], refined[0], strict=True)]
    assert same == [True, True, True, True, False]


@pytest.mark.parametrize(
    ("family", "name"), [("hourglass", "hourglass2_hierarchical"), ("cpn", "resnet18_coordconv")]
)
def test_every_trainable_weight_learns(family, name):
    torch.manual_seed(0)
    network = build(described(family, name, 3)).train()
    network(random(2, 3, 64, 64)).square().mean().backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.any(), key


# --- coordinates ----------------------------------------------------------------------------


def coordinates_by_loops(height, width):
    grid = torch.zeros(2, height, width)
    for row in range(height):
        for column in range(width):
            grid[0, row, column] = 2 * column / (width - 1) - 1 if width > 1 else 0
            grid[1, row, column] = 2 * row / (height - 1) - 1 if height > 1 else 0
    return grid


@pytest.mark.parametrize("size", [(5, 7), (1, 4), (1, 1)])
def test_coordinates_go_from_minus_one_to_one_over_the_centres(size):
    x = random(2, 3, *size)
    seen = append_coordinates(x)
    assert torch.equal(seen[:, :3], x)
    for one in seen[:, 3:]:
        torch.testing.assert_close(one, coordinates_by_loops(*size))


@pytest.mark.parametrize("stride", [1, 2])
def test_coordconv_is_a_convolution_of_the_input_and_the_coordinates(stride):
    torch.manual_seed(0)
    conv = CoordConv2d(3 + 2, 4, 3, stride, 1)
    x = random(2, 3, 6, 8)
    grid = coordinates_by_loops(6, 8).expand(2, 2, 6, 8)
    expected = F.conv2d(torch.cat([x, grid], 1), conv.weight, conv.bias, stride, 1)
    torch.testing.assert_close(conv(x), expected)


def test_transposed_convolutions_see_the_places_of_their_input():
    torch.manual_seed(0)
    conv = CoordConvTranspose2d(3 + 2, 4, 4, 2, 1)
    x = random(2, 3, 6, 8)
    grid = coordinates_by_loops(6, 8).expand(2, 2, 6, 8)
    expected = F.conv_transpose2d(torch.cat([x, grid], 1), conv.weight, conv.bias, 2, 1)
    torch.testing.assert_close(conv(x), expected)


def test_coordinates_start_without_effect_and_then_have_one():
    torch.manual_seed(0)
    plain = build(described("mapnet", "mobilenet_v2")).eval()
    image = random(1, 3, 64, 64)
    with torch.no_grad():
        before = plain(image)
        names = list(plain.state_dict())
        seeing = add_coordinates(plain)
        assert list(seeing.state_dict()) == names
        scale = before.abs().max()
        torch.testing.assert_close(seeing(image) / scale, before / scale, rtol=0, atol=1e-5)
        seeing.heatmap_layer.weight[:, -2] = 0.5  # x
        steps = (seeing(image) - before).diff(dim=-1)
    torch.testing.assert_close(steps, torch.full_like(steps, 0.5 * 2 / 15), rtol=0, atol=1e-5)


def test_all_convolutions_but_depthwise_ones_see_coordinates():
    network = on_meta(described("mapnet", "mobilenet_v2_coordconv"))
    plain = on_meta(described("mapnet", "mobilenet_v2"))
    kinds = (nn.Conv2d, nn.ConvTranspose2d)
    added = [
        (one.groups, one.in_channels - other.in_channels)
        for one, other in zip(network.modules(), plain.modules(), strict=True)
        if isinstance(one, kinds)
    ]
    assert {by for groups, by in added if groups == 1} == {2}
    assert {by for groups, by in added if groups > 1} == {0}
    assert sum(isinstance(m, CoordConvTranspose2d) for m in network.modules()) == 3


def test_what_is_frozen_stays_frozen_and_settings_stay():
    plain = nn.Sequential(nn.Conv2d(3, 4, (3, 5), 2, (1, 2), 1, bias=False, padding_mode="reflect"))
    plain.requires_grad_(False).eval()
    x = random(2, 3, 8, 8)
    before = plain(x)
    (seeing,) = add_coordinates(plain)
    assert not seeing.weight.requires_grad
    assert not seeing.training
    torch.testing.assert_close(plain(x), before)


def test_coordinates_follow_autocast_and_channels_last():
    torch.manual_seed(0)
    network = add_coordinates(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)))
    network.to(memory_format=torch.channels_last)
    x = random(2, 3, 9, 9).contiguous(memory_format=torch.channels_last)
    assert append_coordinates(x).is_contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        y = network(x)
    assert y.dtype == torch.bfloat16
    assert y.is_contiguous(memory_format=torch.channels_last)
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        assert append_coordinates(x.to(dtype)).dtype == dtype


def test_gradients_pass_coordinates():
    conv = add_coordinates(nn.Sequential(nn.Conv2d(2, 2, 3), nn.ConvTranspose2d(2, 1, 2))).double()
    x = random(1, 2, 4, 5).double().requires_grad_()
    assert torch.autograd.gradcheck(conv, (x,))


@pytest.mark.parametrize(
    ("family", "name", "stem"),
    [
        ("mapnet", "efficientnet_lite0_coordconv", "_conv_stem.weight"),
        ("cpn", "resnet18_coordconv", "conv1.weight"),
    ],
)
def test_imagenet_weights_fill_the_channels_before_the_coordinates(monkeypatch, family, name, stem):
    """With a package's weights replaced by known ones, so that the test needs no package."""
    network_class = TRUNKS[name.removesuffix("_coordconv")].network
    torch.manual_seed(1)
    weights = network_class().state_dict()
    monkeypatch.setattr(trunks, "imagenet_weights", lambda trunk: weights)
    network = build(described(family, name))
    nn.init.ones_(network.trunk.get_parameter(stem))
    network.load_imagenet()
    loaded = network.trunk.state_dict()
    assert torch.equal(loaded[stem][:, :3], weights[stem])
    assert not loaded[stem][:, 3:].any()
    assert all(
        torch.equal(loaded[key][:, : tensor.shape[1]] if tensor.dim() == 4 else loaded[key], tensor)
        for key, tensor in weights.items()
    )


def test_a_trunk_without_imagenet_weights_says_so():
    with torch.device("meta"):
        network = build(described("cpn", "resnet18_coordconv"))
    assert type(network.trunk) is ResNet18
    with pytest.raises(CheckpointError, match="ResNet18"):
        network.load_imagenet()


# --- export ---------------------------------------------------------------------------------


def test_coordinates_are_exported_for_any_batch():
    torch.manual_seed(0)
    network = nn.Sequential(
        CoordConv2d(3 + 2, 4, 3, 2, 1), nn.ReLU(), CoordConvTranspose2d(4 + 2, 5, 4, 2, 1)
    )
    dynamic = ({0: torch.export.Dim("batch")},)
    model = export_module(network, (random(2, 3, 16, 8),), ["x"], ["y"], dynamic)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for batch in (1, 3):
        x = random(batch, 3, 16, 8)
        (y,) = session.run(None, {"x": x.numpy()})
        torch.testing.assert_close(torch.from_numpy(y), network(x).detach())


@pytest.mark.parametrize(
    ("family", "name"), [("hourglass", "hourglass1_hierarchical"), ("cpn", "resnet18")]
)
def test_an_export_passes_parity_and_runs(tmp_path, family, name):
    recipe = HeatmapRecipe(family=family, architecture=name, layout="kps5", size=64, loss="l2")
    spec = recipe.model_spec()
    torch.manual_seed(0)
    network = build(architecture_of(spec))
    checkpoint.write(tmp_path / "best.safetensors", network.state_dict(), spec, {})
    report = export_checkpoint(tmp_path / "best.safetensors", tmp_path / "model.onnx")
    assert report.checks["fp32"].passed
    crops = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    found = LandmarkModel(tmp_path / "model.onnx", backend="cpu").predict_crops(crops)
    assert found.points.shape == (3, 5, 2)
    assert np.isfinite(found.points).all()
