"""One thread's way through a denoiser, and what each guidance branch remembers on it."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any

from autocache.runtime.caller import Caller
from autocache.runtime.clock import Clock
from autocache.runtime.moment import Call, Moment, State
from autocache.runtime.progress import progress
from autocache.runtime.ranks import ALONE, Ranks
from autocache.runtime.response import Response, gain, responses
from autocache.runtime.store import Store

if TYPE_CHECKING:
    import torch

    from autocache.runtime.ledger import Ledger
    from autocache.runtime.record import StepRecord


Acting = Sequence["Moment | None"]

IDLE: Acting = ()
"""Nothing is to be done in any place: no denoiser call is under way, or it is computed as it is."""


class Branch:
    """What one guidance branch remembers within a generation, for each part of the strategy."""

    def __init__(
        self, ledger: Ledger, denoiser: str, shape: tuple, groups: Sequence[Hashable]
    ) -> None:
        self.states = [State(Store(ledger, group, denoiser)) for group in groups]
        self.shape = shape

    def clear(self) -> None:
        for state in self.states:
            state.store.clear()


class Track:
    """One way through the denoiser, a thread's or a request's: nothing in it is shared."""

    def __init__(self, direction: int = 0) -> None:
        self.clock = Clock(direction)
        self.caller = Caller()
        self.number = 0
        """Of the generation, among all of the denoiser."""
        self.thread = 0
        """Where the latest call was made."""
        self.requested = False
        """It is that of a request."""
        self.ousted = False
        """Another thread gave the scheduler new timesteps in mid-generation."""
        self.spoiled = False
        """Another thread wants it to drop what it remembers."""
        self.outer: tuple[Track, Acting, bool] | None = None
        """What the thread was in the middle of when the call under way came."""
        self.branches: dict[str, Branch] = {}
        self.shared: Branch | None = None
        """What is remembered for all guidance branches together."""
        self.surrounded = False
        """The call under way came through the slot around the denoiser."""
        self.call: Call | None = None
        self.started = 0.0
        self.scheduler: weakref.ref | None = None
        """The one that announced the generation."""
        self.sample: torch.Tensor | None = None
        self.sigma: float | torch.Tensor | None = None
        """The noise level of the call to come, as the pipeline announced it."""
        self.times: list[float] = []
        self.way: tuple[float, ...] | None = None
        """Its progress, step by step; empty where that is not known."""
        self.responses: tuple[Response, ...] | None = None
        """How the scheduler's steps answer to what they are given; empty where it is not known."""
        self.unlike: str | None = None
        """See `Call.unlike`."""
        self.looked = self.began = 0
        """How far the generation was held against what a profile expects, and its first step."""
        self.calls = 0
        """Denoiser calls of the generation so far."""
        self.skipped = False
        """Whether anything was skipped in it."""
        self.ranks: Ranks = ALONE
        """The processes that work on it."""

    def start_midway(self) -> None:
        """Image-to-image starts in the middle of the scheduler's timesteps."""
        begin = getattr(self.heard(), "begin_index", None)
        if begin and self.clock.total is not None:
            self.clock.total -= begin

    def time_of(self, step: int, now: Callable[[], float]) -> float:
        """The timestep of a step: the scheduler's where it is heard, else what `now` reads.

        Raises LookupError for another step than this one, where no scheduler is heard.
        """
        scheduler = self.heard()
        if scheduler is not None and self.clock.total is not None:
            if not self.times:
                self.times = [float(time) for time in scheduler.timesteps.tolist()]
            begin = getattr(scheduler, "begin_index", None) or 0
            if begin + step < len(self.times):
                return self.times[begin + step]
        if step != self.clock.step:
            raise LookupError(f"the timestep of step {step} is not known")
        return now()

    def progress(self) -> tuple[float, ...] | None:
        """The share of the way that lies behind at each step; None where it is not known."""
        scheduler = self.heard()
        if scheduler is None or self.clock.total is None:
            return None
        if self.way is None:
            begin = getattr(scheduler, "begin_index", None) or 0
            self.way = (progress(scheduler) or ())[begin:]
        return self.way or None

    def gain(self, late: int, early: int) -> float | None:
        """What a change of the output in an early step is worth as a change in a late one."""
        scheduler = self.heard()
        if scheduler is None or self.clock.total is None:
            return None
        if self.responses is None:
            self.responses = responses(scheduler) or ()
        begin = getattr(scheduler, "begin_index", None) or 0
        if begin + late >= len(self.responses):
            return None
        return gain(self.responses, begin + early, begin + late)

    def heard(self) -> Any:
        """The scheduler that announced the generation; None where none is heard."""
        return self.scheduler() if self.scheduler is not None else None

    def drives(self, scheduler: object) -> bool:
        """Whether it announced a generation on a scheduler that is not over."""
        return not self.ousted and self.heard() is scheduler and self.clock.under_way

    def note(self, record: StepRecord) -> None:
        """A call of the generation is over."""
        self.calls += 1
        self.skipped = self.skipped or record.skips

    def release(self) -> None:
        """Free every cached tensor."""
        for branch in (*self.branches.values(), *([self.shared] if self.shared else ())):
            branch.clear()
        self.branches.clear()
        self.shared = None

    def forget(self) -> None:
        self.release()
        self.call = self.sample = None
        self.times = []
        self.way = self.responses = None
        self.calls, self.skipped = 0, False
        self.unlike, self.looked = None, 0
        self.spoiled = False

    def break_off(self) -> None:
        """What is left is of no generation any more, and the next call starts one."""
        self.forget()
        self.clock.restart()

    def finish(self, keep: bool) -> None:
        """The generation is over, however it ended; what is cached may be to `keep`."""
        if not keep:
            self.forget()
        self.clock.close()
        self.caller.forget()
        self.caller.runner = 0

    def __del__(self) -> None:
        # Its thread has ended: what it kept counts no longer.
        self.forget()


class Tracks:
    """All ways through one denoiser that are still in use."""

    def __init__(self, direction: int = 0) -> None:
        self._direction = direction
        self._known: weakref.WeakSet[Track] = weakref.WeakSet()
        self._lock = threading.Lock()

    def new(self) -> Track:
        """One more."""
        track = Track(self._direction)
        with self._lock:
            self._known.add(track)
        return track

    def all(self) -> list[Track]:
        """Those there are at this moment."""
        with self._lock:
            return list(self._known)


class Here(threading.local):
    """What the sites of the present thread look at. Read at every intercepted call."""

    def __init__(self, tracks: Tracks) -> None:
        self.tracks = tracks
        self.own = self.track = tracks.new()
        """The thread's own, and the one that the latest call is on."""
        self.refused = False
        """A call was refused before it began, so that it has nothing to leave."""
        self.acting: Acting = IDLE
        """Per part, the denoiser call under way; None when it neither skips nor keeps in it."""
        self.skipping = False
        """Some part leaves something out of it."""

    def rest(self, part: int) -> None:
        """That part has no more to do in the denoiser call under way."""
        acting = [*self.acting[:part], None, *self.acting[part + 1 :]]
        self.acting = acting if any(acting) else IDLE

    def resume(self, track: Track) -> None:
        """Go on with the call that one of this track, which is over, was made in the middle of."""
        if self.track is track:
            before, track.outer = track.outer or (track, IDLE, False), None
            self.track, self.acting, self.skipping = before
