"""One tuning, from plain runs to a profile."""

from __future__ import annotations

import logging
import time as clock
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from autocache.api import patched
from autocache.errors import AutocacheError, ParameterError
from autocache.quiet import quiet
from autocache.strategy import get
from autocache.tuning import strategies as others
from autocache.tuning.conditions import conditions, machine
from autocache.tuning.cost import Cost
from autocache.tuning.identity import identity
from autocache.tuning.lossless import Lossless
from autocache.tuning.mindie.run import PublishedSearch
from autocache.tuning.profile import Measured, Profile, Quality
from autocache.tuning.reference import Reference
from autocache.tuning.schedule_search import Schedules
from autocache.tuning.storage import opened
from autocache.tuning.study import Tell
from autocache.tuning.timing import Timing
from autocache.tuning.told import Announce, Best, Progress, best_score, least_error
from autocache.tuning.trajectory import record

if TYPE_CHECKING:
    from autocache.tuning.candidate import Candidate
    from autocache.tuning.goal import Goal
    from autocache.tuning.workload import Workload

logger = logging.getLogger("autocache")

SCHEDULE = "schedule"
FALLBACK = "auto"
"""What is searched instead where steps cannot be followed."""
ORDER = 3
CONFIRMED = 3
"""Schedules whose pictures are compared in the end."""
HALVINGS = 5
"""Runs that it takes to find how many steps are good enough, about: of 28 steps as of 50."""


@dataclass
class Tuning:
    """One tuning: what it is for, what it may spend, and what it has found so far."""

    searched: Workload
    kept: Workload
    goal: Goal
    budget: int | None = None
    storage: str | Path | None = None
    seed: int = 0
    progress: Progress | None = None
    announce: Announce = logger.info
    """Told what it will take, before it begins."""
    plain: Reference = field(init=False)
    """What is searched on, without a cache."""
    beside: tuple[str, ...] = field(init=False, default=())
    """Lossless strategies at work with a schedule."""
    speedup: float | None = field(init=False)

    def best(self, strategies: Sequence[str]) -> Profile:
        """The best of what the strategies can be."""
        if not strategies or isinstance(strategies, str):
            raise ParameterError(f"strategies={strategies!r}: expected a list with at least one")
        for name in strategies:
            get(name)
        opened(self.storage)  # What cannot be opened is said before anything is drawn.
        began = clock.perf_counter()
        self.speedup = self.goal.speedup or self._speedup_in_time()
        named = [name for name in dict.fromkeys(strategies) if name != SCHEDULE]
        cost = self._cost(named=bool(named), schedule=SCHEDULE in strategies)
        self.announce(f"tune: {self.goal}; {cost}")
        self.plain = Reference.of(self.searched)
        found: list[Candidate] = []
        schedules = self._followed(named) if SCHEDULE in strategies else None
        if schedules is not None:
            found += self._schedules(schedules, cost.trials)
        elif SCHEDULE in strategies and not named:
            named = [FALLBACK]
        if named:
            found += self._strategies(named, cost.trials)
        chosen = others.best(found, speedup=self.speedup, min_psnr=self.goal.min_psnr)
        if chosen is None:
            raise ParameterError(self.goal.missed(found))
        return self._profile(chosen, began)

    def published(self, search: Literal["dit_block", "attention"], **options: Any) -> Profile:
        """What one of MindIE's searches finds."""
        if self.goal.speedup is None:
            raise ParameterError(f"search={search!r} wants a speedup, by which it counts")
        if self.budget is not None:
            raise ParameterError(f"search={search!r} tries all that it has, whatever the budget")
        began = clock.perf_counter()
        found = PublishedSearch(self.searched, search, ratio=self.goal.speedup, **options)
        self.announce(f"tune: {self.goal}; up to {found.generations} generations of each input")
        first = found.run(name=search, storage=self.storage, progress=self._published_progress())[0]
        self.plain = Reference.of(self.searched)
        chosen = others.measured(self.searched, self.plain, search, first.parameters)
        return self._profile(chosen, began)

    def _published_progress(self) -> Callable[[str, int], AbstractContextManager[Tell]] | None:
        made = self.progress
        if made is None:
            return None
        return lambda label, trials: made(label, trials, least_error)

    def _cost(self, *, named: bool, schedule: bool) -> Cost:
        count = len(self.searched.inputs)
        several = schedule and count > self.searched.batch
        compared = CONFIRMED + 1
        if self.speedup is None:
            # Two numbers of steps are searched, and each number that is looked at is fitted first.
            compared = 2 * compared + 2 * HALVINGS
        return Cost(
            count,
            len(self.kept.inputs),
            1 / self.speedup if self.speedup else 0.5,
            named + schedule,
            again=self.searched.batch if several else 0,
            compared=compared if schedule else 0,
            timed=self.goal.time is not None,
        ).within(self.budget)

    def _speedup_in_time(self) -> float | None:
        """The speed-up at which an input takes as long as is asked."""
        if self.goal.time is None:
            return None
        self.announce("tune: two runs are timed first")
        return Timing.of(self.searched, self.storage).speedup(self.goal.time)

    def _followed(self, named: Sequence[str]) -> Schedules | None:
        """The schedules there are; None, and why, where the pipeline's steps cannot be followed."""
        try:
            return Schedules(self.searched, record(self.searched, folder=folder(self.storage)))
        except AutocacheError as error:
            logger.warning(
                "tune: no schedule can be fitted to a %s: %s; %s is searched instead",
                type(self.searched.pipe).__name__,
                str(error),
                " and ".join(named) or f"{FALLBACK}, by its parameters,",
            )
            return None

    def _schedules(self, schedules: Schedules, trials: int) -> list[Candidate]:
        lossless = Lossless(self.searched)
        self.beside = lossless.names
        if self.speedup is not None:
            counts = [lossless.count(schedules.placement, 1 / self.speedup)]
        else:
            enough = self._enough(schedules)
            counts = [max(1, enough - 1), enough]
        found: list[Candidate] = []
        for count in counts:
            found += self._searched(schedules, count, max(1, trials // len(counts)))
        return found

    def _searched(self, schedules: Schedules, count: int, trials: int) -> list[Candidate]:
        """The best schedules of a search, and `auto` at their compute, as pictures."""
        total = schedules.total
        if count == total:
            return [self._measured(SCHEDULE, {"steps": list(range(total)), "total": total})]
        label = f"{count} of {total} steps"
        with self._telling(label, trials, best_score) as tell:
            best = schedules.search(
                count,
                trials=trials,
                storage=self.storage,
                seed=self.seed,
                tell=tell,
                identity=identity(self.searched),
            )
        chosen = [self._measured(SCHEDULE, one.parameters) for one in best[:CONFIRMED]]
        return [*chosen, self._measured("auto", {"speedup": total / count})]

    def _enough(self, schedules: Schedules) -> int:
        """The fewest computed steps at which a schedule is as good as is asked, by halving."""
        assert self.goal.min_psnr is not None
        low, high = 1, schedules.total
        while low < high:
            count = (low + high) // 2
            one = schedules.schedule(schedules.placement.best(count), min(ORDER, count))
            if self._measured(SCHEDULE, one.parameters).psnr >= self.goal.min_psnr:
                high = count
            else:
                low = count + 1
        return high

    def _strategies(self, names: Sequence[str], trials: int) -> list[Candidate]:
        speedup, min_psnr = self.speedup, self.goal.min_psnr
        best = others.best_in_words(speedup=speedup, min_psnr=min_psnr)
        with self._telling(", ".join(names), trials, best) as tell:
            return others.search_strategies(
                self.searched,
                names,
                trials=trials,
                speedup=speedup,
                min_psnr=min_psnr,
                storage=self.storage,
                seed=self.seed,
                tell=tell,
                reference=self.plain,
            )

    def _telling(self, label: str, trials: int, best: Best) -> AbstractContextManager[Tell | None]:
        return self.progress(label, trials, best) if self.progress else nullcontext()

    def _measured(self, strategy: str, parameters: Mapping[str, Any]) -> Candidate:
        return others.measured(self.searched, self.plain, strategy, parameters, self.beside)

    def _profile(self, chosen: Candidate, began: float) -> Profile:
        """The chosen one, measured on what was held out."""
        pipe = self.kept.pipe
        plain = Reference.of(self.kept)
        held = others.measured(self.kept, plain, chosen.strategy, chosen.parameters, chosen.beside)
        # Timed without counting, which takes time of its own.
        seconds = self.kept.run().seconds
        with quiet(), patched(pipe, chosen.choice) as patch:
            faster = self.kept.run().seconds
        first = self.kept.seed
        return Profile.of(
            patch.strategy,
            made_for=conditions(self.kept),
            measured=Measured(
                compute=held.compute,
                time_ratio=seconds / faster,
                machine=machine(pipe),
                psnr=Quality(mean=held.psnr, p10=held.p10),
                inputs=len(self.kept.inputs),
                seeds=[first, first + len(self.kept.inputs) - 1],
                seconds=clock.perf_counter() - began,
            ),
        )


def folder(storage: str | Path | None) -> Path | None:
    """Recordings lie beside a storage that is a file."""
    if storage is None or "://" in str(storage):
        return None
    return Path(f"{storage}.recorded").expanduser()
