"""The progress bar of an epoch."""

from __future__ import annotations

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def epoch_progress(shown: bool) -> Progress:
    """A bar of batches; a task on it has the fields ``epoch`` and ``loss``."""
    return Progress(
        TextColumn("epoch {task.fields[epoch]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"),
        TimeRemainingColumn(),
        transient=True,
        disable=not shown,
    )
