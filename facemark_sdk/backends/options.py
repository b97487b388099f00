"""How a runtime uses the machine, beyond the number of its threads."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

from facemark_sdk.errors import BackendError

Spinning = Literal["never", "run", "always"]

SPINNING_VARIABLE = "FACEMARK_SPINNING"
ARENA_VARIABLE = "FACEMARK_ARENA"
ENGINE_CACHE_VARIABLE = "FACEMARK_ENGINE_CACHE"

_SWITCH = {"0": False, "1": True}


@dataclass(frozen=True, slots=True)
class RuntimeOptions:
    """Settings of the runtimes; those that do not concern the one in use are ignored.

    Attributes:
        spinning: ONNX Runtime on the CPU: how its idle threads wait. With ``run`` they wait
            actively for the next operator and sleep once the run is over: fast, and the cores are
            free for the next stage. ``always`` is ONNX Runtime's own default, for one model that
            runs without a pause on cores of its own. ``never`` costs time and saves power.
        arena: ONNX Runtime on the CPU: whether memory is kept from run to run, which is faster.
            Without, a process whose batches vary much needs less of it.
        engine_cache: TensorRT: the folder of the engines that ``backend="tensorrt"`` builds from
            ONNX files; None for ``facemark/engines`` in the user's cache folder.
    """

    spinning: Spinning = "run"
    arena: bool = True
    engine_cache: Path | None = None

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            BackendError: One is of a wrong kind.
        """
        if self.spinning not in get_args(Spinning):
            raise BackendError(
                f"spinning must be one of {', '.join(get_args(Spinning))}, got {self.spinning!r}"
            )
        if not isinstance(self.arena, bool):
            raise BackendError(f"arena must be True or False, got {self.arena!r}")
        if self.engine_cache is not None and not isinstance(self.engine_cache, Path):
            raise BackendError(f"engine_cache must be a Path or None, got {self.engine_cache!r}")


def options_from_environment() -> RuntimeOptions:
    """The defaults, or what ``FACEMARK_SPINNING``, ``_ARENA`` (0, 1), ``_ENGINE_CACHE`` say.

    Raises:
        BackendError: A variable has a value that is not known.
    """
    cache = os.environ.get(ENGINE_CACHE_VARIABLE)
    return RuntimeOptions(
        spinning=cast(Spinning, _choice(SPINNING_VARIABLE, "run", get_args(Spinning))),
        arena=_SWITCH[_choice(ARENA_VARIABLE, "1", tuple(_SWITCH))],
        engine_cache=Path(cache).expanduser() if cache else None,
    )


def _choice(variable: str, default: str, known: tuple[str, ...]) -> str:
    value = os.environ.get(variable) or default
    if value not in known:
        raise BackendError(
            f"environment variable {variable} must be one of {', '.join(known)}, got {value!r}"
        )
    return value
