"""Computed steps placed where the trajectory bends: more densely at its beginning."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from autocache.runtime.moment import Decision, Moment
from autocache.when.base import When


@dataclass(frozen=True)
class Placed(When):
    """Compute one `speedup`-th of a generation's steps, the j-th of k where `(j / k)^power` of the
    way from noise to picture is done.

    The way is the angle between the shares of noise and picture in the latent, which the scheduler
    and its shift of time spread over the steps; the steps themselves where it does not tell. Where
    two fall on one step, the first that is free is computed. Where the total is not known, the
    first three steps are computed, and one in every `speedup` from then on.
    """

    speedup: float = 2.0
    power: float = 1.5
    history: int = 3

    def decide(self, moment: Moment) -> Decision:
        if moment.total is None:
            ahead = moment.step - 2
            compute = ahead <= 0 or int(ahead / self.speedup) > int((ahead - 1) / self.speedup)
        else:
            way = moment.call.progress()
            compute = moment.step in placed(moment.total, self.speedup, self.power, way)
        return Decision(compute=compute, keep=True)


@functools.lru_cache(maxsize=64)
def placed(
    total: int, speedup: float, power: float, way: tuple[float, ...] | None = None
) -> frozenset[int]:
    """The computed steps of a generation."""
    count = max(1, round(total / speedup))
    done = way if way is not None and len(way) >= total else [n / total for n in range(total)]
    wanted = [(j / count) ** power + 1e-6 for j in range(count)]
    steps = {max(n for n in range(total) if n == 0 or done[n] <= share) for share in wanted}
    free = (step for step in range(total) if step not in steps)
    return frozenset(steps | {next(free) for _ in range(count - len(steps))})
