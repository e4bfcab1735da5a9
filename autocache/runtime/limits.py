"""Which steps a strategy may skip at all, whatever its rule says."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

from autocache.runtime.moment import Moment
from autocache.runtime.shares import scaled, window

Mask = Callable[[int, "int | None"], bool]


@dataclass(frozen=True)
class Limits:
    """The bounds every strategy keeps to. Steps count from 0.

    `warmup` first steps (where the total is known, the `warmup_share` of it if there is one; with
    `warmup_interval`, every so many of them) and `last` last steps are
    computed, the last only where the total is known. `steps` is the inclusive window of steps that
    may be skipped, `timesteps` the open one of timesteps on the scheduler's scale. At most
    `max_consecutive_skips` steps in a row, and at most `max_skips` in all, are skipped in a
    guidance branch. `mask` says of a step, and of the total where it is known, whether it must be
    computed. With `shared` the first guidance branch of a step decides for all of them.

    Numbers of steps hold for any generation; with `of` they are those of one of so many steps, and
    mean the same share of another: all but the steps in a row, and a single first or last step.
    """

    warmup: int = 0
    warmup_share: float | None = None
    warmup_interval: int = 1
    last: int = 0
    max_consecutive_skips: int | None = None
    max_skips: int | None = None
    steps: tuple[int, int] | None = None
    timesteps: tuple[float, float] | None = None
    mask: Mask | None = None
    shared: bool = False
    of: int | None = None

    def counted_in(self, steps: int) -> Limits:
        """The same, its numbers of steps being those of a generation of `steps` steps."""
        mask = None if self.mask is None else functools.partial(_masked, self.mask, steps)
        return replace(self, of=steps, mask=mask)

    def forces(self, moment: Moment, ahead: int = 0) -> bool:
        """Whether the step `ahead` of this moment's must be computed."""
        call = moment.call
        step = call.step + ahead
        if step < self._warmup(call.total) and step % self.warmup_interval == 0:
            return True
        if call.total is not None and step >= call.total - scaled(self.last, self.of, call.total):
            return True
        if self.steps is not None and not self._in_window(step, call.total):
            return True
        if self.mask is not None and self.mask(step, call.total):
            return True
        return self.timesteps is not None and not self._in_time(moment, step)

    def why(self, moment: Moment) -> str | None:
        """Why this step must be computed; None where it may be skipped."""
        if self.forces(moment):
            return "limits"
        return "skips used up" if self.exhausted(moment) else None

    def _warmup(self, total: int | None) -> int:
        if self.warmup_share is None or total is None:
            return scaled(self.warmup, self.of, total)
        return round(self.warmup_share * total)

    def exhausted(self, moment: Moment) -> bool:
        """Whether as many steps were skipped as may be."""
        memory = moment.memory
        in_a_row, skipped = memory.get("in a row", 0), memory.get("skipped", 0)
        if self.max_consecutive_skips is not None and in_a_row >= self.max_consecutive_skips:
            return True
        most = self.max_skips
        return most is not None and skipped >= scaled(most, self.of, moment.total)

    def count(self, moment: Moment, computed: bool) -> None:
        """Note what was done at a moment."""
        memory = moment.memory
        memory["in a row"] = 0 if computed else memory.get("in a row", 0) + 1
        memory["skipped"] = memory.get("skipped", 0) + (not computed)

    def _in_window(self, step: int, total: int | None) -> bool:
        assert self.steps is not None
        first, last = window(*self.steps, self.of, total)
        return first <= step and (last is None or step <= last)

    def _in_time(self, moment: Moment, step: int) -> bool:
        assert self.timesteps is not None
        low, high = self.timesteps
        try:
            return low < moment.call.time_of(step) < high
        except LookupError:
            # A step ahead in a loop that announced no timesteps: it may well be inside.
            return step > moment.call.step


def _masked(mask: Mask, of: int, step: int, total: int | None) -> bool:
    """What a mask of `of` steps says of the same share of another number of steps."""
    return mask(step, total) if total is None else mask(step * of // total, of)
