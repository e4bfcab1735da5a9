"""The runs of a comparison: what each strategy draws, and how fast, beside the plain pipeline."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from autocache.api import patched
from autocache.comparison.entry import PLAIN, Entry, fewer
from autocache.comparison.figures import quality
from autocache.comparison.folder import Folder
from autocache.errors import AutocacheError, DoesNotApplyError
from autocache.quiet import quiet
from autocache.tuning.reference import Reference
from autocache.tuning.unpatched import unpatched
from autocache.tuning.workload import Workload

logger = logging.getLogger("autocache")

Tell = Callable[[str, float, float], None]
"""What is run, how much of the work is done, and how much there is: in runs of the plain
pipeline."""
AGAIN = "again"
"""PSNR in dB of a plain run against another one."""
UNKNOWN = 0.5
"""Share of the compute of what was not run yet."""


@dataclass
class Runs:
    """Everything that a comparison draws and times; what its folder has is not run again."""

    workload: Workload
    chosen: Sequence[Entry]
    folder: Folder
    rounds: int
    baselines: bool = True
    tell: Tell | None = None
    fewer: list[Entry] = field(init=False, default_factory=list)
    """Fewer steps, at the compute of each strategy."""
    _warm: set[str] = field(init=False, default_factory=set)

    @property
    def entries(self) -> list[Entry]:
        """Whatever is held against the plain pipeline: baselines, then strategies."""
        return [*self.fewer, *self.chosen]

    def run(self) -> None:
        """Draw everything once, counting, then time round by round."""
        with unpatched(self.workload.pipe), _without_bar(self.workload.pipe):
            plain = self._plain()
            for one in self.chosen:
                self._draw(one, plain)
            if self.baselines:
                self.fewer = [fewer(steps) for steps in self._step_counts(plain)]
            for one in self.fewer:
                self._draw(one, plain)
            # By rounds, so that a machine that slows down does so for all of them.
            for nth in range(self.rounds):
                for one in self.entries:
                    self._time(one, nth)
        self._say("done")

    def _plain(self) -> Reference:
        known = self.folder.read(PLAIN.key)
        if not known:
            self._say("plain")
            plain = Reference.of(self.workload)
            self.folder.write_samples(PLAIN.key, plain.samples)
            known = {"compute": plain.compute, "steps": plain.steps, "blocks": plain.blocks}
            self.folder.write(PLAIN.key, known)
        figures = {name: known[name] for name in ("compute", "steps", "blocks")}
        return Reference(self.folder.read_samples(PLAIN.key), **figures)

    def _draw(self, one: Entry, plain: Reference) -> None:
        if self.folder.read(one.key):
            return
        self._say(one.label)
        known: dict[str, Any] = {"label": one.label, "pairs": []}
        try:
            with quiet(), patched(self.workload.pipe, one.strategy, **one.parameters) as patch:
                drawn = self.workload.run(count=True)
                peak = patch.stats().bytes_peak
            if not all(np.isfinite(sample).all() for sample in drawn.samples):
                raise AutocacheError("what it draws are no numbers")
        except Exception as error:
            # One that does not work here is a finding, and the others are still to be compared.
            logger.debug("%s", one.label, exc_info=True)
            known["problem"] = problem(error)
        else:
            self.folder.write_samples(one.key, drawn.samples)
            known |= {"compute": (drawn.compute or 0) / plain.compute, "bytes_peak": peak}
            self._warm.add(one.key)
        self.folder.write(one.key, known)

    def _step_counts(self, plain: Reference) -> list[int]:
        counts = {self.same_cost(one, plain.steps) for one in self.chosen}
        return sorted(count for count in counts if count is not None)

    def same_cost(self, one: Entry, steps: int) -> int | None:
        """The number of steps whose compute is nearest to a strategy's, of fewer than all."""
        compute = self.folder.read(one.key).get("compute")
        if compute is None or steps < 2:
            return None
        count = max(1, round(steps * compute))
        return count if count < steps else None

    def _time(self, one: Entry, nth: int) -> None:
        """One plain run and one with the strategy, one right after the other."""
        known = self.folder.read(one.key)
        if "problem" in known or len(known["pairs"]) > nth:
            return
        self._say(f"round {nth + 1} of {self.rounds}: {one.label}")
        self._warm_up(one)
        order = (PLAIN, one) if nth % 2 == 0 else (one, PLAIN)
        seconds = {each.key: self._seconds(each) for each in order}
        known["pairs"].append([seconds[PLAIN.key], seconds[one.key]])
        self.folder.write(one.key, known)

    def _seconds(self, one: Entry) -> float:
        if one is PLAIN:
            drawn = self.workload.run()
            self._see_again(drawn.samples)
            return drawn.seconds
        with quiet(), patched(self.workload.pipe, one.strategy, **one.parameters):
            return self.workload.run().seconds

    def _see_again(self, samples: Sequence[np.ndarray]) -> None:
        """Keep how far a plain run is from the first: no figure is finer than that."""
        known = self.folder.read(PLAIN.key)
        if AGAIN not in known:
            first = self.folder.read_samples(PLAIN.key)
            known[AGAIN] = quality(first, samples)["psnr"]
            self.folder.write(PLAIN.key, known)

    def _warm_up(self, one: Entry) -> None:
        """What a process pays for once is not to be timed."""
        for each in (PLAIN, one):
            if each.key in self._warm:
                continue
            self._warm.add(each.key)
            call = next(self.workload.calls())
            if each is PLAIN:
                self.workload.draw(call)
                continue
            with quiet(), patched(self.workload.pipe, each.strategy, **each.parameters):
                self.workload.draw(call)

    def _say(self, doing: str) -> None:
        if self.tell is None:
            return
        done, total = float(bool(self.folder.read(PLAIN.key))), 1.0
        for one in self.entries:
            known = self.folder.read(one.key)
            if "problem" in known:
                continue
            share = known.get("compute", UNKNOWN)
            total += share + self.rounds * (1 + share)
            done += bool(known) * share + len(known.get("pairs", ())) * (1 + share)
        if self.baselines and not self.fewer:
            # Each strategy brings at most one, of its own compute.
            total = 1 + 2 * (total - 1)
        self.tell(doing, done, total)


@contextlib.contextmanager
def _without_bar(pipe: Any) -> Iterator[None]:
    """Ours is enough, and drawing one takes time."""
    before = getattr(pipe, "_progress_bar_config", None)
    if not hasattr(pipe, "set_progress_bar_config"):
        yield
        return
    pipe.set_progress_bar_config(**{**(before or {}), "disable": True})
    try:
        yield
    finally:
        pipe.set_progress_bar_config(**(before or {}))


def problem(error: Exception) -> str:
    """Why a strategy has no figures, in one line."""
    said = " ".join(str(error).split())
    if isinstance(error, DoesNotApplyError):
        return f"does not apply: {said}"
    return said if isinstance(error, AutocacheError) else f"failed: {type(error).__name__}: {said}"
