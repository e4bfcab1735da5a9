"""A fixed schedule: one computed step, then `interval - 1` that skip."""

from __future__ import annotations

from dataclasses import dataclass, replace

from autocache.runtime.moment import Decision, Moment
from autocache.runtime.shares import window
from autocache.when.base import When


@dataclass(frozen=True)
class Interval(When):
    """Compute at `start`, `start + interval`, ...; skip in between, up to and including `end`.

    Steps count from 0. `start` itself is computed and remembered; `end` is the last step that may
    skip, so nothing is remembered there. A `start` or `end` of None follows from the share of the
    steps that `start_share` and `end_share` give, and 1 and no end where the total is unknown.
    Given, they are of a generation of `of` steps and mean the same share of any other; without it
    they hold for all. `phase` moves the computed steps after `start` by so many. `history` is how
    many steps up to `start` are remembered. `from_end` has the last step be a computed one of the
    pattern.

    Source: MindIE-SD DiTCache and AttentionCache, FORA, TaylorSeer.
    """

    interval: int
    start: int | None = None
    end: int | None = None
    start_share: float = 0.0
    end_share: float = 1.0
    phase: int = 0
    history: int = 1
    from_end: bool = False
    of: int | None = None

    def counted_in(self, steps: int) -> Interval:
        return replace(self, of=steps)

    def bounds(self, total: int | None) -> tuple[int, int | None]:
        """The first remembered and the last skipping step, for a generation of `total` steps."""
        if total is None:
            return (1 if self.start is None else self.start), self.end
        first, end = window(self.start or 0, self.end, self.of, total)
        start = None if self.start is None else first
        if start is None:
            # A derived start leaves room for a skip, whatever the total or a given end.
            latest = total - 2 if end is None else min(total - 2, end - 1)
            start = max(0, min(round(self.start_share * total), latest))
        if end is None:
            end = min(round(self.end_share * total), total - 1)
        return start, end

    def _skips(self, step: int, total: int | None, start: int, end: int | None) -> bool:
        inside = start < step and (end is None or step <= end)
        anchor = start + self.phase
        if self.from_end and total is not None:
            anchor = total - 1
        return inside and (total is None or step < total) and (step - anchor) % self.interval != 0

    def decide(self, moment: Moment) -> Decision:
        step, total = moment.step, moment.total
        start, end = self.bounds(total)
        if self._skips(step, total, start, end):
            return Decision(compute=False)
        ahead = range(1, self.history + 1)
        soon = any(self._skips(step + n, total, start, end) for n in ahead)
        return Decision(compute=True, keep=soon and step > start - self.history)
