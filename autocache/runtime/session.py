"""One patched denoiser: its clock, its cached tensors, and the record of what was done."""

from __future__ import annotations

import copy
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from autocache.runtime import intercept, root, signals
from autocache.runtime.clock import Clock
from autocache.runtime.moment import Decision, Moment
from autocache.runtime.record import StepRecord
from autocache.runtime.store import Ledger, Store
from autocache.spec.bind import signature

if TYPE_CHECKING:
    from autocache.spec.bind import Bound
    from autocache.strategy.recipe import Recipe

KEPT_RECORDS = 4096
"""Denoiser calls whose record is kept, the latest ones; totals count all."""


class Branch:
    """What one guidance branch remembers within a generation."""

    def __init__(self, ledger: Ledger, shape: tuple) -> None:
        self.store = Store(ledger)
        self.kept: dict[str, Any] = {}
        self.memory: dict[str, Any] = {}
        self.shape = shape


class Track:
    """One thread's way through the denoiser: nothing in it is shared with another thread."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.branches: dict[str, Branch] = {}
        self.moment: Moment | None = None
        self.started = 0.0
        self.scheduler: weakref.ref | None = None
        """The one that announced the generation."""

    def forget(self) -> None:
        for branch in self.branches.values():
            branch.store.clear()
        self.branches.clear()
        self.moment = None

    def __del__(self) -> None:
        # Its thread has ended: what it kept counts no longer.
        self.forget()


class Here(threading.local):
    """What the sites of the present thread look at. Read at every intercepted call."""

    def __init__(self, tracks: weakref.WeakSet[Track]) -> None:
        self.track = Track()
        tracks.add(self.track)
        self.acting: Moment | None = None
        """The denoiser call under way; None also when nothing is to be skipped or kept in it."""


class Session:
    """Everything that changes while a patched denoiser runs, and what it was patched with."""

    def __init__(
        self, model: nn.Module, bound: Bound, recipe: Recipe, limit: int | None, dry_run: bool
    ) -> None:
        self.model = model
        self.recipe = recipe
        self.dry_run = dry_run
        self.enabled = True
        self.spec = bound.spec
        self.patch: Any = None
        self.label = type(model).__name__
        self.block_count = bound.block_count
        self.attention_count = sum(
            len(stack.spec.attention) * len(stack.blocks) for stack in bound.stacks
        )
        self._time_name = bound.spec.timestep
        self._forward = signature(type(model))
        self._limit = limit
        self._pipelines: weakref.WeakSet[Any] = weakref.WeakSet()
        self._fresh()

    def _fresh(self) -> None:
        self._tracks: weakref.WeakSet[Track] = weakref.WeakSet()
        self.here = Here(self._tracks)
        self.ledger = Ledger(self._limit)
        self.records: deque[StepRecord] = deque(maxlen=KEPT_RECORDS)
        self.passes = 0
        self.generations = 0
        self.blocks_skipped = 0
        self.attention_skipped = 0
        self.seconds = 0.0

    def __deepcopy__(self, memo: dict[int, Any]) -> Session:
        copied = copy.copy(self)
        memo[id(self)] = copied
        copied.model = memo[id(self.model)]
        copied._pipelines = weakref.WeakSet(
            memo[id(pipeline)] for pipeline in self._pipelines if id(pipeline) in memo
        )
        copied._fresh()
        signals.listen(copied)
        return copied

    @property
    def track(self) -> Track:
        """The present thread's track."""
        return self.here.track

    def attach(self, pipeline: Any) -> None:
        """Take the scheduler's signals of a pipeline that runs this denoiser."""
        self._pipelines.add(pipeline)
        scheduler = getattr(pipeline, "scheduler", None)
        if scheduler is not None:
            signals.hear(scheduler)

    def announced(self, scheduler: Any) -> None:
        """A scheduler that it holds was given its timesteps."""
        self.track.clock.announce(len(scheduler.timesteps))
        self.track.scheduler = weakref.ref(scheduler)

    def holds(self, scheduler: object) -> bool:
        """Whether a pipeline that runs this denoiser holds the scheduler now."""
        return any(getattr(p, "scheduler", None) is scheduler for p in self._pipelines)

    def drop(self) -> None:
        """Drop every cached tensor."""
        for track in list(self._tracks):
            track.forget()

    def forget(self) -> None:
        """Drop every cached tensor; the next call starts a generation."""
        self.drop()
        for track in list(self._tracks):
            track.clock.restart()

    def clear_records(self) -> None:
        self.records.clear()
        self.passes = self.generations = self.blocks_skipped = self.attention_skipped = 0
        self.seconds = 0.0

    def begin(self, args: tuple, kwargs: dict[str, Any]) -> None:
        """A denoiser call begins."""
        here = self.here
        track, here.acting = here.track, None
        if track.moment is not None:
            # The call before never ended: it raised. What it left is of no generation any more.
            track.forget()
            track.clock.restart()
        for pipeline in list(self._pipelines):
            signals.catch_up(getattr(pipeline, "scheduler", None))
        new, name = track.clock.enter(lambda: self._time(args, kwargs))
        if new:
            track.forget()
            self._begin_index(track)
            self.generations += 1
        if not self.enabled:
            return
        shape = _shape(args, kwargs)
        branch = track.branches.get(name)
        if branch is None or branch.shape != shape:
            if branch is not None:
                branch.store.clear()
            branch = track.branches[name] = Branch(self.ledger, shape)
        record = StepRecord(
            self.label,
            track.clock.generation,
            name,
            track.clock.step,
            self.block_count,
            self.attention_count,
        )
        track.moment = Moment(
            track.clock.step,
            track.clock.total,
            name,
            branch.store,
            branch.kept,
            branch.memory,
            record,
            self.dry_run,
        )
        here.acting = track.moment
        track.started = time.perf_counter()
        if self.recipe.when.probe is None:
            self.decide(track.moment)

    def end(self) -> None:
        """The denoiser call is over."""
        here = self.here
        track, here.acting = here.track, None
        moment, track.moment = track.moment, None
        if moment is None:
            return
        record = moment.record
        record.seconds = time.perf_counter() - track.started
        record.bytes = self.ledger.held
        self.records.append(record)
        self.passes += 1
        self.blocks_skipped += record.blocks_skipped
        self.attention_skipped += record.attention_skipped
        self.seconds += record.seconds

    def step_ended(self) -> None:
        """The scheduler took a step; after the last one nothing is kept."""
        if self.track.clock.advance():
            self.track.forget()

    def decide(self, moment: Moment) -> Decision:
        """Compute or skip, decided once per denoiser call."""
        if moment.decision is None:
            decision = self.recipe.when.decide(moment)
            if not decision.compute and not moment.kept:
                # Nothing to stand in yet (the second expert's first step, a reset): start here.
                decision = Decision(compute=True, keep=True, distance=decision.distance)
            moment.record.distance = decision.distance
            moment.decision = decision
            if decision.compute and not decision.keep:
                self.here.acting = None
        return moment.decision

    def _begin_index(self, track: Track) -> None:
        """Image-to-image starts in the middle of the scheduler's timesteps."""
        scheduler = track.scheduler() if track.scheduler is not None else None
        begin = getattr(scheduler, "begin_index", None)
        if begin and track.clock.total is not None:
            track.clock.total -= begin

    def _time(self, args: tuple, kwargs: dict[str, Any]) -> float:
        value = kwargs.get(self._time_name)
        if value is None:
            value = self._forward.get(self._time_name, args, kwargs)
        # A timestep per token or frame: the noisiest one is the generation's time.
        return float(value.amax()) if isinstance(value, torch.Tensor) else float(value)

    def install(self, sites: list[tuple[nn.Module, intercept.Site]]) -> None:
        """Instrument the model; on any failure it is left as it was."""
        grouped: dict[nn.Module, list[intercept.Site]] = {}
        for module, site in sites:
            grouped.setdefault(module, []).append(site)
        try:
            for module, chain in grouped.items():
                intercept.install(module, chain)
            root.observe(self.model, self)
            signals.listen(self)
            for pipeline in list(self._pipelines):
                self.attach(pipeline)
        except BaseException:
            self.remove()
            raise

    def suspend(self) -> Callable[[], None]:
        """Take the session off, and give back how to put it on again."""
        enabled = self.enabled
        sites = [
            (module, intercept.site_of(module))
            for module in intercept.intercepted(self.model, self)
        ]
        self.remove()

        def resume() -> None:
            self.install([(module, site) for module, site in sites if site is not None])
            self.enabled = enabled

        return resume

    def remove(self) -> None:
        """Take every trace of the session off the model and free what it holds."""
        self.enabled = False
        self.forget()
        for module in list(intercept.intercepted(self.model, self)):
            intercept.remove(module)
        root.unobserve(self.model, self)
        signals.silence(self)


def _shape(args: tuple, kwargs: dict[str, Any]) -> tuple:
    """What must stay the same for cached tensors to fit: shape, dtype and device of every input."""
    return tuple(
        (value.shape, value.dtype, value.device)
        for value in (*args, *kwargs.values())
        if isinstance(value, torch.Tensor)
    )
