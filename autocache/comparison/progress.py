"""How far a comparison is: a bar with the time left on a terminal, else a line for each run."""

from __future__ import annotations

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class ComparisonProgress:
    """A context manager that draws on standard error what `Runs` tells.

    Args:
        console: where to draw; standard error by default.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            # Runs take from a tenth to the whole of a plain one: the pace is that of many.
            TimeRemainingColumn(),
            TextColumn("left"),
            console=self._console,
            speed_estimate_period=3600,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("comparing", total=None)

    def __call__(self, doing: str, done: float, total: float) -> None:
        """Take note of what is run next."""
        self._bar.update(self._task, description=doing, completed=done, total=total)
        if not self._console.is_terminal:
            line = f"compare: {doing} ({done / total:.0%})"
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def __enter__(self) -> ComparisonProgress:
        self._bar.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._bar.stop()
