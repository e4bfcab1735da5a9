"""One patched denoiser: its clock, its cached tensors, and the record of what was done."""

from __future__ import annotations

import copy
import functools
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from autocache import log
from autocache.errors import PatchError
from autocache.runtime import (
    alone,
    changes,
    displaced,
    intercept,
    parallelism,
    root,
    runs,
    signals,
    stacks,
    turns,
)
from autocache.runtime.arguments import Arguments, latents, shape
from autocache.runtime.compiled import Compiled
from autocache.runtime.listener import Listener
from autocache.runtime.moment import Call, Moment
from autocache.runtime.notices import Notices
from autocache.runtime.offload import computes_on
from autocache.runtime.part import Part
from autocache.runtime.record import StepRecord
from autocache.runtime.subject import Subject
from autocache.runtime.totals import Totals
from autocache.runtime.track import IDLE, Acting, Branch, Here, Track, Tracks

if TYPE_CHECKING:
    from autocache.runtime.ledger import Ledger
    from autocache.spec.bind import Bound
    from autocache.strategy.recipe import Recipe
    from autocache.tuning.expectations import Expectations
    from autocache.where import Around


class Session(Listener):
    """Everything that changes while a patched denoiser runs, and what it was patched with."""

    def __init__(
        self,
        model: nn.Module,
        bound: Bound,
        recipes: Sequence[Recipe],
        ledger: Ledger,
        dry_run: bool,
        entry: nn.Module | None = None,
    ) -> None:
        self._subject = Subject(model, model if entry is None else entry)
        self.parts = [Part(self, recipe, index) for index, recipe in enumerate(recipes)]
        self.dry_run = dry_run
        self.enabled = True
        self.keep = False
        """What is cached stays after a generation, until the next one."""
        self.spec = bound.spec
        self.patch: Any = None
        self.expected: Expectations | None = None
        """What the strategy's profile was made for."""
        self.group: Any = None
        """The process group that works on one generation, where the user named it."""
        self.shards: list[Any] = []
        """The process groups that the weights were last seen to be spread over."""
        self.label = type(model).__name__
        self.count(bound)
        self._arguments = Arguments(bound.spec, type(model))
        self._arranges = any(part.recipe.where.arranges for part in self.parts)
        self.arounds = [
            around
            for part in self.parts
            if (around := part.recipe.where.around(bound, part)) is not None
        ]
        self.ledger = ledger
        """That of all denoisers of the patch."""
        self._notices = Notices(any(part.recipe.where.skips for part in self.parts))
        super().__init__()
        self._fresh()

    def _fresh(self) -> None:
        self.tracks = Tracks(self._arguments.direction)
        self.here = Here(self.tracks)
        self.gate = alone.Gate()
        self.compiled = Compiled(self)
        self.totals = Totals(self.dry_run)
        self.placed: weakref.WeakSet[nn.Module] = weakref.WeakSet()
        """The modules it intercepts."""
        self.anatomy: int | None = None
        """What the model was made of when they were chosen; None for a copy of another."""
        self.stale = True
        """The model may be made of other modules than those it acts on."""

    def count(self, bound: Bound) -> None:
        """How much there is to skip."""
        self.block_count = bound.block_count + len(bound.layers)
        self.attention_count = bound.attention_count
        self.feed_forward_count = bound.feed_forward_count

    def __deepcopy__(self, memo: dict[int, Any]) -> Session:
        copied = copy.copy(self)
        memo[id(self)] = copied
        model = copy.deepcopy(self.model, memo)
        assert model is not None
        copied._subject = Subject(model, memo.get(id(self.entry), model))
        copied._pipelines = tuple(
            (weakref.ref(memo[id(p)]), name) for p, name in self._driven() if id(p) in memo
        )
        copied.ledger = copy.deepcopy(self.ledger, memo)
        copied.parts = copy.deepcopy(self.parts, memo)
        copied.arounds = copy.deepcopy(self.arounds, memo)
        if copied.arounds:
            root.surround(copied)
        copied._fresh()
        if self.patch is not None:
            # Not the original's, which would keep the original alive.
            copied.patch = copy.deepcopy(self.patch, memo)
            copied.patch.adopt(copied)
        copied._listen()
        return copied

    def _listen(self) -> None:
        assert self.model is not None
        self.forward = displaced.forward_of(self.model)
        signals.listen(self)
        # Weakly here too: with the model in a cycle both are to go in one collection.
        self._subject.outlived(_release, weakref.ref(self))

    def drop(self) -> None:
        """Drop every cached tensor; those of a call under way when that is over."""
        tracks, entry = self.tracks.all(), self.entry
        for track in tracks:
            track.spoiled = True
        busy = stacks.callers(entry) if entry is not None else {}
        for track in tracks:
            if track.thread not in busy:
                track.forget()

    def altered(self) -> None:
        """The model is about to compute something else: what is cached does not stand in for it."""
        self.drop()
        self.stale = True

    def forget(self) -> None:
        """Drop every cached tensor; the next call starts a generation."""
        self.drop()
        for track in self.tracks.all():
            track.clock.restart()

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
        track = self.track
        proceed = inner
        for around in reversed(self.arounds):
            proceed = functools.partial(_inside, around, proceed)
        try:
            self.begin(args, kwargs)
            track.surrounded = True
            output = proceed(*args, **kwargs)
        except BaseException:
            self.abandon()
            raise
        track.surrounded = False
        self.end()
        return output

    def begin(self, args: tuple, kwargs: dict[str, Any]) -> None:
        """A denoiser call begins."""
        here, track = self.here, self.track
        if self.gate.closed:
            self.gate.wait()
            if not signals.is_heard_by(self):
                return
        if track.call is not None:
            turns.broken_off(self, track)
        if track is not here.track:
            outer = here.track, here.acting, here.skipping
            track.outer = outer if here.track.call is not None else None
            here.track = track
        here.acting, here.skipping = IDLE, False
        track.thread = threading.get_ident()
        if track.spoiled:
            track.forget()
        if self._pipelines:
            for pipeline, name in self._driven():
                signals.catch_up(getattr(pipeline, name, None))
        if self._arranges and self.enabled and not self.pipelines:
            raise PatchError(
                f"{self.patch.strategy.name} chooses the timesteps of a pipeline's scheduler, and "
                f"no pipeline is known to run this {self.label}; patch the pipeline instead, or "
                "give your own loop fewer steps"
            )
        self.compiled.look()
        if self.spec.compute_when and self._arguments.writes_caches(args, kwargs):
            return
        if self.enabled and track.caller.runner != track.thread and track.caller.is_other():
            turns.change(self, track, lambda: self._arguments.time(args, kwargs))
        new, name = track.clock.enter(lambda: self._arguments.time(args, kwargs))
        if new:
            track.forget()
            track.start_midway()
            track.ranks = parallelism.ranks_of(self)
            track.number = self.totals.begin()
            self._take_over()
        if self.ledger.budget is not None:
            self.ledger.budget.tell((track.number, track.clock.step))
        self.stale |= new
        if not self.enabled:
            return
        if self.stale:
            changes.follow(self)
            self.compiled.find()
        call = track.call = self._call(track, name, args, kwargs)
        if self.expected is not None:
            self.expected.check(self, track, call)
        place = computes_on(self.model) if self.model is not None else None
        branch = self._branch(track, name, (*shape(args, kwargs), place))
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

    def _take_over(self) -> None:
        """What another expert of the pipeline keeps, which runs no more, is of no use now."""
        for other in signals.beside(self):
            track = other.track
            if not (other.keep or track.call or track.clock.called):
                track.release()

    def _call(self, track: Track, name: str, args: tuple, kwargs: dict[str, Any]) -> Call:
        clock = track.clock
        record = StepRecord(
            self.label,
            track.number,
            name,
            clock.step,
            self.block_count,
            self.attention_count,
            self.feed_forward_count,
        )
        given = self._arguments.latent(args, kwargs)

        def time_of(step: int) -> float:
            return track.time_of(step, lambda: self._arguments.timestep(args, kwargs))

        return Call(
            clock.step,
            clock.total,
            name,
            record,
            self.dry_run,
            given if isinstance(given, torch.Tensor) else None,
            latents(given),
            track.sample,
            time_of,
            track.sigma,
            functools.partial(track.gain, clock.step),
            track.progress,
            self._arguments.frames(args, kwargs),
            unlike=track.unlike,
            ranks=track.ranks.at(clock.step),
        )

    def _branch(self, track: Track, name: str, shape: tuple) -> Branch:
        if track.shared is None:
            track.shared = Branch(self.ledger, self.label, (), [None] * len(self.parts))
        branch = track.branches.get(name)
        if branch is None or branch.shape != shape:
            if branch is not None:
                branch.clear()
            beside = [(id(track), part.index) for part in self.parts]
            branch = track.branches[name] = Branch(self.ledger, self.label, shape, beside)
        return branch

    def abandon(self) -> None:
        """The denoiser call raised: what its generation left is of none any more."""
        if self.here.refused:
            self.here.refused = False
            return
        track = self.here.track
        track.break_off()
        track.surrounded = False
        self.here.resume(track)

    def end(self) -> None:
        """The denoiser call is over."""
        here = self.here
        track, moments = here.track, here.acting
        call, track.call = track.call, None
        here.resume(track)
        if call is None:
            return
        try:
            self._conclude(track, call.record, moments)
        except BaseException:
            # The denoiser has returned: nobody else hears that its call failed after all.
            track.break_off()
            raise

    def _conclude(self, track: Track, record: StepRecord, moments: Acting) -> None:
        if moments:
            for part, moment in zip(self.parts, moments, strict=True):
                if moment is not None:
                    part.recipe.when.learn(moment)
            if displaced.unreached(self.parts, moments, record):
                self.totals.unreached += 1
        track.note(record)
        record.seconds = time.perf_counter() - track.started
        record.bytes = self.ledger.held
        self.totals.add(record)
        run = runs.innermost()
        if run is not None:
            run.call.denoised(record, track.started, self.dry_run)
        log.decision(record)
        if record.not_finite:
            self._notices.not_finite(record, self._strategy)
        if track.spoiled:
            track.forget()
        if self.ledger.budget is not None:
            self.ledger.budget.check()

    def install(self, sites: list[tuple[nn.Module, intercept.Site]]) -> None:
        """Instrument the model; on any failure it is left as it was."""
        model = self.model
        assert model is not None
        try:
            changes.place(self, sites)
            root.observe(model, self)
            if self.arounds:
                root.surround(self)
            self._listen()
            for pipeline in self.pipelines:
                self.attach(pipeline)
        except BaseException:
            self.remove()
            raise

    def suspend(self) -> Callable[[], None]:
        """Take the session off, and give back how to put it on again."""
        enabled, model = self.enabled, self.model
        assert model is not None
        sites = [
            (module, intercept.site_of(module)) for module in intercept.intercepted(model, self)
        ]
        self.remove()

        def resume() -> None:
            self.install([(module, site) for module, site in sites if site is not None])
            self.enabled = enabled

        return resume

    def remove(self) -> None:
        """Take every trace of the session off the model and free what it holds.

        Raises:
            ConcurrencyError: a call of the denoiser is under way.
        """
        with alone.only([self]):
            self._remove()

    def _remove(self) -> None:
        self.enabled = False
        self.forget()
        model = self.model
        self.compiled.leave()
        changes.displace(self)
        if model is not None:
            root.unobserve(model, self)
        self._subject.left()
        signals.silence(self)


def _release(session: weakref.ref[Session]) -> None:
    """The model of a session is gone: nothing is kept for it, nor wrapped because of it."""
    outlived = session()
    if outlived is not None:
        outlived.drop()
    signals.silence(outlived)


def _inside(around: Around, proceed: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return around.around(proceed, args, kwargs)
