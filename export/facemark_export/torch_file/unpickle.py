"""An interpreter of pickles that has nothing to run.

`pickletools` splits the file into instructions, as its documentation defines them; each does here
what it can do to records and plain containers, and no more. Python's own unpickler is not used:
with it, `find_class` would be the only guard, behind which it calls methods, sets attributes, asks
the process-wide registry of extension codes, and allocates what the file claims to need.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from mmap import mmap
from typing import IO, Any

import torch

from facemark_export.torch_file import names
from facemark_export.torch_file.records import (
    Named,
    Record,
    Storage,
    StoredTensor,
    whole_number,
)
from facemark_sdk.errors import CheckpointError

_LAST_PROTOCOL = 5
_MOST_STEPS = 5_000_000
"""Instructions and copied items; a pickled HRNet with its optimizer takes 0.25 million."""
_CONTAINERS = (tuple, list, dict, set, frozenset)
_ID_LENGTHS = (4, 5, 6)
"""Of a module's persistent id, a storage's, and that of one in a legacy file."""


class Unpickler:
    """Reads one pickle from a stream, which it leaves behind the pickle's end.

    Attributes:
        storages: Data type and number of elements by key, of all storages that were named.
    """

    def __init__(self, stream: IO[bytes] | mmap) -> None:
        self.storages: dict[str, tuple[torch.dtype, int]] = {}
        self._stream = stream
        self._steps = 0
        self._stack: list[Any] = []
        self._outer: list[list[Any]] = []  # the stacks below each mark
        self._memo: dict[int, Any] = {}

    def load(self) -> object:
        """The pickled object: plain values and containers, records, stored tensors.

        Raises:
            CheckpointError: It names or does what a checkpoint does not need.
            LookupError, TypeError, ValueError: Its instructions make no sense.
        """
        for instruction, argument, _ in pickletools.genops(self._stream):
            self._spend(1)
            action = _ACTIONS.get(instruction.name)
            if action is None:
                raise CheckpointError(
                    f"it uses the pickle instruction {instruction.name}, which torch.save never "
                    "writes; refused"
                )
            action(self, argument)
        return self._stack.pop()

    def _spend(self, steps: int) -> None:
        self._steps += steps
        if self._steps > _MOST_STEPS:
            raise CheckpointError(f"its pickle takes over {_MOST_STEPS} steps; refused")

    def _nothing(self, _: object) -> None:
        """For instructions that say how the file is framed."""

    def _protocol(self, version: int) -> None:
        if version > _LAST_PROTOCOL:
            raise CheckpointError(f"pickle protocol {version} is unknown")

    # Plain values and the stack.

    def _push(self, value: object) -> None:
        self._stack.append(value)

    def _push_python2_string(self, text: str) -> None:
        """A Python 2 byte string, which pickletools reads as Latin-1: UTF-8 where it can be."""
        try:
            self._push(text.encode("latin-1").decode("utf-8"))
        except UnicodeDecodeError:
            self._push(text)

    def _pop(self, _: object) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._above_mark()

    def _duplicate(self, _: object) -> None:
        self._push(self._stack[-1])

    def _mark(self, _: object) -> None:
        self._outer.append(self._stack)
        self._stack = []

    def _above_mark(self) -> list[Any]:
        above = self._stack
        self._stack = self._outer.pop()
        return above

    def _drop_above_mark(self, _: object) -> None:
        self._above_mark()

    def _remember(self, index: int | None) -> None:
        self._memo[len(self._memo) if index is None else index] = self._stack[-1]

    def _recall(self, index: int) -> None:
        self._push(self._memo[index])

    # Containers.

    def _tuple_of(self, length: int) -> None:
        items = [self._stack.pop() for _ in range(length)]
        self._push(tuple(reversed(items)))

    def _extend(self, items: list[Any]) -> None:
        """Items for a list; a record of a list's subclass needs none of them."""
        target = self._stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, Record):
            raise TypeError(f"items for a {type(target).__name__}")

    def _update(self, flat: list[Any]) -> None:
        """Keys and values by turns for a dict; a record of a dict's subclass needs none."""
        target = self._stack[-1]
        if isinstance(target, dict):
            names.put(target, zip(flat[::2], flat[1::2], strict=True))
        elif not isinstance(target, Record):
            raise TypeError(f"keys for a {type(target).__name__}")

    def _append(self, _: object) -> None:
        self._extend([self._stack.pop()])

    def _set_item(self, _: object) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._update([key, value])

    def _dict_above_mark(self, _: object) -> None:
        flat = self._above_mark()
        self._push({})
        self._update(flat)

    def _add_items(self, _: object) -> None:
        items = self._above_mark()
        names.add(self._stack[-1], items)

    def _frozen_set_above_mark(self, _: object) -> None:
        members: set[object] = set()
        names.add(members, self._above_mark())
        self._push(frozenset(members))

    # Names, and what pickle would call.

    def _name(self, pair: str) -> None:
        module, _, name = pair.partition(" ")
        self._push(names.named(module, name))

    def _name_from_stack(self, _: object) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self._push(names.named(module, name))

    def _make(self, function: object, arguments: Any) -> None:
        if not isinstance(arguments, tuple | list):
            raise TypeError(f"a {type(arguments).__name__} for arguments")
        copied = sum(len(value) for value in arguments if isinstance(value, _CONTAINERS))
        self._spend(len(arguments) + copied)
        self._push(names.make(function, tuple(arguments)))

    def _call(self, _: object) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        self._make(function, arguments)

    def _call_with_keywords(self, _: object) -> None:
        keywords, arguments, function = (self._stack.pop() for _ in range(3))
        self._make(function, (*arguments, keywords) if keywords else arguments)

    def _instance(self, pair: str) -> None:
        arguments = self._above_mark()
        self._name(pair)
        self._make(self._stack.pop(), arguments)

    def _object_above_mark(self, _: object) -> None:
        function, *arguments = self._above_mark()
        self._make(function, arguments)

    def _state(self, _: object) -> None:
        """State for a record; that of a mapping or a parameter says nothing about weights."""
        state = self._stack.pop()
        target = self._stack[-1]
        if isinstance(target, Record):
            target.state = state
        elif not isinstance(target, dict | StoredTensor):
            raise CheckpointError(f"damaged: state for a {type(target).__name__}")

    def _persistent(self, _: object) -> None:
        """A storage, or the class of a module together with its source (COMPAT 2.1)."""
        identity = self._stack.pop()
        if not isinstance(identity, tuple) or len(identity) not in _ID_LENGTHS:
            raise CheckpointError("damaged: a persistent id that torch does not write")
        kind, *rest = identity
        if kind == "module":
            if not isinstance(rest[0], Named):
                raise CheckpointError("damaged: a module without a class")
            self._push(rest[0])
        elif kind == "storage":
            self._push(self._storage(*rest))
        else:
            raise CheckpointError("damaged: a persistent id that torch does not write")

    def _storage(
        self, kind: object, key: object, _place: object, count: object, view: object = None
    ) -> Storage:
        dtype = names.STORAGE_DTYPES.get(kind.name) if isinstance(kind, Named) else None
        if dtype is None or not isinstance(key, str):
            raise CheckpointError("damaged: a storage without type or key")
        names.check_key(key)
        elements = whole_number(count, "a storage's length")
        if self.storages.setdefault(key, (dtype, elements)) != (dtype, elements):
            raise CheckpointError("damaged: one storage is given two types or lengths")
        if view is None:
            return Storage(key, dtype, elements, 0, elements)
        if not isinstance(view, tuple):
            raise CheckpointError("damaged: a storage's view is no tuple")
        start, length = (whole_number(bound, "a storage view's bound") for bound in view[1:])
        if start + length > elements:
            raise CheckpointError("damaged: a view reaches beyond the end of its storage")
        return Storage(key, dtype, elements, start, length)


def _actions(action: Callable[[Unpickler, Any], None], instructions: str) -> dict[str, Any]:
    return dict.fromkeys(instructions.split(), action)


_ACTIONS: dict[str, Callable[[Unpickler, Any], None]] = {
    **_actions(
        Unpickler._push,
        "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT UNICODE SHORT_BINUNICODE "
        "BINUNICODE BINUNICODE8 SHORT_BINBYTES BINBYTES BINBYTES8 BYTEARRAY8",
    ),
    **_actions(Unpickler._push_python2_string, "STRING SHORT_BINSTRING BINSTRING"),
    **_actions(Unpickler._nothing, "FRAME STOP"),
    **_actions(Unpickler._remember, "PUT BINPUT LONG_BINPUT MEMOIZE"),
    **_actions(Unpickler._recall, "GET BINGET LONG_BINGET"),
    "PROTO": Unpickler._protocol,
    "NONE": lambda machine, _: machine._push(None),
    "NEWTRUE": lambda machine, _: machine._push(True),
    "NEWFALSE": lambda machine, _: machine._push(False),
    "POP": Unpickler._pop,
    "DUP": Unpickler._duplicate,
    "MARK": Unpickler._mark,
    "POP_MARK": Unpickler._drop_above_mark,
    "EMPTY_TUPLE": lambda machine, _: machine._push(()),
    "TUPLE1": lambda machine, _: machine._tuple_of(1),
    "TUPLE2": lambda machine, _: machine._tuple_of(2),
    "TUPLE3": lambda machine, _: machine._tuple_of(3),
    "TUPLE": lambda machine, _: machine._push(tuple(machine._above_mark())),
    "EMPTY_LIST": lambda machine, _: machine._push([]),
    "LIST": lambda machine, _: machine._push(machine._above_mark()),
    "APPEND": Unpickler._append,
    "APPENDS": lambda machine, _: machine._extend(machine._above_mark()),
    "EMPTY_DICT": lambda machine, _: machine._push({}),
    "DICT": Unpickler._dict_above_mark,
    "SETITEM": Unpickler._set_item,
    "SETITEMS": lambda machine, _: machine._update(machine._above_mark()),
    "EMPTY_SET": lambda machine, _: machine._push(set()),
    "ADDITEMS": Unpickler._add_items,
    "FROZENSET": Unpickler._frozen_set_above_mark,
    "GLOBAL": Unpickler._name,
    "STACK_GLOBAL": Unpickler._name_from_stack,
    "REDUCE": Unpickler._call,
    "NEWOBJ": Unpickler._call,
    "NEWOBJ_EX": Unpickler._call_with_keywords,
    "INST": Unpickler._instance,
    "OBJ": Unpickler._object_above_mark,
    "BUILD": Unpickler._state,
    "BINPERSID": Unpickler._persistent,
}
