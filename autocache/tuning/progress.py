"""How far a search is, for who waits for it: a bar on a terminal, else one line at the end."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)

from autocache.tuning.study import finished

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

Best = Callable[["optuna.Study"], str]


class SearchProgress:
    """A progress bar on standard error, with the best so far. Made to be `search`'s `tell`.

        with SearchProgress("placement", 120, best) as progress:
            search(objective, name="placement", trials=120, tell=progress)

    Args:
        label: what is searched.
        trials: in all, as `search` is asked for.
        best: puts the best of a study into a few words.
        console: where to draw; standard error by default. Where that is no terminal, only one
            line is written, at the end.
    """

    def __init__(
        self, label: str, trials: int, best: Best | None = None, console: Console | None = None
    ) -> None:
        self._label = label
        self._trials = trials
        self._best = best or best_value
        self._console = console or Console(stderr=True)
        self._told = ""
        self._done: int | None = None
        self._before = 0
        self._began = time.monotonic()
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}", markup=False),
            TextColumn("{task.fields[best]}", markup=False),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task(label, total=trials, left="", best="")

    def __call__(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Take note of a trial that has ended, and of what other workers have done."""
        done = finished(study)
        if self._done is None:
            self._before = done - 1  # Those of earlier runs say nothing of the time that is left.
        self._done, self._told = done, self._best(study)
        each = self._taken().total_seconds() / max(1, done - self._before)
        rest = timedelta(seconds=round(each * max(0, self._trials - done)))
        self._bar.update(self._task, completed=done, left=f"{rest} left", best=self._told)

    def __enter__(self) -> SearchProgress:
        self._began = time.monotonic()
        self._bar.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._bar.stop()
        if not self._console.is_terminal or self._done is None:
            self._console.print(self._line(), markup=False, highlight=False, soft_wrap=True)

    def _line(self) -> str:
        if self._done is None:
            return f"{self._label}: no trial was run; {self._trials} were asked for in all"
        known = f", {self._told}" if self._told else ""
        taken = timedelta(seconds=round(self._taken().total_seconds()))
        return f"{self._label}: {self._done} of {self._trials} trials in {taken}{known}"

    def _taken(self) -> timedelta:
        return timedelta(seconds=time.monotonic() - self._began)


def best_value(study: optuna.Study) -> str:
    """The best value so far; with several directions, how many trials none other beats."""
    if len(study.directions) > 1:
        return f"{len(study.best_trials)} not beaten"
    try:
        return f"best {study.best_value:.4g}"
    except ValueError:  # No trial has a value, or none keeps to its constraints.
        return ""
