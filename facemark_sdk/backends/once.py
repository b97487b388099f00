"""What a process has one of, whichever of its threads asks first."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Generic, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Once(Generic[P, T]):
    """A function that makes one thing for the same arguments; a decorator.

    `functools.cache` alone lets two first callers make one each. What fails is tried anew.
    """

    def __init__(self, make: Callable[P, T]) -> None:
        """Keep what a function makes.

        Args:
            make: Its arguments must be hashable.
        """
        self._making = threading.Lock()
        self._made: Callable[P, T] = functools.cache(make)
        self.cache_clear: Callable[[], None] = self._made.cache_clear
        functools.update_wrapper(self, make)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """What was made before, or is now; other threads wait for it."""
        with self._making:
            return self._made(*args, **kwargs)
