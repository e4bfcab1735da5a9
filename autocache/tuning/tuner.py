"""One tuning, from plain runs to a profile."""

from __future__ import annotations

import logging
import math
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
from autocache.tuning.mindie.run import PublishedSearch
from autocache.tuning.placement import Placement
from autocache.tuning.profile import Measured, Profile, Quality
from autocache.tuning.reference import Reference
from autocache.tuning.schedule_search import Schedules
from autocache.tuning.study import Tell
from autocache.tuning.trajectory import record

if TYPE_CHECKING:
    from autocache.tuning.candidate import Candidate
    from autocache.tuning.goal import Goal
    from autocache.tuning.workload import Workload

logger = logging.getLogger("autocache")

Progress = Callable[[str, int], AbstractContextManager[Tell]]
"""From what is tried and how often to what is told of each trial."""

SCHEDULE = "schedule"
ORDER = 3
LOSSLESS = "invariant"
WORTH_IT = 0.95
CONFIRMED = 3
"""Schedules whose pictures are compared in the end."""
FEW = 4.0
"""Speed-up of the second of two runs that are timed."""


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
    plain: Reference = field(init=False)
    """What is searched on, without a cache."""
    speedup: float | None = field(init=False)
    beside: tuple[str, ...] = field(init=False, default=())
    """Lossless strategies at work with a schedule."""

    def best(self, strategies: Sequence[str]) -> Profile:
        """The best of what the strategies can be."""
        if not strategies:
            raise ParameterError("strategies: name at least one")
        for name in strategies:
            get(name)
        began = clock.perf_counter()
        self.plain = Reference.of(self.searched)
        self.speedup = self.goal.speedup or self._speedup_in_time()
        named = [name for name in strategies if name != SCHEDULE]
        cost = self._cost(len(named) > 0, SCHEDULE in strategies)
        logger.info("tune: %s; %s", self.goal, cost)
        found: list[Candidate] = []
        if SCHEDULE in strategies:
            self._look_for_lossless()
            found += self._schedules(cost.trials)
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
        began = clock.perf_counter()
        found = PublishedSearch(self.searched, search, ratio=self.goal.speedup, **options)
        logger.info("tune: up to %d generations of each input", found.generations)
        first = found.run(name=search, storage=self.storage, progress=self.progress)[0]
        self.plain = Reference.of(self.searched)
        chosen = others.measured(self.searched, self.plain, search, first.parameters)
        return self._profile(chosen, began)

    def _cost(self, named: bool, schedule: bool) -> Cost:
        share = 1 / self.speedup if self.speedup else 0.5
        return Cost.plan(
            len(self.searched.inputs), len(self.kept.inputs), share, named + schedule, self.budget
        )

    def _speedup_in_time(self) -> float | None:
        """The speed-up at which an input takes as long as is asked, from two runs timed."""
        if self.goal.time is None:
            return None
        count = len(self.searched.inputs)
        whole = self.searched.run().seconds / count
        with quiet(), patched(self.searched.pipe, "auto", speedup=FEW) as patch:
            few = self.searched.run().seconds / count
            share = patch.stats().denoiser.share
        fixed = (few - share * whole) / (1 - share)
        left = (self.goal.time - fixed) / max(whole - fixed, 1e-9)
        if left <= 0:
            raise ParameterError(
                f"time={self.goal.time}: an input takes {fixed:.3g} s beside the denoiser's calls"
            )
        return max(1.0, 1 / left)

    def _schedules(self, trials: int) -> list[Candidate]:
        folder = _folder(self.storage)
        schedules = Schedules(self.searched, record(self.searched, folder=folder))
        if self.speedup is not None:
            counts = [self._count(schedules.placement, 1 / self.speedup)]
        else:
            enough = self._enough(schedules)
            counts = [max(1, enough - 1), enough]
        found: list[Candidate] = []
        for count in counts:
            found += self._searched(schedules, count, max(1, trials // len(counts)))
        return found

    def _look_for_lossless(self) -> None:
        """Whether work that is the same at every step is worth leaving out."""
        try:
            left = self._compute(LOSSLESS, {})
        except AutocacheError:  # The model has no such work.
            return
        if left < WORTH_IT:
            self.beside, self._left = (LOSSLESS,), left

    def _count(self, placement: Placement, compute: float) -> int:
        """The most computed steps that leave no more than so much of the compute."""
        total = placement.total
        if not self.beside:
            return max(1, math.floor(total * compute + 1e-9))
        # The first step is paid in full, and spares something in each of the others.
        each = (self._left * total - 1) / (total - 1)
        count = max(1, min(total, math.floor(1 + (total * compute - 1) / each + 1e-9)))
        while count > 1 and self._compute(SCHEDULE, _plain(placement, count)) > compute:
            count -= 1
        return count

    def _compute(self, strategy: str, parameters: Mapping[str, Any]) -> float:
        """The share of the compute that is left, as the first input tells."""
        first = self.searched.among(0, 1)
        plain = Reference.of(first)
        return others.measured(first, plain, strategy, parameters, self.beside).compute

    def _searched(self, schedules: Schedules, count: int, trials: int) -> list[Candidate]:
        """The best schedules of a search, and `auto` at their compute, as pictures."""
        told = (
            self.progress(f"{count} of {schedules.total} steps", trials) if self.progress else None
        )
        with told or nullcontext() as tell:
            best = schedules.search(
                count,
                trials=trials,
                storage=self.storage,
                seed=self.seed,
                tell=tell,
                identity=identity(self.searched),
            )
        chosen = [self._measured(SCHEDULE, one.parameters) for one in best[:CONFIRMED]]
        return [*chosen, self._measured("auto", {"speedup": schedules.total / count})]

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
        with self._telling(", ".join(names), trials) as tell:
            return others.search_strategies(
                self.searched,
                names,
                trials=trials,
                speedup=self.speedup,
                min_psnr=self.goal.min_psnr,
                storage=self.storage,
                seed=self.seed,
                tell=tell,
                reference=self.plain,
            )

    def _telling(self, label: str, trials: int) -> AbstractContextManager[Tell | None]:
        return self.progress(label, trials) if self.progress else nullcontext()

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


def _plain(placement: Placement, count: int) -> dict[str, Any]:
    """A schedule without weights, as `schedule` takes it."""
    return {"steps": placement.best(count), "total": placement.total}


def _folder(storage: str | Path | None) -> Path | None:
    """Recordings lie beside a storage that is a file."""
    if storage is None or "://" in str(storage):
        return None
    return Path(f"{storage}.recorded").expanduser()
