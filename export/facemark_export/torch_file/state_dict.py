"""Find the weights in what a checkpoint holds: a state dict, a wrapped one, or a whole module."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from facemark_export.torch_file.records import Record, StoredTensor, plain
from facemark_sdk.errors import CheckpointError

_WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "network",
    "weights",
    "params",
)
"""Names under which training scripts keep the weights (COMPAT 2.1, 3.1, 5.2)."""
_DEEPEST = 3
"""Wrappers around wrappers."""
_MODULE_PREFIXES = re.compile(r"(?:(?:module|_orig_mod|model|net)\.)*")
"""What DataParallel, torch.compile and training frameworks put before every name."""
_MOST_ENTRIES = 100_000
"""Modules, parameters and buffers, None among them; HRNet-W18 has 4,031."""
_LONGEST_NAME = 1024
_SHOWN = 8
"""Keys that a message names."""
_EXPECTED = (
    "expected a state dict (name to tensor) or a whole module, as it is or under "
    + ", ".join(f'"{name}"' for name in _WRAPPERS)
)

_Value = TypeVar("_Value")


def find(root: object) -> dict[str, StoredTensor]:
    """The stored weights by name, in order.

    Args:
        root: What the file holds, as `Unpickler` gives it.

    Raises:
        CheckpointError: There is no state dict; the message says what there is.
    """
    found = root
    for _ in range(_DEEPEST + 1):
        if isinstance(found, Record):
            return dict(_module_tensors(found))
        if isinstance(found, dict) and found and not _problem(found):
            return found
        wrapper = next((name for name in _WRAPPERS if _holds(found, name)), None)
        if wrapper is None:
            break
        found = found[wrapper]  # type: ignore[index]
    else:
        raise CheckpointError(f"its weights are wrapped over {_DEEPEST} times; {_EXPECTED}")
    raise CheckpointError(f"it holds {_description(found)}; {_EXPECTED}")


def without_module_prefix(weights: Mapping[str, _Value]) -> dict[str, _Value]:
    """Names without the `module.` that starts all of them, as often as it does."""
    prefixes = (_MODULE_PREFIXES.match(name) for name in weights)
    shared = min((prefix.end() for prefix in prefixes if prefix), default=0)
    return {name[shared:]: value for name, value in weights.items()}


def _holds(mapping: object, name: str) -> bool:
    return isinstance(mapping, dict) and isinstance(mapping.get(name), dict | Record | StoredTensor)


def _problem(mapping: Mapping[Any, object]) -> str | None:
    """What keeps a mapping from being a state dict."""
    for name, value in mapping.items():
        if not (isinstance(name, str) and isinstance(value, StoredTensor)):
            return f"{_shown(name)} is {_kind(value)}"
    return None


def _module_tensors(module: Record) -> Iterator[tuple[str, StoredTensor]]:
    """Parameters and buffers of a module and of those in it, named and ordered as torch does."""
    pending: list[tuple[str, object]] = [("", module)]
    walked = 0
    while pending:
        prefix, inner = pending.pop()
        state = _state(inner, prefix)
        parameters, buffers, modules = (
            _entries(state, part) for part in ("_parameters", "_buffers", "_modules")
        )
        walked += 1 + len(parameters) + len(buffers) + len(modules)
        if walked > _MOST_ENTRIES or len(prefix) > _LONGEST_NAME:
            raise CheckpointError("its modules are nested without end; refused")
        passing = state.get("_non_persistent_buffers_set", set())
        if not isinstance(passing, set):
            raise CheckpointError("damaged: a module's passing buffers are no set")
        saved = {name: value for name, value in buffers.items() if name not in passing}
        for name, tensor in (parameters | saved).items():
            if isinstance(tensor, StoredTensor):
                yield prefix + name, tensor
            elif tensor is not None:
                raise CheckpointError(f"{plain(prefix + name)} in the module is {_kind(tensor)}")
        pending += [
            (f"{prefix}{name}.", modules[name])
            for name in reversed(modules)
            if modules[name] is not None
        ]


def _state(module: object, prefix: str) -> dict[str, Any]:
    """A module's attributes."""
    state = module.state if isinstance(module, Record) else None
    if not isinstance(state, dict) or "_parameters" not in state:
        where = f"{plain(prefix.removesuffix('.'))} in the module" if prefix else "what it holds"
        raise CheckpointError(f"{where} is {_kind(module)}, which has no weights; {_EXPECTED}")
    return state


def _entries(state: Mapping[str, Any], part: str) -> dict[str, object]:
    """A module's parameters, buffers or modules."""
    entries = state.get(part)
    if not isinstance(entries, dict) or not all(isinstance(name, str) for name in entries):
        raise CheckpointError(f"damaged: a module's {part} are no dict of names")
    return entries


def _description(value: object) -> str:
    if isinstance(value, StoredTensor):
        return f"one tensor of size {value.size}, such as predictions"
    if isinstance(value, dict) and value:
        keys = ", ".join(map(_shown, list(value)[:_SHOWN]))
        more = ", ..." if len(value) > _SHOWN else ""
        return f"a dict of {len(value)} with {keys}{more}, where {_problem(value)}"
    return f"something {_kind(value)}"


def _kind(value: object) -> str:
    if isinstance(value, StoredTensor):
        return "a tensor"
    if isinstance(value, Record):
        return f"of type {plain(value.name)}"
    return f"of type {type(value).__name__}"


def _shown(key: object) -> str:
    return f'"{plain(key)}"' if isinstance(key, str) else f"a key of type {type(key).__name__}"
