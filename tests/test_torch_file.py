"""Checkpoints from strangers: every layout is read, and nothing in a file is ever run."""

from __future__ import annotations

import collections
import copyreg
import functools
import io
import operator
import os
import pickle
import shutil
import struct
import subprocess
import sys
import tarfile
import types
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from safetensors.torch import save as safetensors_bytes
from torch import nn

from facemark_export.torch_file import read_weights, state_dict, unpickle
from facemark_sdk.errors import CheckpointError

MAGIC = 0x1950A86A20F9469CFC6C
LITTLE = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}

formats = pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])


def save(what, path, legacy, **options):
    torch.save(what, path, _use_new_zipfile_serialization=not legacy, **options)
    return path


def pack(pickled, path, legacy, storages=(), machine=LITTLE):
    """A file of torch's layout around any pickle; `storages` are pairs of key and float32s."""
    if legacy:
        parts = [pickle.dumps(value, 2) for value in (MAGIC, 1001, machine)]
        parts += [pickled, pickle.dumps([key for key, _ in storages], 2)]
        for _, values in storages:
            parts += [struct.pack("<q", len(values)), np.asarray(values, "<f4").tobytes()]
        path.write_bytes(b"".join(parts))
        return path
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("any/data.pkl", pickled)
        archive.writestr("any/byteorder", "little" if machine["little_endian"] else "big")
        for key, values in storages:
            archive.writestr(f"any/data/{key}", np.asarray(values, "<f4").tobytes())
    return path


class Reduced:
    """An object whose pickle asks for any call."""

    def __init__(self, *reduced):
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


class Stored:
    """A storage whose persistent id says what it likes."""

    def __init__(self, *identity):
        self.identity = identity


class Pickler(pickle.Pickler):
    def persistent_id(self, value):
        return value.identity if isinstance(value, Stored) else None


def dumped(what):
    buffer = io.BytesIO()
    Pickler(buffer, 2).dump(what)
    return buffer.getvalue()


def floats(count, key="0", view=()):
    return Stored("storage", torch.FloatStorage, key, "cpu", count, *view)


def tensor_of(storage, offset, size, stride):
    return Reduced(
        torch._utils._rebuild_tensor_v2, (storage, offset, size, stride, False, OrderedDict())
    )


def network():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.Sequential(nn.PReLU(), nn.Linear(2, 5)),
    )
    net(torch.rand(2, 3, 4, 4))
    return net


def adam_state(net):
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.rand(2, 3, 4, 4)).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


def assert_same(weights, expected):
    """Names in order, values and types; floats are float32 and all contiguous."""
    assert list(weights) == list(expected)
    for name, weight in weights.items():
        wanted = expected[name].detach()
        wanted = wanted.float() if wanted.is_floating_point() else wanted
        assert type(weight) is torch.Tensor
        assert weight.is_contiguous() and not weight.requires_grad
        assert weight.dtype == wanted.dtype
        torch.testing.assert_close(weight, wanted, rtol=0, atol=0)


# What is read.


def shared_and_strided():
    base = torch.arange(24.0).reshape(4, 6)
    return {
        "all": base,
        "transposed": base.T,
        "strided": base[1::2, ::3],
        "tied": base,
        "scalar": base[2, 3],
        "empty": base[:0],
        "channels_last": torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
    }


def all_types():
    floating = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    whole = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
    return {str(dtype): torch.tensor([0, 1, 3]).to(dtype) for dtype in (*floating, *whole)}


STATE_DICTS = {
    "state dict": lambda: network().state_dict(),
    "parameters": lambda: dict(network().named_parameters()),
    "half": lambda: network().half().state_dict(),
    "types": all_types,
    "shared and strided": shared_and_strided,
    "buffer named like a wrapper": lambda: {"model": torch.ones(2), "net": torch.zeros(2)},
}


@formats
@pytest.mark.parametrize("kind", STATE_DICTS)
def test_a_bare_state_dict_is_read_as_torch_reads_it(kind, legacy, tmp_path):
    path = save(STATE_DICTS[kind](), tmp_path / "epoch59.pth", legacy)
    assert_same(read_weights(path), torch.load(path, weights_only=True))


@formats
@pytest.mark.parametrize(
    "wrap",
    [
        lambda net: {"state_dict": net.state_dict()},
        lambda net: {"epoch": 3, "model": {"state_dict": net.state_dict()}},
        lambda net: {"model_state_dict": net.state_dict(), "args": types.SimpleNamespace(lr=0.1)},
        lambda net: {"net": net.state_dict(), "path": Path("a"), "best": np.float64(0.3)},
        lambda net: {"weights": nn.DataParallel(nn.DataParallel(net)).state_dict()},
        lambda net: nn.DataParallel(net).state_dict(),
        lambda net: {f"_orig_mod.module.{name}": v for name, v in net.state_dict().items()},
        lambda net: {"params": {f"model.{name}": v for name, v in net.state_dict().items()}},
        lambda net: {f"module.{name}": value for name, value in net.state_dict().items()},
        lambda net: {
            "state_dict": net.state_dict(),
            "best_nme": {"epoch": 7, "nme": np.float32(4.08), "all": np.arange(3.0)},
            "optimizer": adam_state(net),
            "epoch": 8,
            "history": collections.defaultdict(list, a=[1]),
            "milestones": collections.Counter({30: 1}),
            "kinds": (torch.float16, torch.device("cpu"), {1, 2}, frozenset("a"), 1j, slice(1)),
        },
        lambda net: {"state_dict": net, "optimizer": adam_state(net)},
        nn.DataParallel,
    ],
)
def test_wrapped_weights_are_found_and_lose_the_module_prefix(wrap, legacy, tmp_path):
    net = network()
    path = save(wrap(net), tmp_path / "a.pth", legacy)
    assert_same(read_weights(path), net.state_dict())


@formats
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol_is_read(protocol, legacy, tmp_path):
    what = {"state_dict": network(), "seen": {1, "b"}, "raw": b"\xff", "array": bytearray(b"x")}
    path = save(what, tmp_path / "a.pth", legacy, pickle_protocol=protocol)
    assert_same(read_weights(path), what["state_dict"].state_dict())


def test_one_name_with_the_module_prefix_keeps_it(tmp_path):
    what = {"module.a": torch.ones(2), "b": torch.ones(1)}
    assert list(read_weights(save(what, tmp_path / "a.pth", False))) == list(what)


def test_safetensors_are_read(tmp_path):
    tensors = {"n": torch.tensor(4), "w": torch.rand(3).half()}
    save_file({f"module.{k}": v for k, v in tensors.items()}, tmp_path / "a.safetensors")
    assert_same(read_weights(tmp_path / "a.safetensors"), tensors)


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_weights_are_independent_of_the_file_and_of_each_other(kind, tmp_path):
    values, path = torch.arange(4.0), tmp_path / "a"
    if kind == "safetensors":
        save_file({"a": values, "b": values.clone()}, path)
    else:
        save({"a": values, "b": values}, path, kind == "legacy")
    weights = read_weights(path)
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    weights["a"] += 1
    torch.testing.assert_close(weights["b"], torch.arange(4.0))


@formats
def test_the_oldest_form_of_a_parameter_is_read(legacy, tmp_path):
    weight = Reduced(nn.Parameter, (tensor_of(floats(4), 0, (2, 2), (2, 1)),), (True, False, {}))
    path = pack(dumped(OrderedDict(w=weight)), tmp_path / "a.pth", legacy, [("0", [1, 2, 3, 4])])
    assert read_weights(path)["w"].tolist() == [[1, 2], [3, 4]]


def test_views_of_a_legacy_storage_are_read(tmp_path):
    views = {
        "low": tensor_of(floats(6, view=(("v", 0, 3),)), 1, (2,), (1,)),
        "high": tensor_of(floats(6, view=(("w", 2, 4),)), 1, (3,), (1,)),
        "all": tensor_of(floats(6, view=(None,)), 0, (2, 3), (1, 2)),
    }
    path = pack(dumped(views), tmp_path / "a.pth", True, [("0", range(6))])
    weights = {name: weight.tolist() for name, weight in read_weights(path).items()}
    assert weights == {"low": [1, 2], "high": [3, 4, 5], "all": [[0, 2, 4], [1, 3, 5]]}


def test_a_view_beyond_its_legacy_storage_is_refused(tmp_path):
    what = {"w": tensor_of(floats(6, view=(("v", 4, 3),)), 0, (3,), (1,))}
    path = pack(dumped(what), tmp_path / "a.pth", True, [("0", range(6))])
    with pytest.raises(CheckpointError, match="view reaches beyond"):
        read_weights(path)


def test_a_file_of_python_2_is_read(tmp_path):
    class Python2Pickler(pickle._Pickler):
        """Writes text as byte strings, and old names, as Python 2 did."""

        def save_bytes_string(self, text):
            data = text.encode("latin-1" if text == "ä" else "utf-8")
            self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)
            self.memoize(text)

        dispatch = {**pickle._Pickler.dispatch, str: save_bytes_string}  # noqa: RUF012

    old = types.SimpleNamespace(__name__="cPickle", Pickler=Python2Pickler, dump=pickle.dump)
    pairs = [["a", torch.ones(2)], ["ä", torch.zeros(1)], ["ö", torch.zeros(3)]]
    what = {"state_dict": Reduced(OrderedDict, (pairs,)), "seen": Reduced(set, ([1, 2],))}
    path = save(what, tmp_path / "a.pth", True, pickle_module=old)
    assert b"__builtin__" in path.read_bytes()
    assert_same(read_weights(path), dict(pairs))


# Whole modules, of classes that only the writing process has.

HRNET_PY = """
import torch
from torch import nn
from yacs.config import CfgNode


class BasicBlock(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.register_parameter("none", None)
        self.downsample = None


class HighResolutionNet(nn.Module):
    def __init__(self, config):
        self.inplanes = 64
        super().__init__()
        self.config, self.seen, self.widths = config, {1, 2}, (18, 36)
        self.register_buffer("passing", torch.ones(3), persistent=False)
        self.register_buffer("mean", torch.rand(3))
        self.scale = nn.Parameter(torch.rand(1))
        self.stage2 = nn.Sequential(BasicBlock(2), nn.ModuleList([BasicBlock(3), nn.ReLU()]))
        self.tied = self.stage2[0]
        self.layers = nn.ModuleDict({"up": nn.Upsample(scale_factor=2), "fc": nn.Linear(2, 3)})
        self.activation = nn.functional.relu
"""
CONFIG_PY = """
class CfgNode(dict):
    def __init__(self, items):
        super().__init__(items)
        self.__dict__["__immutable__"] = True
"""
WRITER_PY = """
import numpy as np, torch
from torch import nn
from safetensors.torch import save_file
from lib.models.hrnet import HighResolutionNet
from yacs.config import CfgNode

torch.manual_seed(3)
net = HighResolutionNet(CfgNode({"MODEL": CfgNode({"NAME": "hrnet"}), "GPUS": [0, 1]}))
save_file({k: v.clone() for k, v in net.state_dict().items()}, "expected.safetensors")
open("names.txt", "w").write("\\n".join(net.state_dict()))
optimizer = torch.optim.Adam(net.parameters())
checkpoint = {"state_dict": nn.DataParallel(net), "epoch": 1, "best_nme": np.float64(4.6),
              "optimizer": optimizer.state_dict()}
for name, what in {"checkpoint_0": checkpoint, "model_best": net}.items():
    torch.save(what, f"{name}_zip.pth")
    torch.save(what, f"{name}_legacy.pth", _use_new_zipfile_serialization=False)
"""


@pytest.fixture(scope="module")
def hrnet_folder(tmp_path_factory):
    """HRNet's four layouts of a pickled network (COMPAT 2.1), written by another process."""
    folder = tmp_path_factory.mktemp("hrnet")
    files = {
        "lib/models/hrnet.py": HRNET_PY,
        "lib/models/__init__.py": "",
        "lib/__init__.py": "",
        "yacs/__init__.py": "",
        "yacs/config.py": CONFIG_PY,
        "write.py": WRITER_PY,
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    subprocess.run([sys.executable, "write.py"], cwd=folder, check=True, timeout=120)
    return folder


@pytest.mark.parametrize("serialisation", ["zip", "legacy"])
@pytest.mark.parametrize("name", ["checkpoint_0", "model_best"])
def test_a_whole_module_is_read_without_its_classes(hrnet_folder, name, serialisation):
    weights = read_weights(hrnet_folder / f"{name}_{serialisation}.pth")
    expected = load_file(hrnet_folder / "expected.safetensors")
    names = (hrnet_folder / "names.txt").read_text().split("\n")
    assert "passing" not in names and "tied.conv1.weight" in names
    assert_same(weights, {name: expected[name] for name in names})
    assert not {"lib", "yacs"} & {module.partition(".")[0] for module in sys.modules}


@formats
def test_modules_without_end_are_refused(legacy, tmp_path):
    cyclic, doubling = nn.Module(), nn.Linear(1, 1)
    cyclic.child = cyclic
    for _ in range(40):
        doubling = nn.Sequential(doubling, doubling)
    for module in (cyclic, doubling):
        with pytest.raises(CheckpointError, match="without end"):
            read_weights(save(module, tmp_path / "a.pth", legacy))


# Files that would run something.


def calls(marker):
    """Ways to make a file at `marker`, as `__reduce__` would ask for them."""
    command, python = f'echo ran > "{marker}"', f"open({str(marker)!r}, 'w').close()"
    shell = Reduced(getattr, (Reduced(__import__, ("os",)), "system"))
    return {
        "os.system": Reduced(os.system, (command,)),
        "eval": Reduced(eval, (python,)),
        "exec": Reduced(exec, (python,)),
        "open": Reduced(open, (str(marker), "w")),
        "Popen": Reduced(subprocess.Popen, (["touch", str(marker)],)),
        "getattr": Reduced(Caller(shell), (command,)),
        "partial": Reduced(Caller(Reduced(functools.partial, (os.system, command))), ()),
        "methodcaller": Reduced(
            Caller(Reduced(operator.methodcaller, ("system", command))),
            (Reduced(__import__, ("os",)),),
        ),
        "copytree": Reduced(shutil.copyfile, (__file__, str(marker))),
    }


class Caller:
    """Pickled as the function that its payload gives; callable, as pickle asks of functions."""

    def __init__(self, payload):
        self.payload = payload

    def __reduce__(self):
        return self.payload.__reduce__()

    def __call__(self):
        raise AssertionError


def opcodes(marker):
    """The same, by instructions that no pickler writes today."""
    command = f'echo ran > "{marker}"'.encode()
    text = b"X" + struct.pack("<I", len(command)) + command

    def short(word):
        return b"\x8c" + bytes([len(word)]) + word

    def from_stack(module, name):
        return b"\x80\x04" + short(module) + short(name) + b"\x93" + text + b"\x85R."

    return {
        "GLOBAL": b"\x80\x02cos\nsystem\n" + text + b"\x85R.",
        "GLOBAL of Python 2": b"\x80\x02c__builtin__\neval\nX\x05\x00\x00\x00exit()\x85R.",
        "INST": b"\x80\x02(" + text + b"ios\nsystem\n.",
        "OBJ": b"\x80\x02(cos\nsystem\n" + text + b"o.",
        "NEWOBJ": b"\x80\x02csubprocess\nPopen\n" + text + b"\x85\x81.",
        "STACK_GLOBAL": from_stack(b"os", b"system"),
        "dotted module": from_stack(b"torch.nn.modules.module.os", b"system"),
        "dotted name": from_stack(b"torch.nn", b"parallel.distributed.os.system"),
        "dotted reach": from_stack(b"torch._utils", b"sys.modules.get"),
        "prefix alone": from_stack(b"torch.nnx", b"system"),
        "dropped": b"\x80\x02cos\nsystem\n" + text + b"\x85R0}.",
    }


@formats
@pytest.mark.parametrize("kind", calls(""))
@pytest.mark.parametrize("place", ["alone", "in a state dict", "in an optimizer", "in a module"])
def test_a_call_is_refused_by_name_and_not_run(kind, place, legacy, tmp_path):
    marker, evil = tmp_path / "ran", calls(tmp_path / "ran")[kind]
    net = network()
    net[2].forward_note = evil
    what = {
        "alone": evil,
        "in a state dict": {"weight": torch.ones(2), "bias": evil},
        "in an optimizer": {"state_dict": {"weight": torch.ones(2)}, "optimizer": {"state": evil}},
        "in a module": {"state_dict": nn.DataParallel(net)},
    }[place]
    path = save(what, tmp_path / "evil.pth", legacy)
    with pytest.raises(CheckpointError, match=r": it names [\w.]+, which no checkpoint") as error:
        read_weights(path)
    assert str(path) in str(error.value) and not marker.exists()


@formats
@pytest.mark.parametrize("kind", opcodes(""))
def test_hand_written_instructions_run_nothing(kind, legacy, tmp_path):
    marker = tmp_path / "ran"
    path = pack(opcodes(marker)[kind], tmp_path / "evil.pth", legacy)
    with pytest.raises(CheckpointError, match=r"names .*; refused, nothing of it was run"):
        read_weights(path)
    assert not marker.exists()


def test_the_calls_above_do_run_in_pickle(tmp_path):
    live = {**{k: pickle.dumps(v) for k, v in calls("MARK").items()}, **opcodes("MARK")}
    del live["dotted module"], live["dotted name"], live["dotted reach"], live["prefix alone"]
    del live["GLOBAL of Python 2"], live["NEWOBJ"]
    loader = "import pickle, sys, time\nvalue = pickle.load(sys.stdin.buffer)\n"
    loader += "value.wait() if hasattr(value, 'wait') else None"
    for kind, pickled in live.items():
        folder = tmp_path / kind
        folder.mkdir()
        subprocess.run([sys.executable, "-c", loader], input=pickled, cwd=folder, check=True)
        assert (folder / "MARK").exists(), kind


@formats
def test_an_extension_code_is_refused(legacy, tmp_path):
    copyreg.add_extension("os", "system", 240)
    try:
        path = pack(b"\x80\x02\x82\xf0X\x01\x00\x00\x00:\x85R.", tmp_path / "a.pth", legacy)
        with pytest.raises(CheckpointError, match="EXT1"):
            read_weights(path)
    finally:
        copyreg.remove_extension("os", "system", 240)


@formats
@pytest.mark.parametrize(
    "name",
    [
        "torch._utils\n_rebuild_tensor_v2",
        "collections\nOrderedDict",
        "torch\nFloatStorage",
        "torch.nn.modules.linear\nLinear",
        "builtins\nset",
    ],
)
@pytest.mark.parametrize("state", [b"}X\x04\x00\x00\x00namels", b"N}X\x04\x00\x00\x00namels\x86"])
def test_what_stands_for_a_name_cannot_be_changed(name, state, legacy, tmp_path):
    state = state.replace(b"l", b"]")
    path = pack(b"\x80\x02c" + name.encode() + b"\n" + state + b"b.", tmp_path / "a.pth", legacy)
    with pytest.raises(CheckpointError, match="state for a Named"):
        read_weights(path)
    good = network().state_dict()
    assert_same(read_weights(save(good, tmp_path / "good.pth", legacy)), good)


# Files that lie about their size.


@formats
@pytest.mark.parametrize(
    ("offset", "size", "stride", "reason"),
    [
        (0, (3, 3), (3, 1), "beyond the end"),
        (1, (2, 2), (4, 1), "beyond the end"),
        (4, (1,), (1,), "beyond the end"),
        (0, (2,), (2**62,), "beyond the end"),
        (0, (2**40, 2**40), (0, 0), "more elements than its storage"),
        (0, (2,), (-1,), "stride is no whole number"),
        (-1, (2,), (1,), "offset is no whole number"),
        (0, (2**70,), (1,), "side is no whole number"),
        (0, (2, 2), (1,), "do not fit"),
        (0, (1,) * 65, (1,) * 65, "do not fit"),
        (0, 4, 1, "without storage, size or stride"),
    ],
)
def test_a_tensor_outside_its_storage_is_refused(offset, size, stride, reason, legacy, tmp_path):
    what = {"w": tensor_of(floats(4), offset, size, stride)}
    path = pack(dumped(what), tmp_path / "a.pth", legacy, [("0", range(4))])
    with pytest.raises(CheckpointError, match=reason):
        read_weights(path)


@formats
@pytest.mark.parametrize("count", [5, 10**12, 2**62])
def test_a_storage_larger_than_the_file_is_refused(count, legacy, tmp_path):
    what = {"w": tensor_of(floats(count), 0, (count,), (1,))}
    path = pack(dumped(what), tmp_path / "a.pth", legacy, [("0", range(4))])
    with pytest.raises(CheckpointError, match="damaged"):
        read_weights(path)


def test_a_legacy_count_larger_than_the_file_is_refused(tmp_path):
    count = 10**12
    what = {"w": tensor_of(floats(count), 0, (count,), (1,))}
    path = pack(dumped(what), tmp_path / "a.pth", True, [("0", range(4))])
    path.write_bytes(path.read_bytes()[:-24] + struct.pack("<q", count) + bytes(16))
    with pytest.raises(CheckpointError, match="cut off"):
        read_weights(path)


def test_an_archive_with_an_entry_larger_than_itself_is_refused(tmp_path):
    path = save(network(), tmp_path / "a.pth", False)
    content = bytearray(path.read_bytes())
    sizes = content.index(b"PK\x01\x02") + 20
    content[sizes : sizes + 8] = struct.pack("<II", 2**31, 2**31)
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="larger than the file"):
        read_weights(path)


@formats
def test_a_storage_that_a_thousand_tensors_share_is_refused(legacy, tmp_path):
    path = save(dict.fromkeys(map(str, range(1000)), torch.ones(8)), tmp_path / "a.pth", legacy)
    with pytest.raises(CheckpointError, match="share storage"):
        read_weights(path)


@formats
@pytest.mark.parametrize(
    ("pickled", "reason"),
    [
        (b"\x80\x02" + b"]" * 300_000 + b"a" * 299_999 + b".", "holds something of type list"),
        (b"\x80\x02}" + b")" + b"\x85" * 200_000 + b"Ns.", "key that is long or nested"),
        (b"\x80\x04\x8f(" + b")" + b"\x85" * 200_000 + b"\x90.", "key that is long or nested"),
        (b"\x80\x04(" + b")" + b"\x85" * 200_000 + b"\x91.", "key that is long or nested"),
        (b"\x80\x02}]Ns.", "key that is long or nested"),
        (b"\x80\x05\x96" + struct.pack("<Q", 2**50) + b".", "damaged"),
        (b"\x80\x02B" + struct.pack("<I", 2**32 - 1) + b".", "damaged"),
        (b"\x80\x02Nr" + struct.pack("<I", 2**32 - 1) + b".", "holds something of type NoneType"),
        (b"\x80\x04\x95" + struct.pack("<Q", 2**60) + b"N.", "holds something of type NoneType"),
        (b"\x80\x09N.", "protocol 9"),
        (b"\x80\x02", "damaged"),
        (b"\x80\x02.", "damaged"),
        (b"\x80\x02(.", "damaged"),
        (b"\x80\x021.", "damaged"),
        (b"\x80\x02h\x07.", "damaged"),
        (b"\x80\x02NNR.", "damaged"),
        (b"\x80\x02N)R.", "calls a NoneType"),
        (b"\x80\x02NQ.", "persistent id"),
        (b"\x80\x02NNa.", "damaged"),
        (b"\x80\x02NNNs.", "damaged"),
        (b"\x80\x02N(0.", "something of type NoneType"),
        (b"\x80\x02N2.", "something of type NoneType"),
        (b"\x80\x02N(N1.", "something of type NoneType"),
        (b"\x80\x04NN\x93.", "a name that is no text"),
        (b"\x80\x02(itorch.nn.modules.linear\nLinear\n.", "Linear, which has no weights"),
        (b"\x80\x02(ctorch.nn.modules.linear\nLinear\no.", "Linear, which has no weights"),
        (b"\x80\x04ctorch.nn\nLinear\n)}K\x01K\x02s\x92.", "Linear, which has no weights"),
        (b"\x80\x02ctorch\nSize\nK\x05\x85\x85R.", "something of type tuple"),
        (b"\x80\x02ctorch\nSize\nK\x05\x85R.", "where a list must be"),
        (b"\x80\x02ctorch\nSize\nNR.", "damaged"),
        (b"\x80\x02ctorch._utils\n_rebuild_parameter\nN\x85R.", "without a tensor"),
        (dumped(Stored("module", "Linear", "linear.py", "source")), "module without a class"),
        (dumped(Stored("storage", "Float", "0", "cpu", 1)), "storage without type or key"),
        (dumped(Stored("storage", torch.FloatStorage, 0, "cpu", 1)), "storage without type or key"),
        (dumped(Stored("tensor", torch.FloatStorage, "0", "cpu", 1)), "persistent id"),
        (dumped([floats(1), floats(2)]), "two types or lengths"),
        (dumped(floats(-1)), "length is no whole number"),
        (dumped(floats(1, view=("v",))), "view is no tuple"),
        (b"\x80\x05\x97.", "NEXT_BUFFER"),
        (b"\x80\x02Pstorage\n.", "PERSID"),
    ],
)
def test_a_pickle_that_makes_no_sense_is_refused(pickled, reason, legacy, tmp_path):
    with pytest.raises(CheckpointError, match=reason):
        read_weights(pack(pickled, tmp_path / "a.pth", legacy))


plain_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner, max_size=5).map(tuple)
        | st.dictionaries(st.text() | st.integers(-(2**63), 2**63), inner)
        | st.sets(st.text())
        | st.frozensets(st.integers(0, 99))
    ),
)


@given(value=plain_values, protocol=st.integers(0, 5))
def test_plain_values_are_read_as_pickle_reads_them(value, protocol):
    assert unpickle.Unpickler(io.BytesIO(pickle.dumps(value, protocol))).load() == value


@formats
def test_a_pickle_without_end_is_refused(legacy, tmp_path, monkeypatch):
    monkeypatch.setattr(unpickle, "_MOST_STEPS", 1000)
    copies = b"\x80\x02]q\x00(" + b"N" * 100 + b"e0" + b"cbuiltins\nlist\nh\x00\x85R0" * 10 + b"N."
    for pickled in (b"\x80\x02" + b"N0" * 1000 + b"N.", copies):
        with pytest.raises(CheckpointError, match="over 1000 steps"):
            read_weights(pack(pickled, tmp_path / "a.pth", legacy))


@formats
def test_a_storage_that_is_missing_is_refused(legacy, tmp_path):
    path = pack(dumped({"w": tensor_of(floats(2), 0, (2,), (1,))}), tmp_path / "a.pth", legacy)
    with pytest.raises(CheckpointError, match="incomplete"):
        read_weights(path)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e300])
def test_weights_that_are_not_finite_are_refused_by_name(bad, tmp_path):
    what = {"fine": torch.ones(2), "head.bias": torch.tensor([1, bad], dtype=torch.float64)}
    save_file(what, tmp_path / "a.safetensors")
    for path in (save(what, tmp_path / "a.pth", False), tmp_path / "a.safetensors"):
        with pytest.raises(CheckpointError, match=r"head\.bias has values"):
            read_weights(path)


# Files that hold something else.


@formats
@pytest.mark.parametrize(
    ("what", "found"),
    [
        (torch.zeros(5, 98, 2), r"one tensor of size \(5, 98, 2\)"),
        ([torch.zeros(2)], "holds something of type list"),
        ({}, "something of type dict"),
        ({"epoch": 3, "lr": 0.1}, '"epoch", "lr", where "epoch" is of type int'),
        ({"w": torch.ones(1), "epoch": 3}, '"epoch" is of type int'),
        ({3: torch.ones(1)}, "a key of type int is a tensor"),
        ({"state_dict": {"a": [1]}}, '"a" is of type list'),
        ({"model": {"net": {"model": {"net": {"w": torch.ones(1)}}}}}, "wrapped over 3 times"),
        (torch.device("cpu"), r"is of type torch\.device, which has no weights"),
        ({"model": torch.ones(2), "epoch": 1}, "one tensor of size"),
    ],
)
def test_a_file_without_state_dict_says_what_it_holds(what, found, legacy, tmp_path):
    path = save(what, tmp_path / "current_pred.pth", legacy)
    with pytest.raises(CheckpointError, match=f"{found}.*; expected a state dict"):
        read_weights(path)


def test_a_file_without_tensors_is_refused(tmp_path):
    save_file({}, tmp_path / "a.safetensors")
    for path in (save(nn.ReLU(), tmp_path / "a.pth", False), tmp_path / "a.safetensors"):
        with pytest.raises(CheckpointError, match="no tensors"):
            read_weights(path)


def test_a_module_that_lost_a_part_is_refused(tmp_path):
    net = network()
    net._modules["2"]._modules["0"] = {"weight": 1}
    with pytest.raises(CheckpointError, match=r"2\.0 in the module is of type dict"):
        read_weights(save(net, tmp_path / "a.pth", False))
    net._modules["2"]._modules["0"] = None
    net._modules["2"]._parameters["weight"] = "text"
    with pytest.raises(CheckpointError, match="is of type str"):
        read_weights(save(net, tmp_path / "a.pth", False))
    for part in ("_non_persistent_buffers_set", "_buffers", "_parameters"):
        net = network()
        vars(net)[part] = ["running_mean"]
        with pytest.raises(CheckpointError, match="damaged: a module's"):
            read_weights(save(net, tmp_path / "a.pth", False))


def tar_bytes():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"), io.BytesIO())
    return buffer.getvalue()


def zip_bytes(*names, compression=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name in names:
            archive.writestr(name, pickle.dumps({}, 2))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "seems"),
    [
        (b"", "an empty file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-lfs pointer"),
        (b"\n<!DOCTYPE html><html>Quota exceeded", "an HTML page"),
        (b"0.1 0.2 0.3\n", "a text file"),
        ("Wangenhöhe".encode() * 60, "a text file"),
        (b"cos\nsystem\n(X\x01\x00\x00\x00:tR.", "no format that is known"),
        (tar_bytes(), "a tar archive"),
        (b"\x1f\x8b\x08\x00", "a gzip archive"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        (b"\x00\x01\x02\x03", "no format that is known"),
        (pickle.dumps({"a": 1}, 2), "a Python pickle that torch.save did not write"),
        (pickle.dumps(MAGIC, 2) + pickle.dumps(1002, 2), "version 1001"),
        (b"".join(pickle.dumps(v, 2) for v in (MAGIC, 1001, LITTLE, {}, 3)), "no list of storages"),
        (zip_bytes("weights.pth", "readme"), "did not write: it holds weights.pth, readme"),
        (zip_bytes("a/data.pkl", "b/data.pkl"), "did not write"),
        (zip_bytes("a/data.pkl", compression=zipfile.ZIP_DEFLATED), "compressed"),
        (b"PK\x03\x04 cut off", "damaged"),
        (b"\x02\x00\x00\x00\x00\x00\x00\x00{]", "damaged"),
    ],
)
def test_another_file_is_refused_with_what_it_seems_to_be(content, seems, tmp_path):
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=seems) as error:
        read_weights(path)
    assert str(path) in str(error.value)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_torchscript_file_is_refused_as_one(tmp_path):
    script = torch.jit.trace(nn.Linear(2, 3), torch.zeros(1, 2))
    torch.jit.save(script, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="TorchScript"):
        read_weights(tmp_path / "a.pt")


def test_an_onnx_file_is_refused_as_one(landmark_file):
    with pytest.raises(CheckpointError, match="an ONNX model"):
        read_weights(landmark_file)


def test_a_folder_and_a_missing_file_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="a folder"):
        read_weights(tmp_path)
    with pytest.raises(CheckpointError, match="no such file"):
        read_weights(tmp_path / "none.pth")


@formats
def test_a_big_endian_file_is_refused(legacy, tmp_path):
    machine = {**LITTLE, "little_endian": False}
    path = pack(pickle.dumps({}, 2), tmp_path / "a.pth", legacy, machine=machine)
    with pytest.raises(CheckpointError, match="big-endian"):
        read_weights(path)


# Any damage at all.


def intact(kind):
    buffer = io.BytesIO()
    what = {"state_dict": network(), "epoch": 1, "optimizer": {"lr": 0.1, "betas": (0.9, 0.99)}}
    if kind == "safetensors":
        return safetensors_bytes(network().state_dict())
    torch.save(what, buffer, _use_new_zipfile_serialization=kind == "zip")
    return buffer.getvalue()


INTACT = {kind: intact(kind) for kind in ("zip", "legacy", "safetensors")}


def read_or_refuse(path, content):
    path.write_bytes(content)
    try:
        weights = read_weights(path)
    except CheckpointError:
        return
    assert type(weights) is dict
    assert all(type(weight) is torch.Tensor for weight in weights.values())


damage = settings(
    max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)


@damage
@given(
    kind=st.sampled_from(sorted(INTACT)),
    flips=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), min_size=1, max_size=4),
)
def test_flipped_bytes_give_weights_or_a_refusal(kind, flips, tmp_path):
    content = bytearray(INTACT[kind])
    for place, mask in flips:
        content[int(place * (len(content) - 1))] ^= mask
    read_or_refuse(tmp_path / "a.pth", content)


@damage
@given(kind=st.sampled_from(sorted(INTACT)), share=st.floats(0, 1))
def test_a_file_that_is_cut_off_gives_a_refusal(kind, share, tmp_path):
    read_or_refuse(tmp_path / "a.pth", INTACT[kind][: int(share * len(INTACT[kind]))])


@pytest.mark.filterwarnings("ignore:invalid escape:DeprecationWarning")
@damage
@given(
    legacy=st.booleans(),
    flips=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_changed_instructions_give_weights_or_a_refusal(legacy, flips, tmp_path):
    net = network()
    tensors = {n: v for n, v in net.state_dict().items() if v.is_floating_point()}
    what = {
        name: tensor_of(floats(v.numel(), str(i)), 0, tuple(v.shape), v.stride())
        for i, (name, v) in enumerate(tensors.items())
    }
    pickled = bytearray(dumped({"state_dict": what, "note": types.SimpleNamespace(a=1)}))
    for place, byte in flips:
        pickled[int(place * (len(pickled) - 1))] = byte
    storages = [(str(i), v.flatten().tolist()) for i, v in enumerate(tensors.values())]
    pack(bytes(pickled), tmp_path / "b.pth", legacy, storages)
    read_or_refuse(tmp_path / "a.pth", (tmp_path / "b.pth").read_bytes())


@pytest.mark.filterwarnings("ignore:invalid escape:DeprecationWarning")
@damage
@given(pickled=st.binary(max_size=60))
def test_random_instructions_give_a_refusal(pickled, tmp_path):
    for legacy in (False, True):
        pack(b"\x80\x02" + pickled, tmp_path / "b.pth", legacy)
        with pytest.raises(CheckpointError):
            read_weights(tmp_path / "b.pth")


def test_the_prefix_is_dropped_as_often_as_all_names_have_it():
    names = {"module.module.a": 1, "module.module.module.b": 2}
    assert state_dict.without_module_prefix(names) == {"a": 1, "module.b": 2}
    assert state_dict.without_module_prefix({"module.a": 1, "b": 2}) == {"module.a": 1, "b": 2}
