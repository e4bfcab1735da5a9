"""A fixed schedule whose computed steps lie densest around one step."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

from autocache.runtime.moment import Decision, Moment
from autocache.runtime.shares import window
from autocache.when.base import When

CENTRE = 0.3
"""Share of the steps before the centre, where none is given: that of the published example."""
SLOWER = 0.02
"""By so much the power is lowered while the schedule has steps that fall together."""


@dataclass(frozen=True)
class Centred(When):
    """Compute `ceil(total / interval)` steps: their distance from `center` is the `power`-th power
    of equidistant numbers, so that they thin out with the distance. Steps count from 0.

    The power is lowered until no two of them fall together. Where it reaches 1 the schedule is
    uniform, and so it is where the total is unknown. A `center` of None is at 0.3 of the steps;
    another is of a generation of `of` steps and lies as far along any other, or holds for all.
    With `signed` the steps before the centre mirror those after it; without, they are the real part
    of a complex power, as in the published code, and about evenly spaced.

    Source: DeepCache, arXiv 2312.00858.
    """

    interval: int
    center: int | None = None
    power: float = 1.4
    signed: bool = False
    of: int | None = None

    def counted_in(self, steps: int) -> Centred:
        return replace(self, of=steps)

    def steps(self, total: int) -> tuple[int, ...]:
        """The computed steps of a generation of `total`."""
        center = round(CENTRE * total)
        if self.center is not None:
            center, _ = window(self.center, None, self.of, total)
        return _steps(total, self.interval, center, self.power, self.signed)

    def decide(self, moment: Moment) -> Decision:
        step, total = moment.step, moment.total
        if self._computes(step, total):
            return Decision(compute=True, keep=not self._computes(step + 1, total))
        return Decision(compute=False)

    def _computes(self, step: int, total: int | None) -> bool:
        return step % self.interval == 0 if total is None else step in self.steps(total)


@functools.lru_cache
def _steps(total: int, interval: int, center: int, power: float, signed: bool) -> tuple[int, ...]:
    import numpy as np

    def to(exponent: float, values: Any) -> Any:
        if signed:
            return np.sign(values) * np.abs(values) ** exponent
        return values**exponent

    count = -(-total // interval)
    while power > 1:
        low, high = to(1 / power, -center), to(1 / power, total - center)
        distances = np.real(to(power, np.linspace(low, high, count + 1))).astype(int)
        found = [0, *(int(distance) + center for distance in np.unique(distances)[1:-1])]
        if len(found) == count:
            return tuple(found)
        power -= SLOWER
    return tuple(range(0, total, interval))
