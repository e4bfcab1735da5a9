"""Computed steps placed where the trajectory bends, and one near the end."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from autocache.runtime.moment import Decision, Moment
from autocache.when.base import When


@dataclass(frozen=True)
class Placed(When):
    """Compute one `speedup`-th of a generation's steps, the j-th of k, from 0, where
    `(j / (k - 1 + tail))^power` of the way from noise to picture is done.

    The way is that of `Call.progress`, which the scheduler and its shift of time spread over the
    steps; the steps themselves where it does not tell. No computed step makes good for those that
    are skipped after the last one, so these are as few as `tail` of a gap. Where two fall on one
    step, the first that is free is computed. Where the total is not known, the first three steps
    are computed, and one in every `speedup` from then on.
    """

    speedup: float = 2.0
    power: float = 1.5
    tail: float = 0.5
    history: int = 3

    def decide(self, moment: Moment) -> Decision:
        if moment.total is None:
            ahead = moment.step - 2
            compute = ahead <= 0 or int(ahead / self.speedup) > int((ahead - 1) / self.speedup)
        else:
            way = moment.call.progress()
            compute = moment.step in placed(moment.total, self.speedup, self.power, self.tail, way)
        return Decision(compute=compute, keep=True)


@functools.lru_cache(maxsize=64)
def placed(
    total: int, speedup: float, power: float, tail: float, way: tuple[float, ...] | None = None
) -> frozenset[int]:
    """The computed steps of a generation."""
    count = max(1, round(total / speedup))
    done = way if way is not None and len(way) >= total else [n / total for n in range(total)]
    wanted = [(j / (count - 1 + tail)) ** power + 1e-6 for j in range(count)]
    steps = {max(n for n in range(total) if n == 0 or done[n] <= share) for share in wanted}
    free = (step for step in range(total) if step not in steps)
    return frozenset(steps | {next(free) for _ in range(count - len(steps))})
