"""Which network a checkpoint is of, from its tensors' names and shapes; loading its weights."""

from __future__ import annotations

import re
import resource

import pytest
import torch
from conftest import SHARED
from hypothesis import given, settings
from hypothesis import strategies as st

from facemark_export.networks.architecture import Architecture, build
from facemark_export.networks.identify import identify
from facemark_export.networks.weights import load_weights, shapes_of
from facemark_sdk.errors import CheckpointError

KEY_FILES = sorted((SHARED / "compat" / "keys").glob("*.txt"))
TRUNKS = {
    "mobilenetv2": "mobilenet_v2",
    "mobilenetv3": "mobilenet_v3_large",
    "resnet18": "resnet18",
    "resnet50": "resnet50",
    "resnet101": "resnet101",
}
EVERY = [
    *(
        Architecture("pipnet", name, 7, neighbours=3, stride=32)
        for name in ("efficientnet_lite0", *TRUNKS.values())
    ),
    *(
        Architecture("pipnet", "resnet18", 7, neighbours=6, stride=stride)
        for stride in (16, 64, 128)
    ),
    Architecture("hrnet", "hrnetv2_w18", 7),
    *(
        Architecture("hih", f"hourglass{stacks}", 7, stacks=stacks, offset_size=size)
        for stacks, size in ((1, 2), (1, 16), (3, 8), (11, 4))
    ),
    Architecture("retinaface", "mobilenet0.25", 5),
    Architecture("retinaface", "resnet50", 5),
    Architecture("hourglass", "hourglass2", 7),
    Architecture("hourglass", "hourglass1_hierarchical_coordconv", 7),
    Architecture("cpn", "resnet18", 7),
]
RESNET18 = EVERY[3]


def on_meta(architecture):
    with torch.device("meta"):
        return build(architecture)


def shapes(architecture):
    return shapes_of(on_meta(architecture).state_dict())


def read_keys(path):
    """Shape and dtype of each tensor that a key file lists."""
    published = {}
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            name, shape, dtype = line.split("\t")
            published[name] = tuple(int(n) for n in re.findall(r"\d+", shape)), dtype
    return published


def described_by_name(stem):
    """The architecture that a key file's name tells."""
    if stem == "retinaface_mnet025":
        return Architecture("retinaface", "mobilenet0.25", 5)
    landmarks = int(
        re.search(r"(?:300W|300W_CELEBA|WFLW|AFLW|COFW|LaPa)(68|98|19|29|106)", stem)[1]
    )
    if stem.startswith("hrnet"):
        return Architecture("hrnet", "hrnetv2_w18", landmarks)
    if stem.startswith("hih"):
        stacks, size = map(int, re.search(r"_stack(\d+)_o(\d+)$", stem).groups())
        return Architecture("hih", f"hourglass{stacks}", landmarks, stacks=stacks, offset_size=size)
    stride, neighbours = map(int, re.search(r"_s(\d+)_nb(\d+)", stem).groups())
    return Architecture(
        "pipnet", TRUNKS[stem.split("_")[1]], landmarks, neighbours=neighbours, stride=stride
    )


@pytest.mark.shared
def test_there_are_28_published_variants():
    assert len(KEY_FILES) == 28


@pytest.mark.shared
@pytest.mark.parametrize("path", KEY_FILES, ids=lambda path: path.stem)
def test_published_tensors_are_ours_and_say_what_they_are(path):
    published = read_keys(path)
    wanted = described_by_name(path.stem)
    ours = on_meta(wanted).state_dict()
    assert {
        name: (tuple(t.shape), str(t.dtype).removeprefix("torch.")) for name, t in ours.items()
    } == published
    assert list(ours) == list(published)  # the order too, so that files can be compared by eye
    assert identify({name: shape for name, (shape, _) in published.items()}) == wanted


@pytest.mark.parametrize("architecture", EVERY, ids=str)
def test_every_network_is_told_from_its_tensors(architecture):
    assert identify(shapes(architecture)) == architecture
    backwards = dict(reversed(shapes(architecture).items()))
    assert identify(backwards) == architecture


@pytest.mark.parametrize("architecture", EVERY, ids=str)
def test_counters_may_be_absent_all_together(architecture):
    found = shapes(architecture)
    counters = [name for name in found if name.endswith("num_batches_tracked")]
    assert counters
    old = {name: shape for name, shape in found.items() if name not in counters}
    assert identify(old) == architecture
    with pytest.raises(CheckpointError, match=rf"missing: .*{re.escape(counters[1])}"):
        identify({**old, counters[0]: ()})


# --- refusals -------------------------------------------------------------------------------


def test_no_tensors_are_refused():
    with pytest.raises(CheckpointError, match=r"no tensors at all; known: pipnet .*hrnet"):
        identify({})


def test_unknown_networks_are_refused_with_what_was_found():
    found = {f"module.block{i}.weight": (i, 3) for i in range(9)}
    with pytest.raises(CheckpointError) as refused:
        identify(found)
    message = str(refused.value)
    assert "9 tensors (module.block0.weight (0, 3), module.block1.weight (1, 3)" in message
    assert "module.block4" in message
    assert "module.block5" not in message
    assert "known: pipnet (efficientnet_lite0, resnet18" in message


def test_at_most_five_names_of_each_kind_are_told():
    found = shapes(RESNET18)
    for name in [name for name in found if name.startswith("layer2.0.")]:
        found[f"other.{name}"] = found.pop(name)
    found["x_layer.weight"] = (8, 512, 1, 1)
    with pytest.raises(CheckpointError) as refused:
        identify(found)
    message = str(refused.value)
    assert "looks like pipnet resnet18 (landmarks 7, neighbours 3, stride 32)" in message
    assert "18 missing: layer2.0.conv1.weight (128, 64, 3, 3)" in message
    assert "18 unexpected: other.layer2.0.conv1.weight" in message
    assert "1 of another shape: x_layer.weight (8, 512, 1, 1) instead of (7, 512, 1, 1)" in message
    assert message.count("layer2.0.") == 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nb_x_layer.weight": (22, 512, 1, 1)}, "22 rows, which is no multiple of the 7"),
        ({"nb_x_layer.weight": (49, 512, 1, 1)}, "neighbours < landmarks"),
        ({"nb_x_layer.weight": None}, "nb_x_layer.weight is missing"),
        ({"nb_y_layer.weight": (28, 512, 1, 1)}, "1 of another shape: nb_y_layer.weight"),
        ({"cls_layer.weight": (7, 512)}, r"cls_layer.weight has shape \(7, 512\)"),
        ({"cls_layer.weight": (0, 512, 1, 1)}, "cls_layer.weight has shape"),
        ({"cls_layer.weight": (2**70, 512, 1, 1)}, "cls_layer.weight has shape"),
        ({"cls_layer.weight": ()}, "cls_layer.weight has shape"),
        ({"layer5.weight": (512, 512, 3, 3)}, "stride 64.* 6 missing: layer5.bias"),
        ({"layer1.2.conv1.weight": (64, 64, 3, 3)}, "1 unexpected: layer1.2.conv1.weight"),
        ({"layer1.0.conv1.weight": None}, "heads on an unknown trunk"),
    ],
)
def test_spoiled_pipnets_are_refused(changes, message):
    found = {**shapes(RESNET18), **changes}
    with pytest.raises(CheckpointError, match=message):
        identify({name: shape for name, shape in found.items() if shape is not None})


def test_a_stride_that_the_trunk_cannot_have_is_refused():
    found = shapes(Architecture("pipnet", "resnet50", 7, neighbours=3, stride=32))
    with pytest.raises(CheckpointError, match=r"resnet50 has stride 32, got 64.*resnet18"):
        identify({**found, "layer5.weight": (512, 2048, 3, 3)})


def test_more_halvings_than_an_offset_map_bears_are_refused():
    found = shapes(Architecture("hih", "hourglass1", 7, stacks=1, offset_size=2))
    for i in range(4, 400):
        found[f"offset_head.down_ops.{i}.conv1.conv.weight"] = (384, 384, 3, 3)
    with pytest.raises(CheckpointError, match="offset_size"):
        identify(found)


def test_a_detector_with_another_number_of_points_is_refused():
    found = shapes(Architecture("retinaface", "mobilenet0.25", 5))
    found["LandmarkHead.0.conv1x1.weight"] = (136, 64, 1, 1)
    with pytest.raises(CheckpointError, match=r"another shape: LandmarkHead\.0"):
        identify(found)


def test_identifying_allocates_nothing():
    many = Architecture("pipnet", "resnet50", 90_000, neighbours=1, stride=32)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert identify(shapes(many)) == many  # 3.7 GB of weights, were they real
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


@settings(max_examples=60)
@given(
    architecture=st.sampled_from([a for a in EVERY if a.stacks < 3]),
    place=st.integers(0, 10**6),
    shape=st.none() | st.lists(st.integers(0, 2**70) | st.integers(0, 9), max_size=5).map(tuple),
)
def test_a_spoiled_tensor_is_always_refused(architecture, place, shape):
    found = shapes(architecture)
    name = list(found)[place % len(found)]
    if shape == found[name]:
        return
    if shape is None:
        del found[name]
    else:
        found[name] = shape
    with pytest.raises(CheckpointError):
        identify(found)


# --- loading --------------------------------------------------------------------------------


def test_weights_are_loaded_with_and_without_counters():
    torch.manual_seed(0)
    source, target = build(RESNET18), build(RESNET18)
    source.bn1.num_batches_tracked += 7
    weights = source.state_dict()
    assert not torch.equal(target.conv1.weight, source.conv1.weight)
    load_weights(target, weights)
    for name, tensor in target.state_dict().items():
        assert torch.equal(tensor, weights[name]), name
    old = {k: v for k, v in weights.items() if not k.endswith("num_batches_tracked")}
    fresh = build(RESNET18)
    load_weights(fresh, old)
    assert torch.equal(fresh.layer4[1].bn2.running_var, source.layer4[1].bn2.running_var)
    assert torch.equal(fresh.nb_y_layer.weight, source.nb_y_layer.weight)
    assert fresh.bn1.num_batches_tracked == 0


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("x_layer.bias", None, "1 missing: x_layer.bias"),
        ("extra.weight", torch.zeros(2), "1 unexpected: extra.weight"),
        ("x_layer.bias", torch.zeros(8), r"x_layer.bias \(8,\) instead of \(7,\)"),
        ("x_layer.bias", torch.zeros(7, dtype=torch.int8), "x_layer.bias torch.int8"),
        ("x_layer.bias", [0.0] * 7, "not tensors: x_layer.bias"),
    ],
)
def test_weights_that_do_not_fit_change_nothing(name, value, message):
    network = build(RESNET18)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    weights = {k: torch.ones_like(v) for k, v in before.items()}
    weights[name] = value
    with pytest.raises(CheckpointError, match=message):
        load_weights(network, {k: v for k, v in weights.items() if v is not None})
    for key, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[key]), key
