"""One patched denoiser: its clock, its cached tensors, and the record of what was done."""

from __future__ import annotations

import copy
import functools
import itertools
import logging
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from autocache.errors import PatchError
from autocache.runtime import intercept, root, signals
from autocache.runtime.moment import Call, Moment
from autocache.runtime.part import Part
from autocache.runtime.record import StepRecord
from autocache.runtime.schedulers import scheduler_name
from autocache.runtime.store import Ledger
from autocache.runtime.track import Branch, Here, Track
from autocache.spec.bind import signature

if TYPE_CHECKING:
    from autocache.spec.bind import Bound
    from autocache.strategy.recipe import Recipe
    from autocache.where import Around

LATENT_NAMES = ("hidden_states", "sample", "x")
"""What denoisers call the argument that holds the latent."""

logger = logging.getLogger("autocache")

LONG_ENOUGH = 4
"""Calls of a generation from which on it is worth a word that none of them skipped anything."""

KEPT_RECORDS = 4096
"""Denoiser calls whose record is kept, the latest ones; totals count all."""


class Session:
    """Everything that changes while a patched denoiser runs, and what it was patched with."""

    def __init__(
        self,
        model: nn.Module,
        bound: Bound,
        recipes: Sequence[Recipe],
        limit: int | None,
        dry_run: bool,
        entry: nn.Module | None = None,
    ) -> None:
        self.model = model
        self.entry = model if entry is None else entry
        """What is called: the model, or what torch.compile made of it."""
        self.parts = [Part(self, recipe, index) for index, recipe in enumerate(recipes)]
        self.dry_run = dry_run
        self.enabled = True
        self.spec = bound.spec
        self.patch: Any = None
        self.label = type(model).__name__
        self.block_count = bound.block_count + len(bound.layers)
        self.attention_count = bound.attention_count
        self._time_name = bound.spec.timestep
        self._ticks = itertools.count()
        self._forward = signature(type(model))
        names = (bound.spec.latent,) if bound.spec.latent else LATENT_NAMES
        self._latent_name = next((n for n in names if n in self._forward.names), None)
        self._arranges = any(part.recipe.where.arranges for part in self.parts)
        self.arounds = [
            around
            for part in self.parts
            if (around := part.recipe.where.around(bound, part)) is not None
        ]
        self._limit = limit
        self._told = False
        self._pipelines: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
        self._fresh()

    def _fresh(self) -> None:
        self._tracks: weakref.WeakSet[Track] = weakref.WeakSet()
        self.here = Here(self._tracks, len(self.parts))
        self.ledger = Ledger(self._limit)
        self.records: deque[StepRecord] = deque(maxlen=KEPT_RECORDS)
        self._zero()

    def _zero(self) -> None:
        self.passes = self.passes_skipped = self.generations = 0
        self.blocks_skipped = self.attention_skipped = 0
        self.seconds = 0.0

    def __deepcopy__(self, memo: dict[int, Any]) -> Session:
        copied = copy.copy(self)
        memo[id(self)] = copied
        copied.model = memo[id(self.model)]
        copied.entry = memo.get(id(self.entry), copied.model)
        copied._pipelines = weakref.WeakKeyDictionary(
            {memo[id(p)]: name for p, name in self._pipelines.items() if id(p) in memo}
        )
        copied.parts = copy.deepcopy(self.parts, memo)
        copied.arounds = copy.deepcopy(self.arounds, memo)
        if copied.arounds:
            root.surround(copied)
        copied._fresh()
        signals.listen(copied)
        return copied

    @property
    def track(self) -> Track:
        """The present thread's track."""
        return self.here.track

    @property
    def pipelines(self) -> list[Any]:
        """The pipelines known to run this denoiser."""
        return list(self._pipelines)

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
        name = self._pipelines[pipeline] = scheduler_name(pipeline, self.model)
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
        self.track.clock.announce(len(scheduler.timesteps))
        self.track.scheduler = weakref.ref(scheduler)

    def holds(self, scheduler: object) -> bool:
        """Whether a pipeline that runs this denoiser holds the scheduler now."""
        return any(getattr(p, name, None) is scheduler for p, name in self._pipelines.items())

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
        self._zero()

    def surrounded(self) -> bool:
        """Whether the slot around the denoiser has begun the call, and will end it.

        Raises:
            PatchError: the call went past the slot.
        """
        if self.here.track.surrounded or not self.arounds:
            return self.here.track.surrounded
        if root.is_surrounded(self):
            root.refuse(self)
        # Someone compiled the model in place since: go around what that made.
        root.surround(self)
        return False

    def surround(self, inner: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
        """One denoiser call, of which the strategy may skip all or a part."""
        self.begin(args, kwargs)
        track = self.here.track
        track.surrounded = True
        proceed = inner
        for around in reversed(self.arounds):
            proceed = functools.partial(_inside, around, proceed)
        try:
            output = proceed(*args, **kwargs)
        finally:
            track.surrounded = False
        self.end()
        return output

    def begin(self, args: tuple, kwargs: dict[str, Any]) -> None:
        """A denoiser call begins."""
        here = self.here
        track, here.acting = here.track, here.idle
        if track.call is not None:
            # The call before never ended: it raised. What it left is of no generation any more.
            track.forget()
            track.clock.restart()
        for pipeline, name in list(self._pipelines.items()):
            signals.catch_up(getattr(pipeline, name, None))
        if self._arranges and self.enabled and not self._pipelines:
            raise PatchError(
                f"{self.patch.strategy.name} chooses the timesteps of a pipeline's scheduler, and "
                f"no pipeline is known to run this {self.label}; patch the pipeline instead, or "
                "give your own loop fewer steps"
            )
        if self._writes_caches(args, kwargs):
            return
        new, name = track.clock.enter(lambda: self._time(args, kwargs, _mean))
        if new:
            track.forget()
            self._begin_index(track)
            self.generations += 1
        if not self.enabled:
            return
        call = track.call = self._call(track, name, args, kwargs)
        branch = self._branch(track, name, _shape(args, kwargs))
        assert track.shared is not None
        moments = [
            Moment(call, own, shared)
            for own, shared in zip(branch.states, track.shared.states, strict=True)
        ]
        here.acting = [*moments]
        track.started = time.perf_counter()
        for part in self.parts:
            if part.recipe.when.probe is None and not part.recipe.when.late:
                part.decide(moments[part.index])

    def _call(self, track: Track, name: str, args: tuple, kwargs: dict[str, Any]) -> Call:
        clock = track.clock
        record = StepRecord(
            self.label,
            clock.generation,
            name,
            clock.step,
            self.block_count,
            self.attention_count,
        )
        given = None
        if self._latent_name is not None:
            given = self._forward.get(self._latent_name, args, kwargs)
        return Call(
            clock.step,
            clock.total,
            name,
            record,
            self.dry_run,
            given if isinstance(given, torch.Tensor) else None,
            _latents(given),
            track.sample,
            lambda step: self._time_of(track, step, args, kwargs),
            track.sigma,
            self._frames(args, kwargs),
        )

    def _frames(self, args: tuple, kwargs: dict[str, Any]) -> int | None:
        name = self.spec.frames
        return None if name is None else self._forward.get(name, args, kwargs)

    def _branch(self, track: Track, name: str, shape: tuple) -> Branch:
        if track.shared is None:
            track.shared = Branch(self.ledger, (), len(self.parts))
        branch = track.branches.get(name)
        if branch is None or branch.shape != shape:
            if branch is not None:
                branch.clear()
            branch = track.branches[name] = Branch(self.ledger, shape, len(self.parts))
        return branch

    def end(self) -> None:
        """The denoiser call is over."""
        here = self.here
        track, moments, here.acting = here.track, here.acting, here.idle
        call, track.call = track.call, None
        if call is None:
            return
        for part, moment in zip(self.parts, moments, strict=True):
            if moment is not None:
                part.recipe.when.learn(moment)
        record = call.record
        track.note(record)
        record.seconds = time.perf_counter() - track.started
        record.bytes = self.ledger.held
        self.records.append(record)
        self.passes += 1
        self.passes_skipped += record.whole
        self.blocks_skipped += record.blocks_skipped
        self.attention_skipped += record.attention_skipped
        self.seconds += record.seconds

    def step_ended(
        self, sample: torch.Tensor | None, start: int | None = None, end: int | None = None
    ) -> None:
        """The scheduler took a step to `sample`; after the last one nothing is kept.

        `start` and `end` are its own counts of steps before and after, None where it has none.
        """
        self.track.sample = sample
        track = self.track
        if track.clock.advance(start, end):
            self._tell_if_idle(track)
            track.forget()

    def _tell_if_idle(self, track: Track) -> None:
        """A strategy that is on and does nothing would pass for one that does not help."""
        if self._told or track.skipped or track.calls < LONG_ENOUGH or self._arranges:
            return
        self._told = True
        logger.warning(
            "%s skipped nothing in %d calls of %s; its limits or its threshold compute every step "
            "of a generation this short or this restless (autocache.stats says what was computed)",
            self.patch.strategy if self.patch else "the strategy",
            track.calls,
            self.label,
        )

    def _begin_index(self, track: Track) -> None:
        """Image-to-image starts in the middle of the scheduler's timesteps."""
        scheduler = track.scheduler() if track.scheduler is not None else None
        begin = getattr(scheduler, "begin_index", None)
        if begin and track.clock.total is not None:
            track.clock.total -= begin

    def _writes_caches(self, args: tuple, kwargs: dict[str, Any]) -> bool:
        """Whether the call is one of those that the spec wants to be computed."""
        for name, values in self.spec.compute_when.items():
            try:
                given = self._forward.get(name, args, kwargs)
            except (AttributeError, LookupError):
                continue  # What would hold it is not there in this call.
            if isinstance(given, (str, bool, int)) and given in values:
                return True
        return False

    def _time(
        self, args: tuple, kwargs: dict[str, Any], of: Callable[[torch.Tensor], torch.Tensor]
    ) -> float:
        """The time of a call; `of` picks it where tokens or frames have times of their own."""
        if self._time_name is None:
            # Nothing tells one step from the next: every call is one.
            return float(next(self._ticks))
        value = kwargs.get(self._time_name)
        if value is None:
            value = self._forward.get(self._time_name, args, kwargs)
        return float(of(value)) if isinstance(value, torch.Tensor) else float(value)

    def _time_of(self, track: Track, step: int, args: tuple, kwargs: dict[str, Any]) -> float:
        """The timestep of a step: the scheduler's where it is heard, else the argument's."""
        scheduler = track.scheduler() if track.scheduler is not None else None
        if scheduler is not None and track.clock.total is not None:
            if not track.times:
                track.times = [float(time) for time in scheduler.timesteps.tolist()]
            begin = getattr(scheduler, "begin_index", None) or 0
            if begin + step < len(track.times):
                return track.times[begin + step]
        if step != track.clock.step or self._time_name is None:
            raise LookupError(f"the timestep of step {step} is not known")
        # Of several the noisiest: what is clean already does not tell how far the others are.
        noisiest = self._time(args, kwargs, torch.amax)
        return noisiest * self.spec.timestep_scale + self.spec.timestep_offset

    def install(self, sites: list[tuple[nn.Module, intercept.Site]]) -> None:
        """Instrument the model; on any failure it is left as it was."""
        grouped: dict[nn.Module, list[intercept.Site]] = {}
        for module, site in sites:
            grouped.setdefault(module, []).append(site)
        try:
            for module, chain in grouped.items():
                intercept.install(module, chain)
            root.observe(self.model, self)
            if self.arounds:
                root.surround(self)
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


def _mean(times: torch.Tensor) -> torch.Tensor:
    """It moves when any of them does, and in double precision it is exact for equal ones."""
    return times.to("cpu", torch.float64).mean()


def _inside(around: Around, proceed: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return around.around(proceed, args, kwargs)


def _latents(given: Any) -> tuple[torch.Tensor, ...]:
    """A latent or a list of them; none of lists in a list, which also hold what is not denoised."""
    items = tuple(given) if isinstance(given, (list, tuple)) else (given,)
    return items if all(isinstance(item, torch.Tensor) for item in items) else ()


def _shape(args: tuple, kwargs: dict[str, Any]) -> tuple:
    """What must stay the same for cached tensors to fit: shape, dtype and device of every input."""
    return tuple(
        (value.shape, value.dtype, value.device)
        for value in (*args, *kwargs.values())
        if isinstance(value, torch.Tensor)
    )
