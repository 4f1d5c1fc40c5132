"""Progress bars for whatever takes more than two seconds.

Rooms announce stages; only the command line draws them (`enabled`), so that runs in the Dagster UI and in tests
stay silent and a room never needs to know who called it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

_live: Progress | None = None


@contextmanager
def enabled() -> Iterator[None]:
    """Draw the bars of all stages inside this block on stderr (plain lines when it is not a terminal)."""
    global _live
    console = Console(stderr=True, force_terminal=None if sys.stderr.isatty() else False)
    columns = (
        TextColumn("{task.description:<34}"), BarColumn(30), TaskProgressColumn(), MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as live:
        previous, _live = _live, live
        try:
            yield
        finally:
            _live = previous


def drawing() -> bool:
    """Whether bars are being drawn: whoever prints lines of its own should then keep them back."""
    return _live is not None


@contextmanager
def stage(label: str, total: float | None = None) -> Iterator[Callable[[float], None]]:
    """One bar; yields `advance(amount)`. Without `enabled()` around it, advancing does nothing."""
    if _live is None:
        yield lambda _amount: None
        return
    live = _live
    task = live.add_task(label, total=total)
    try:
        yield lambda amount: live.advance(task, amount)
    finally:
        done = live.tasks[live.task_ids.index(task)].completed
        live.update(task, total=done or 1, completed=done or 1)
