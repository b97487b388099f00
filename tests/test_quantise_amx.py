"""int8 convolutions stored for AMX: the same numbers, the choice by time, what is refused."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import landmark_spec
from onnx import helper, numpy_helper
from test_export import pip_spec, random_checkpoint
from test_quantise import (
    PLAIN,
    command,
    constants,
    counted,
    draw_folder,
    inputs_of_convolutions,
    network,
)

from facemark_export import onnx_file, precision, quantise_amx, quantise_search
from facemark_export.export import export_checkpoint
from facemark_export.export_file import export_file
from facemark_export.making import Form
from facemark_export.precision_speed import operator_times
from facemark_export.quantise import Quantiser
from facemark_export.quantise_amx import choose_for_amx, storable, stored_for_amx
from facemark_sdk.backends import create_backend
from facemark_sdk.backends.cpus import has_amx_int8
from facemark_sdk.decode.pip import OUTPUT_NAMES
from facemark_sdk.errors import BackendError, ModelError
from facemark_sdk.models import resolve_model

TRUNK = ("first", "second", "third")


@pytest.fixture(scope="module")
def images():
    """Noise, black and white, (4, 128, 128, 3) uint8."""
    noise = np.random.default_rng(2).integers(0, 256, (2, 128, 128, 3), np.uint8)
    return np.concatenate([noise, np.zeros_like(noise[:1]), np.full_like(noise[:1], 255)])


@pytest.fixture(scope="module")
def model(images):
    """The small network in int8."""
    quantiser = Quantiser(network(), PLAIN, [images])
    return quantiser.model(quantiser.layers)


@pytest.fixture
def clock(monkeypatch):
    """Microseconds of convolutions stored for AMX, 100 otherwise; the network takes their sum."""
    times = {}

    def of_operators(files, images):
        return [
            {name: times.get(name, 100.0) if -1 in zero else 100.0 for name, zero in each.items()}
            for each in (stored(onnx.load(path)) for path in files)
        ]

    def of_networks(files, images):
        return [sum(each.values()) for each in of_operators(files, images)]

    monkeypatch.setattr(quantise_amx, "operator_times", of_operators)
    monkeypatch.setattr(quantise_amx, "milliseconds", of_networks)
    return times


def outputs(model, images, path):
    """What the SDK finds: it tells ONNX Runtime to be exact on every CPU."""
    onnx.save(model, path)
    return create_backend("cpu", path, 1).run({"image": images})


def stored(model):
    """The zero points of each convolution's weights, which all are int8."""
    held = constants(model)
    found = inputs_of_convolutions(model).items()
    return {name: set(held[weight.input[2]].tolist()) for name, (_, weight) in found}


# --- the graph


@pytest.mark.parametrize("source", [None, "pipnet_lite0_68_int8", "retinaface_mnet025_int8"])
def test_outputs_are_the_same_to_the_bit(model, images, tmp_path, source):
    if source is not None:
        model = onnx.load(resolve_model(source))
        images = np.random.default_rng(3).integers(0, 256, (2, 256, 256, 3), np.uint8)
    names = storable(model)
    assert len(names) >= 8
    wanted = outputs(model, images, tmp_path / "plain.onnx")
    found = outputs(stored_for_amx(model, names), images, tmp_path / "amx.onnx")
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array)


def test_only_the_named_convolutions_change(model):
    before = model.SerializeToString()
    changed = stored_for_amx(model, {"second"})
    assert model.SerializeToString() == before
    onnx.checker.check_model(changed, full_check=True)
    assert stored(changed) == {**stored(model), "second": {-1}}
    was, now = constants(model), constants(changed)
    (_, old), (_, new) = (inputs_of_convolutions(each)["second"] for each in (model, changed))
    np.testing.assert_array_equal(now[new.input[0]].astype(int), was[old.input[0]].astype(int) - 1)
    assert new.input[1] == old.input[1]
    assert now[new.input[2]].dtype == np.int8
    assert now[new.input[2]].shape == now[new.input[1]].shape
    assert new.attribute == old.attribute
    assert set(was) - set(now) == {old.input[0], old.input[2]}  # nothing is left that none takes
    assert set(now) - set(was) == {new.input[0], new.input[2]}
    for name in set(was) & set(now):
        np.testing.assert_array_equal(now[name], was[name])


def test_weights_that_cannot_be_one_lower_are_left_alone(model, images):
    assert set(storable(model)) == {*TRUNK, *OUTPUT_NAMES}
    shared = onnx.ModelProto()
    shared.CopyFrom(model)
    nodes = {node.name: node for node in shared.graph.node}
    nodes["y"].input[1] = nodes["x"].input[1]
    assert set(storable(model)) - set(storable(shared)) == {"x", "y"}
    other = onnx.ModelProto()
    other.CopyFrom(model)
    tensors = {tensor.name: tensor for tensor in other.graph.initializer}
    weights = {name: weight for name, (_, weight) in inputs_of_convolutions(other).items()}

    def put(name, position, change):
        tensor = tensors[weights[name].input[position]]
        array = numpy_helper.to_array(tensor).copy()
        change(array)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))

    put("first", 0, lambda array: array.reshape(-1).__setitem__(5, -128))
    put("second", 2, lambda array: array.__setitem__(1, -1))
    (third,) = (node for node in other.graph.node if node.name == "third")
    third.attribute.append(helper.make_attribute("group", 2))
    assert set(storable(other)) == set(OUTPUT_NAMES)
    for name in TRUNK:
        with pytest.raises(ValueError, match=name):
            stored_for_amx(other, {"cls", name})
    assert storable(network()) == ()  # float
    quantiser = Quantiser(network(), PLAIN, [images])
    part = quantiser.model(quantiser.layers[1:])
    assert set(storable(part)) == {*TRUNK[1:], *OUTPUT_NAMES}


# --- the choice


def test_times_are_found_by_the_convolutions_names(model, images, tmp_path):
    files = [tmp_path / "plain.onnx", tmp_path / "amx.onnx"]
    for path, each in zip(files, (model, stored_for_amx(model, storable(model))), strict=True):
        onnx.save(each, path)
    for times in operator_times(files, images[:1]):
        assert set(storable(model)) <= set(times)
        assert all(times[name] > 0 for name in storable(model))
    assert sorted(tmp_path.iterdir()) == sorted(files)


def test_convolutions_that_are_clearly_faster_are_stored(model, images, clock):
    clock.update(first=250.0, second=50.0, third=89.0, cls=95.0)
    changed, choice = choose_for_amx(model, images[:1], print)
    assert choice.taken == ("second", "third")
    assert ("cls", 100.0, 95.0) in choice.convolutions
    assert len(choice.convolutions) == 8
    assert {name for name, zero in stored(changed).items() if zero == {-1}} == {"second", "third"}


@pytest.mark.parametrize("slower", [True, False], ids=["as a whole", "each of them"])
def test_a_network_that_is_not_faster_is_left_as_it_was(model, images, clock, monkeypatch, slower):
    clock.update(dict.fromkeys(TRUNK, 50.0 if slower else 100.0))
    monkeypatch.setattr(quantise_amx, "milliseconds", lambda files, images: [5.1, 4.9, 4.9, 4.9])
    changed, choice = choose_for_amx(model, images[:1], print)
    assert changed is model
    assert choice.taken == ()
    assert choice.p50_ms == ((5.0, 4.9) if slower else ())
    assert ("4.90 ms" if slower else "none is faster") in choice.in_words()


# --- the command


@pytest.fixture
def fp32(tmp_path, mean_face):
    path = tmp_path / "fp32.onnx"
    spec = dataclasses.replace(landmark_spec(mean_face), input=PLAIN)
    onnx_file.save(network(), spec, path)
    return path


@pytest.fixture(params=[True, False], ids=["AMX", "no AMX"])
def amx(request, monkeypatch):
    monkeypatch.setattr(quantise_amx, "has_amx_int8", lambda: request.param)
    return request.param


def test_a_file_for_amx_says_so_and_finds_the_same(
    tmp_path, tmp_path_factory, photo, fp32, images, clock, amx, monkeypatch, capsys
):
    for module in (quantise_search, precision):
        monkeypatch.setattr(module, "milliseconds", counted)
    folder = draw_folder(tmp_path_factory.mktemp("photos"), photo)
    clock.update(second=50.0, third=60.0)
    options = ("--precision", "int8", "--calibration", folder, "--max-loss", 100)
    out, plain = tmp_path / "amx.onnx", tmp_path / "plain.onnx"
    status, said = command(monkeypatch, capsys, "--onnx", fp32, "-o", out, *options, "--amx")
    if not amx:
        assert (status, out.exists()) == (1, False)
        assert "this CPU has no AMX" in said
        return
    assert status == 0
    assert "2 of 8 int8 convolutions are for AMX" in said
    assert command(monkeypatch, capsys, "--onnx", fp32, "-o", plain, *options)[0] == 0
    reports = [
        json.loads(path.with_suffix(".onnx.report.json").read_text()) for path in (out, plain)
    ]
    told, none = (report["ladder"]["amx"] for report in reports)
    assert none is None
    assert told["taken"] == ["second", "third"]
    assert told["p50_ms"] == [800, 710]
    found, wanted = (create_backend("cpu", path, 1).run({"image": images}) for path in (out, plain))
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array)


def test_it_is_refused_before_anything_is_measured(tmp_path, fp32, amx, mean_face):
    ckpt, _ = random_checkpoint(tmp_path, pip_spec("resnet18", mean_face))
    out = tmp_path / "x.onnx"
    with pytest.raises(ModelError, match="--amx is for --precision int8"):
        export_checkpoint(ckpt, out, form=Form("fp16", amx=True))
    int8 = Form("int8", calibration=[tmp_path], amx=True)
    with pytest.raises(ModelError, match="without --engine"):
        export_checkpoint(ckpt, out, form=dataclasses.replace(int8, symmetric=True))
    if not amx:
        with pytest.raises(BackendError, match="amx_int8 in /proc/cpuinfo"):
            export_checkpoint(ckpt, out, form=int8)
        with pytest.raises(BackendError, match="--amx"):
            export_file(fp32, out, Form("int8", calibration=[tmp_path / "absent"], amx=True))
    assert not out.exists()


@pytest.mark.parametrize(
    "options",
    [
        ("--onnx", "fp32.onnx"),
        ("--ckpt", "x.safetensors", "--precision", "fp16"),
        ("--ckpt", "x", "--precision", "int8", "--calibration", ".", "--engine"),
    ],
)
def test_amx_without_int8_for_cpus_is_wrong_use(tmp_path, monkeypatch, capsys, options):
    out = tmp_path / "x.onnx"
    status, said = command(monkeypatch, capsys, *options, "-o", out, "--amx")
    assert status == 2
    assert "--amx is for --precision int8" in said


@pytest.mark.skipif(not has_amx_int8(), reason="the CPU has no AMX")
def test_a_module_runs_without_amx():
    asked = "assert __import__('ctypes').CDLL(None).syscall(158, 0x1023, 18)"
    script = Path(__file__).parents[1] / "benchmarks" / "without_amx.py"
    once = ("timeit", "-n", "1", "-r", "1", asked)
    assert subprocess.run([sys.executable, script, *once], check=False).returncode == 0
    assert subprocess.run([sys.executable, "-m", *once], check=False).returncode != 0
