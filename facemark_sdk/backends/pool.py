"""Things that one thread may use at a time, lent to the threads that share a model."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

T = TypeVar("T")


class Pool(Generic[T]):
    """Makes one item for each thread that runs at the same time as others, and keeps them."""

    def __init__(self, make: Callable[[], T]) -> None:
        """An empty pool.

        Args:
            make: Makes one item; may be called by several threads at once.
        """
        self._make = make
        self._free: deque[T] = deque()  # appending and popping are safe among threads

    @contextmanager
    def borrow(self) -> Iterator[T]:
        """An item for the length of a block; one whose block fails is not used again."""
        try:
            item = self._free.pop()
        except IndexError:
            item = self._make()
        yield item
        self._free.append(item)
