"""A bar that shows how far a command is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import track

Item = TypeVar("Item")


def show_progress(items: Sequence[Item], said: str) -> Iterable[Item]:
    """Pass the items on, with a bar on stderr while that is a terminal; it goes when all are done.

    Args:
        items: What is gone through.
        said: What is being done, before the bar.
    """
    console = Console(stderr=True)
    silent = not console.is_terminal
    return track(items, said, len(items), console=console, disable=silent, transient=True)
