"""The names that a checkpoint may use, and what each makes. All others are refused.

A name is only ever looked up in the tables here, never imported: a module class becomes a
`Record` that keeps its state, and the few functions that matter have harmless counterparts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from facemark_export.torch_file.records import (
    Named,
    Record,
    StoredTensor,
    plain,
    same_tensor,
    stored_tensor,
)
from facemark_sdk.errors import CheckpointError

_MODULE_ALIASES = {"__builtin__": "builtins", "copy_reg": "copyreg"}
"""What Python 2 called them."""

STORAGE_DTYPES = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
    "torch.storage.UntypedStorage": torch.uint8,
}

_INERT_PACKAGES = (
    "torch.nn.",
    "torch.optim.",
    "torchvision.models.",
    "torchvision.ops.",
    "yacs.config.",
    "lib.models.",  # HRNet (COMPAT 2.1)
    "lib.config.",  # HRNet
    "networks.",  # PIPNet
    "models.",  # Pytorch_Retinaface
    "pathlib.",
)
"""Homes of classes of which whole-module pickles and training records consist."""

_SYSTEM = frozenset(
    {"builtins", "ctypes", "importlib", "nt", "os", "pickle", "posix", "pty", "runpy", "shutil"}
    | {"socket", "subprocess", "sys", "webbrowser"}
)
"""A path that leads on to one of these is an attack, although nothing here would follow it."""

_INERT_NAMES = frozenset(
    {
        *(f"torch.{name}" for name, value in vars(torch).items() if isinstance(value, torch.dtype)),
        "builtins.bool",
        "builtins.bytearray",
        "builtins.bytes",
        "builtins.complex",
        "builtins.float",
        "builtins.int",
        "builtins.long",
        "builtins.object",
        "builtins.slice",
        "builtins.str",
        "builtins.unicode",
        *(
            f"numpy.{core}.{name}"
            for core in ("core", "_core")
            for name in ("multiarray.scalar", "multiarray._reconstruct", "numeric._frombuffer")
        ),
        "numpy.dtype",
        "numpy.ndarray",
        "torch.device",
        "torch.storage.TypedStorage",
        "_codecs.encode",
        "argparse.Namespace",
        "collections.deque",
        "copyreg._reconstructor",
        "types.SimpleNamespace",
    }
)
"""Single names that become records: nothing in them can be a weight."""

_LONGEST_KEY = 1024
"""Characters of a key; the longest name in a published checkpoint has 58."""
_KEY_BITS = 64
"""Of a number that is a key; an optimizer may use addresses."""
_KEY_ITEMS = 16
"""Of a tuple that is a key."""


def check_key(key: object) -> None:
    """Refuse a key that is costly to hash or compare, or that overflows Python's stack so.

    Raises:
        CheckpointError: The key is no short text, number, name or record, nor a few of these.
    """
    items = key if isinstance(key, tuple) and len(key) <= _KEY_ITEMS else (key,)
    if not all(map(_is_cheap, items)):
        raise CheckpointError("it has a key that is long or nested, which no checkpoint needs")


def _is_cheap(key: object) -> bool:
    if isinstance(key, str | bytes):
        return len(key) <= _LONGEST_KEY
    if isinstance(key, int):
        return key.bit_length() <= _KEY_BITS
    return key is None or isinstance(key, float | Named | Record | StoredTensor)


def put(mapping: dict[object, object], pairs: Iterable[tuple[object, object]]) -> None:
    """Put pairs of key and value into a mapping, the keys checked."""
    for key, value in pairs:
        check_key(key)
        mapping[key] = value


def add(members: set[object], items: Iterable[object]) -> None:
    """Put items into a set, checked as keys are."""
    for item in items:
        check_key(item)
        members.add(item)


def named(module: object, name: object) -> Named:
    """What stands for a name in a pickle.

    Raises:
        CheckpointError: The name is none that tensors, containers or networks need.
    """
    if not (isinstance(module, str) and isinstance(name, str)):
        raise CheckpointError("damaged: a name that is no text")
    full = f"{_MODULE_ALIASES.get(module, module)}.{name}"
    known = full in _MAKERS or full in STORAGE_DTYPES or full in _INERT_NAMES
    # Protocol 4 looks a dotted name up step by step: "torch.nn", "modules.module.os.system".
    home = full.startswith(_INERT_PACKAGES) and _SYSTEM.isdisjoint(module.split("."))
    if known or (home and "." not in name):
        return Named(full)
    raise CheckpointError(
        f"it names {plain(full)}, which no checkpoint of tensors needs; refused, nothing of it "
        "was run"
    )


def make(function: object, arguments: tuple[object, ...]) -> object:
    """What the pickle wants from calling `function`: its counterpart's result, or a record.

    Raises:
        CheckpointError: `function` is no name, or the arguments do not fit.
    """
    if not isinstance(function, Named):
        raise CheckpointError(f"damaged: it calls a {type(function).__name__}")
    maker = _MAKERS.get(function.name)
    return maker(*arguments) if maker else Record(function.name)


def _mapping(items: object = ()) -> dict[object, object]:
    """A dict; Python 2 wrote what is in an ordered one as a list of pairs."""
    mapping: dict[object, object] = {}
    put(mapping, items.items() if isinstance(items, dict) else _sequence(items))
    return mapping


def _defaulting_mapping(_factory: object = None, items: object = ()) -> dict[object, object]:
    return _mapping(items)


def _set(items: object = ()) -> set[object]:
    members: set[object] = set()
    add(members, _sequence(items))
    return members


def _frozen_set(items: object = ()) -> frozenset[object]:
    return frozenset(_set(items))


def _list(items: object = ()) -> list[object]:
    return list(_sequence(items))


def _tuple(items: object = ()) -> tuple[object, ...]:
    return tuple(_sequence(items))


def _sequence(items: object) -> Iterable[Any]:
    if not isinstance(items, list | tuple | set | frozenset):
        raise CheckpointError(f"damaged: a {type(items).__name__} where a list must be")
    return items


_MAKERS: dict[str, Callable[..., object]] = {
    "torch._utils._rebuild_tensor": stored_tensor,
    "torch._utils._rebuild_tensor_v2": stored_tensor,
    "torch._utils._rebuild_parameter": same_tensor,
    "torch._utils._rebuild_parameter_with_state": same_tensor,
    "torch.nn.parameter.Parameter": same_tensor,
    "torch.autograd.variable.Variable": same_tensor,
    "torch.Size": _tuple,
    "collections.OrderedDict": _mapping,
    "collections.Counter": _mapping,
    "collections.defaultdict": _defaulting_mapping,
    "builtins.dict": _mapping,
    "builtins.list": _list,
    "builtins.tuple": _tuple,
    "builtins.set": _set,
    "builtins.frozenset": _frozen_set,
}
