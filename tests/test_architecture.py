"""Specs and the networks they describe; refusals of what no network is."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import onnx
import pytest
import torch
from test_identify import RESNET18

from facemark_export.networks import build_network
from facemark_export.networks.architecture import Architecture, architecture_of, build
from facemark_export.networks.hourglass import HeatmapInHeatmap
from facemark_export.networks.pipnet import ARCHITECTURES, build_pipnet
from facemark_export.training.recipes import RECIPES
from facemark_sdk.errors import LayoutError, ModelError
from facemark_sdk.models import list_models, resolve_model
from facemark_sdk.spec import METADATA_KEY, ModelSpec

HIH = Architecture("hih", "hourglass2", 3, stacks=2, offset_size=8)


def pip_spec(**changes):
    return dataclasses.replace(
        RECIPES["pipnet_lite0_68"][1].model_spec(np.random.default_rng(0).random((68, 2))),
        **changes,
    )


def test_specs_tell_their_architecture():
    assert architecture_of(pip_spec()) == Architecture(
        "pipnet", "efficientnet_lite0", 68, neighbours=10, stride=32
    )
    hourglass = pip_spec(family="hih", architecture="hourglass4", decoder_params={"offset_size": 8})
    assert architecture_of(hourglass) == Architecture(
        "hih", "hourglass4", 68, stacks=4, offset_size=8
    )
    hrnet = pip_spec(family="hrnet", architecture="hrnetv2_w18", decoder_params={})
    assert architecture_of(hrnet) == Architecture("hrnet", "hrnetv2_w18", 68)
    for name in ("mobilenet025", "mobilenet0.25"):
        detector = dataclasses.replace(RECIPES["retinaface_mnet025"][1].spec(), architecture=name)
        assert architecture_of(detector) == Architecture("retinaface", "mobilenet0.25", 5)


@pytest.mark.parametrize("name", list_models())
def test_bundled_models_are_of_known_networks(name):
    metadata = {entry.key: entry.value for entry in onnx.load(resolve_model(name)).metadata_props}
    spec = ModelSpec.from_json(metadata[METADATA_KEY])
    with torch.device("meta"):
        assert len(build_network(spec).state_dict()) >= 300


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family": "fan"}, "'fan'; known: pipnet"),
        ({"architecture": "vgg"}, "unknown PIPNet architecture 'vgg'"),
        ({"decoder_params": {"stride": 32}}, "must state neighbours"),
        ({"decoder_params": {"stride": 32, "neighbours": [1, 2]}}, "table"),
        ({"decoder_params": {"neighbours": [[1, 2]]}}, "must state stride"),
        ({"decoder_params": {"neighbours": [[1, 2]], "stride": 32.5}}, "whole number"),
        ({"decoder_params": {"neighbours": [[1, 2]], "stride": 64}}, "stride .*32, got 64"),
        ({"family": "hrnet", "architecture": "hrnet_w32"}, "known: .*hrnetv2_w18"),
        ({"family": "hih", "architecture": "hourglass"}, "unknown HIH"),
        ({"family": "hih", "architecture": "hourglass4"}, "must state offset_size"),
        (
            {"family": "hih", "architecture": "hourglass4", "decoder_params": {"offset_size": 32}},
            "offset_size among",
        ),
        ({"family": "retinaface", "architecture": "resnet50"}, "5 landmarks a face, got 68"),
        (
            {"family": "retinaface", "architecture": "resnet34", "layout": "kps5"},
            "known: mobilenet0.25, mobilenet0.25_relu, resnet50",
        ),
    ],
)
def test_specs_of_no_network_are_refused(changes, message):
    with pytest.raises(ModelError, match=message):
        build_network(pip_spec(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "not of pipnet with pip"),
        ({"decoder": "regression"}, "not of pipnet with regression"),
        ({"family": "regression", "decoder": "regression"}, "not of regression with regression"),
        ({"family": "mapnet", "decoder": "argmax"}, "not of mapnet with argmax"),
        (
            {"family": "hih", "architecture": "hourglass1", "decoder": "regression"},
            "not of hih with regression",
        ),
    ],
)
def test_correction_is_of_networks_that_give_maps_alone(changes, message):
    neighbours = [[1, 2]] * 68
    numbers = {"neighbours": neighbours, "stride": 4, "offset_size": 8}
    if changes.get("family", "pipnet") == "pipnet":
        numbers["stride"] = 32
    spec = pip_spec(**changes, decoder_params={**numbers, "correction": True})
    with (
        torch.device("meta"),
        pytest.raises(ModelError, match=f"correction is of hrnet, mapnet, .*{message}"),
    ):
        build_network(spec)


def test_an_unknown_layout_is_refused():
    with pytest.raises(LayoutError, match="'moon'"):
        build_network(pip_spec(layout="moon"))


@pytest.mark.parametrize("name", sorted(set(ARCHITECTURES) - {"resnet18"}))
def test_coarser_strides_are_for_resnet18(name):
    with pytest.raises(ModelError, match=f"{name} has stride .*32, got 64"):
        build_pipnet(name, 7, 3, stride=64)


@pytest.mark.parametrize("stride", [0, 8, 48, 256])
def test_unpublished_strides_are_refused(stride):
    with pytest.raises(ModelError, match=re.escape("16 or 32 or 64 or 128")):
        build_pipnet("resnet18", 7, 3, stride=stride)


@pytest.mark.parametrize("numbers", [(0, 1, 8), (7, 0, 8), (7, 17, 8), (7, 1, 32), (7, 1, 6)])
def test_impossible_hourglasses_are_refused(numbers):
    with pytest.raises(ModelError, match="HIH needs"):
        HeatmapInHeatmap(*numbers)


def test_names_and_numbers_must_agree():
    with pytest.raises(ModelError, match="hourglass2"):
        build(dataclasses.replace(HIH, stacks=3))
    with pytest.raises(ModelError, match="at least one landmark"):
        build(Architecture("hrnet", "hrnetv2_w18", 0))
    assert str(RESNET18) == "pipnet resnet18 (landmarks 7, neighbours 3, stride 32)"
