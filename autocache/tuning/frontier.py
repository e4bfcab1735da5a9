"""Quality against compute on one's own pipeline: fewer steps, `auto`, schedules, and what was
searched."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autocache.errors import AutocacheError, ParameterError
from autocache.tuning import strategies as others
from autocache.tuning.candidate import Candidate
from autocache.tuning.frontier_plot import Point, plot
from autocache.tuning.lossless import Lossless
from autocache.tuning.reference import Reference
from autocache.tuning.schedule_search import Schedules
from autocache.tuning.storage import opened, require_optuna
from autocache.tuning.told import shown
from autocache.tuning.trajectory import record
from autocache.tuning.tune import split
from autocache.tuning.tuner import ORDER, SCHEDULE, folder
from autocache.tuning.unpatched import unpatched

if TYPE_CHECKING:
    from autocache.tuning.profile import Profile
    from autocache.tuning.told import Announce
    from autocache.tuning.workload import Input, Workload

logger = logging.getLogger("autocache")

SPEEDUPS = (1.5, 2.0, 3.0, 4.0, 5.0)
MOST = 6
"""Settings of a searched strategy that are measured again."""
FITTED = "schedule, fitted"
"""Line of the schedules that are placed and fitted without a search."""


@dataclass
class Frontier:
    """Lines of points by name, and the point of a profile; mean and 10th percentile in dB."""

    points: dict[str, list[Point]] = field(default_factory=dict)
    chosen: Point | None = None

    def plot(self, path: str | Path, *, title: str = "") -> None:
        """Write the picture, see `autocache.tuning.frontier_plot.plot`."""
        emphasis = [FITTED] if FITTED in self.points else []
        plot(self.points, path, title=title, chosen=self.chosen, emphasis=emphasis)


def frontier(
    pipe: Any,
    inputs: Sequence[Input],
    *,
    speedups: Sequence[float] = SPEEDUPS,
    profile: Profile | None = None,
    call: Mapping[str, Any] | None = None,
    held_out: Sequence[Input] | None = None,
    seed: int = 0,
    batch: int = 8,
    storage: str | Path | None = None,
    progress: bool = False,
) -> Frontier:
    """Measure what quality each compute buys, on the inputs that `tune` holds out.

    Schedules are placed and fitted once for each speed-up, on the inputs that `tune` searches on,
    without its search. What it will cost is told before it begins; a line that cannot be had is
    left out, and the log says why.

    Args:
        pipe: a diffusers pipeline; it is left as it was, patched or not.
        inputs: as `tune` was given them, and so are `call`, `held_out`, `seed` and `batch`.
        speedups: of the points, above 1.
        profile: what was found, to be marked.
        storage: that of `tune`: its recordings are used, and each strategy that was searched there
            has a line of its own.
        progress: whether to tell the cost and draw a bar on standard error, in place of the log.

    Raises:
        ParameterError: a speed-up is not above 1.
        AutocacheError: the denoisers computed nothing that can be counted.
    """
    if not speedups or not all(1 < one < math.inf for one in speedups):
        raise ParameterError(f"speedups={tuple(speedups)}: expected numbers above 1")
    searched, kept = split(pipe, inputs, held_out, call=dict(call or {}), seed=seed, batch=batch)
    run = _Run(searched, kept, tuple(speedups), storage)
    with unpatched(pipe):
        found = run.frontier(shown(progress)[1], progress)
    found.chosen = _marked(profile)
    return found


@dataclass
class _Run:
    searched: Workload
    kept: Workload
    speedups: tuple[float, ...]
    storage: str | Path | None

    def frontier(self, announce: Announce, bar: bool) -> Frontier:
        candidates = self._candidates()
        announce(f"frontier: about {self._cost(candidates)} full generations")
        found = Frontier()
        jobs = [*self._points(), *self._schedules(), *self._again(candidates)]
        for name, measure in _bar(jobs, bar):
            try:
                one = measure()
            except AutocacheError as error:
                logger.warning("frontier: %s is without a point: %s", name, str(error))
                continue
            found.points.setdefault(name, []).append(Point(one.compute, one.psnr, one.p10))
        return found

    def _points(self) -> Iterator[tuple[str, Callable[[], Candidate]]]:
        for speedup in self.speedups:
            yield "fewer steps", lambda speedup=speedup: self._fewer(speedup)
            yield "auto", lambda speedup=speedup: self._measured("auto", {"speedup": speedup})

    def _schedules(self) -> Iterator[tuple[str, Callable[[], Candidate]]]:
        try:
            recorded = record(self.searched, folder=folder(self.storage))
        except AutocacheError as error:
            logger.warning("frontier: no schedule can be fitted: %s", str(error))
            return
        schedules, lossless = Schedules(self.searched, recorded), Lossless(self.searched)
        for speedup in self.speedups:
            yield FITTED, lambda speedup=speedup: self._fitted(schedules, lossless, speedup)

    def _again(
        self, candidates: Sequence[Candidate]
    ) -> Iterator[tuple[str, Callable[[], Candidate]]]:
        for one in candidates:
            yield one.strategy, lambda one=one: self._measured(one.strategy, one.parameters)

    def _fewer(self, speedup: float) -> Candidate:
        steps = max(1, math.floor(self._plain.steps / speedup + 1e-9))
        return self._measured("fewer_steps", {"steps": steps})

    def _fitted(self, schedules: Schedules, lossless: Lossless, speedup: float) -> Candidate:
        count = lossless.count(schedules.placement, 1 / speedup)
        one = schedules.schedule(schedules.placement.best(count), min(ORDER, count))
        return self._measured(SCHEDULE, one.parameters, lossless.names)

    def _measured(
        self, strategy: str, parameters: Mapping[str, Any], beside: Sequence[str] = ()
    ) -> Candidate:
        return others.measured(self.kept, self._plain, strategy, parameters, beside)

    @cached_property
    def _plain(self) -> Reference:
        return Reference.of(self.kept)

    def _candidates(self) -> list[Candidate]:
        """What a search on the storage found none to beat, of each strategy."""
        if self.storage is None:
            return []
        optuna = require_optuna()
        try:
            study = optuna.load_study(study_name=others.STUDY, storage=opened(self.storage))
        except KeyError:
            return []
        tried = others.candidates(study)
        names = dict.fromkeys(one.strategy for one in tried)
        fronts = (others.front([one for one in tried if one.strategy == name]) for name in names)
        return [one for front in fronts for one in _spread(front)]

    def _cost(self, candidates: Sequence[Candidate]) -> int:
        share = sum(1 / speedup for speedup in self.speedups)
        kept = 1 + 3 * share + sum(one.compute for one in candidates)
        return round(kept * len(self.kept.inputs) + (1 + share) * len(self.searched.inputs))


def _spread(front: Sequence[Candidate]) -> list[Candidate]:
    """Some of them, from the first to the last."""
    if len(front) <= MOST:
        return list(front)
    return [front[round(nth * (len(front) - 1) / (MOST - 1))] for nth in range(MOST)]


def _bar(
    jobs: Sequence[tuple[str, Callable[[], Candidate]]], drawn: bool
) -> Iterator[tuple[str, Callable[[], Candidate]]]:
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    shown = drawn and console.is_terminal
    yield from track(jobs, "frontier", console=console, disable=not shown)


def _marked(profile: Profile | None) -> Point | None:
    measured = profile and profile.measured
    if not measured or measured.compute is None or measured.psnr is None:
        return None
    return Point(measured.compute, measured.psnr.mean, measured.psnr.p10)
