"""What a session hears of the pipelines that run its denoiser, and of their schedulers."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from autocache.errors import ConcurrencyError
from autocache.runtime import runs, signals
from autocache.runtime.schedulers import has_denoiser, scheduler_name
from autocache.runtime.scope import present, scope_of
from autocache.targets import modules

if TYPE_CHECKING:
    from autocache.runtime.notices import Notices
    from autocache.runtime.part import Part
    from autocache.runtime.subject import Subject
    from autocache.runtime.track import Here, Track, Tracks


_attaching = threading.Lock()
"""Two requests made at once are both remembered."""


class Listener:
    """The part of a session that signals are passed on to."""

    parts: list[Part]
    enabled: bool
    keep: bool
    label: str
    patch: Any
    here: Here
    tracks: Tracks
    _subject: Subject
    _notices: Notices

    def __init__(self) -> None:
        self._pipelines: tuple[tuple[weakref.ref[Any], str], ...] = ()
        """Each with the name of its scheduler. Replaced and never changed: other threads may be in
        a loop over it."""

    @property
    def model(self) -> nn.Module | None:
        """The denoiser; None once it is gone."""
        return self._subject.model

    @property
    def entry(self) -> nn.Module | None:
        """What is called: the model, or what torch.compile made of it; None once it is gone."""
        return self._subject.entry

    @property
    def track(self) -> Track:
        """The way that calls made here and now are on: the thread's own, or the request's."""
        scope = present()
        return self.here.own if scope is None else scope.track(self.here)

    @property
    def pipelines(self) -> list[Any]:
        """The pipelines known to run this denoiser."""
        return [pipeline for pipeline, _ in self._driven()]

    def _driven(self) -> Iterator[tuple[Any, str]]:
        """The pipelines that are still there, each with the name of its scheduler."""
        for known, name in self._pipelines:
            pipeline = known()
            if pipeline is not None:
                yield pipeline, name

    def accept(self, pipeline: Any) -> None:
        """Raises PatchError when the strategy cannot act on a pipeline like this one."""
        for part in self.parts:
            part.recipe.where.accept(pipeline)

    def attach(self, pipeline: Any) -> None:
        """Take the scheduler's signals of a pipeline that runs this denoiser.

        Raises:
            PatchError: the strategy cannot act on it.
        """
        self.accept(pipeline)
        name = scheduler_name(pipeline, self.model)
        with _attaching:
            others = ((p, own) for p, own in self._driven() if p is not pipeline)
            known = (*others, (pipeline, name))
            self._pipelines = tuple((weakref.ref(p), own) for p, own in known)
        signals.hear_calls(pipeline)
        signals.hear_changes(pipeline)
        scheduler = getattr(pipeline, name, None)
        if scheduler is not None:
            signals.hear(scheduler)

    def timesteps(
        self, scheduler: Any, args: tuple, kwargs: dict[str, Any]
    ) -> tuple[tuple, dict[str, Any]]:
        """What the scheduler's `set_timesteps` is to be called with."""
        if self.enabled:
            for part in self.parts:
                other = part.recipe.where.timesteps(scheduler, args, kwargs)
                args, kwargs = other or (args, kwargs)
        return args, kwargs

    def stepping(
        self, scheduler: Any, args: tuple, kwargs: dict[str, Any]
    ) -> tuple[tuple, dict[str, Any]]:
        """What the scheduler's `step` is to be called with."""
        for part in self.parts if self.enabled else ():
            args, kwargs = part.recipe.where.stepping(scheduler, args, kwargs) or (args, kwargs)
        return args, kwargs

    def arrange(self, scheduler: Any) -> None:
        """A scheduler that it holds has its timesteps, which may be changed now."""
        for part in self.parts if self.enabled else ():
            part.recipe.where.arrange(scheduler)

    def begins_at(self, index: int | None) -> None:
        """A scheduler that it holds is to start at a step of its timesteps.

        Raises:
            PatchError: the strategy chose others than that step was counted in.
        """
        for part in self.parts if index and self.enabled else ():
            part.recipe.where.refuse_midway("this pipeline")

    def announced(self, scheduler: Any) -> None:
        """A scheduler that it holds was given its timesteps."""
        track = self.track
        for other in self.tracks.all():
            other.ousted |= other is not track and other.drives(scheduler)
        track.ousted = False
        track.forget()
        track.caller.announces()
        track.clock.announce(len(scheduler.timesteps))
        track.scheduler = weakref.ref(scheduler)

    def enter(self, scheduler: Any) -> None:
        """Raises ConcurrencyError when a generation here would share the state of another one."""
        if self.track.caller.runner not in (0, threading.get_ident()):
            raise ConcurrencyError(
                f"this request draws in another thread, and the {type(scheduler).__name__} would "
                f"begin a generation in the midst of that; {runs.REMEDY}"
            )

    def admit(self, scheduler: Any) -> None:
        """Raises ConcurrencyError when a step here would take one from a generation elsewhere."""
        track = self.track
        taken = any(
            other is not track and other.drives(scheduler) and not other.clock.awaits_first
            for other in self.tracks.all()
        )
        if taken or track.ousted or (track.drives(scheduler) and track.caller.is_other()):
            raise ConcurrencyError(
                f"the {type(scheduler).__name__} is stepped by turns for more than one generation; "
                f"{runs.REMEDY}"
            )

    def started(self) -> None:
        """A pipeline that runs this denoiser was called: what comes here belongs to that."""
        self.track.caller.runner = threading.get_ident()

    def finished(self) -> None:
        """The call of the pipeline is over, however it ended."""
        self.track.finish(self.keep)

    def serves(self, pipeline: Any) -> bool:
        """Whether a pipeline is known to run this denoiser; that of a request is when it does."""
        if any(known is pipeline for known, _ in self._driven()):
            return True
        runs_it = any(module is self.entry for _, module in modules(pipeline))
        if scope_of(pipeline) is None or not runs_it:
            return False
        self.attach(pipeline)
        return True

    def scheduler_name(self, pipeline: Any) -> str:
        """Under which name a pipeline that runs this denoiser has the scheduler that drives it."""
        return next(name for known, name in self._driven() if known is pipeline)

    def holds(self, scheduler: object) -> bool:
        """Whether a pipeline that runs this denoiser now holds the scheduler."""
        return any(
            getattr(pipeline, name, None) is scheduler and has_denoiser(pipeline, self.model)
            for pipeline, name in self._driven()
        )

    def step_ended(
        self, sample: torch.Tensor | None, start: int | None = None, end: int | None = None
    ) -> None:
        """The scheduler took a step to `sample`; after the last one nothing is kept.

        `start` and `end` are its own counts of steps before and after, None where it has none.
        """
        self.track.sample = sample
        track = self.track
        if track.clock.advance(start, end):
            self._notices.idle(self.label, track, self._strategy)
            if not self.keep:
                track.forget()

    @property
    def _strategy(self) -> object:
        return self.patch.strategy if self.patch else "the strategy"
