"""Which steps a strategy may skip at all, whatever its rule says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from autocache.runtime.moment import Moment


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
    """

    warmup: int = 0
    warmup_share: float | None = None
    warmup_interval: int = 1
    last: int = 0
    max_consecutive_skips: int | None = None
    max_skips: int | None = None
    steps: tuple[int, int] | None = None
    timesteps: tuple[float, float] | None = None
    mask: Callable[[int, int | None], bool] | None = None
    shared: bool = False

    def forces(self, moment: Moment, ahead: int = 0) -> bool:
        """Whether the step `ahead` of this moment's must be computed."""
        call = moment.call
        step = call.step + ahead
        if step < self._warmup(call.total) and step % self.warmup_interval == 0:
            return True
        if call.total is not None and step >= call.total - self.last:
            return True
        if self.steps is not None and not self.steps[0] <= step <= self.steps[1]:
            return True
        if self.mask is not None and self.mask(step, call.total):
            return True
        return self.timesteps is not None and not self._in_time(moment, step)

    def _warmup(self, total: int | None) -> int:
        if self.warmup_share is None or total is None:
            return self.warmup
        return round(self.warmup_share * total)

    def exhausted(self, moment: Moment) -> bool:
        """Whether as many steps were skipped as may be."""
        memory = moment.memory
        in_a_row, skipped = memory.get("in a row", 0), memory.get("skipped", 0)
        if self.max_consecutive_skips is not None and in_a_row >= self.max_consecutive_skips:
            return True
        return self.max_skips is not None and skipped >= self.max_skips

    def count(self, moment: Moment, computed: bool) -> None:
        """Note what was done at a moment."""
        memory = moment.memory
        memory["in a row"] = 0 if computed else memory.get("in a row", 0) + 1
        memory["skipped"] = memory.get("skipped", 0) + (not computed)

    def _in_time(self, moment: Moment, step: int) -> bool:
        assert self.timesteps is not None
        low, high = self.timesteps
        try:
            return low < moment.call.time_of(step) < high
        except LookupError:
            # A step ahead in a loop that announced no timesteps: it may well be inside.
            return step > moment.call.step
