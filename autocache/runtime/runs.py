"""The pipeline calls under way. A pipeline and its scheduler can serve one at a time."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from autocache.errors import ConcurrencyError
from autocache.runtime.pipeline_call import PipelineCall
from autocache.runtime.scope import Scope, present, scope_of

_lock = threading.Lock()
_running: list[Run] = []


class Run:
    """One call of a pipeline, in a thread. `schedulers` are the names of those it steps."""

    def __init__(self, pipeline: Any, schedulers: set[str]) -> None:
        self.pipeline = pipeline
        self.schedulers = schedulers
        self.thread = threading.get_ident()
        self.call = PipelineCall()

    def holds(self, scheduler: object) -> bool:
        """Whether it steps a scheduler."""
        return any(getattr(self.pipeline, name, None) is scheduler for name in self.schedulers)

    def includes(self, pipeline: Any) -> bool:
        """Whether another pipeline is a part of this one, which calls it."""
        return any(part is pipeline for part in vars(self.pipeline).values())


@contextlib.contextmanager
def under_way(pipeline: Any, schedulers: set[str]) -> Iterator[PipelineCall | None]:
    """A call of a pipeline, from its beginning to its end, in the state that is its own; None for
    one that is a part of another pipeline's.

    Raises:
        ConcurrencyError: it, or another one with its scheduler, is under way already.
    """
    run = Run(pipeline, schedulers)
    with _lock:
        outer = innermost()
        inside = outer is not None and outer.includes(pipeline)
        if not inside:
            _refuse(run)
            _running.append(run)
    if inside:
        yield None
        return
    own = scope_of(pipeline)
    # What is called within another generation or request must not go on with the state of that.
    within = outer is not None or present() is not None
    scope = own or (Scope() if within else None)
    try:
        with scope.selected() if scope is not None else contextlib.nullcontext():
            yield run.call
    finally:
        if scope is not None and scope is not own:
            scope.close()
        with _lock:
            _running.remove(run)


def check(scheduler: Any) -> bool:
    """Whether a pipeline's call that is under way here steps this scheduler.

    Raises:
        ConcurrencyError: one that is under way elsewhere does, and would be spoilt.
    """
    inner = innermost()
    if inner is not None and inner.holds(scheduler):
        return True
    for run in list(_running):
        if run.holds(scheduler):
            where = "another thread" if run.thread != threading.get_ident() else "this thread"
            raise ConcurrencyError(
                f"the {type(scheduler).__name__} of a {type(run.pipeline).__name__} is in use: a "
                f"generation on it is under way in {where}; {REMEDY}"
            )
    return False


REMEDY = (
    "give each generation its own: with autocache.request(pipe) as own: own(...), which shares all "
    "models with the pipeline"
)


def innermost() -> Run | None:
    """The call of a pipeline that the present thread is in."""
    if not _running:
        return None
    here = threading.get_ident()
    return next((run for run in reversed(_running) if run.thread == here), None)


def _refuse(run: Run) -> None:
    name = type(run.pipeline).__name__
    for other in _running:
        where = "another thread" if other.thread != run.thread else "this thread"
        if other.pipeline is run.pipeline:
            raise ConcurrencyError(
                f"this {name} is under way in {where}, and it keeps the state of its loop in "
                f"itself and its scheduler; {REMEDY}"
            )
        if any(other.holds(getattr(run.pipeline, held, run)) for held in run.schedulers):
            raise ConcurrencyError(
                f"this {name} has its scheduler in common with a {type(other.pipeline).__name__} "
                f"that is under way in {where}; {REMEDY}"
            )
