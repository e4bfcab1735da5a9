"""What a tuning tells while it runs."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from autocache.tuning.study import Tell

if TYPE_CHECKING:
    import optuna

logger = logging.getLogger("autocache")

Best = Callable[["optuna.Study"], str]
Progress = Callable[[str, int, Best], AbstractContextManager[Tell]]
"""From what is tried, how often, and what puts the best so far into words, to what is told of each
trial, as `autocache.tuning.progress.SearchProgress` is."""
Announce = Callable[[str], None]


def shown(progress: bool | Progress | None) -> tuple[Progress | None, Announce]:
    """What is told of the trials, and what of the whole: bars and lines on standard error for True,
    else the log."""
    if not progress:
        return None, logger.info
    if progress is not True:
        return progress, logger.info
    from autocache.tuning.progress import SearchProgress

    return SearchProgress, lambda text: print(text, file=sys.stderr, flush=True)


def best_score(study: optuna.Study) -> str:
    """The best of a search whose values are decibels."""
    done = _values(study)
    return f"best {max(done):.1f} dB" if done else ""


def least_error(study: optuna.Study) -> str:
    """The best of a search whose values are mean squared errors."""
    done = _values(study)
    return f"least error {min(done):.3g}" if done else ""


def _values(study: optuna.Study) -> list[float]:
    return [one.value for one in study.get_trials(deepcopy=False) if one.value is not None]
