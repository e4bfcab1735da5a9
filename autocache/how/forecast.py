"""A line through the last computed values, as steep as it has proven, and its late correction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from autocache.how.base import How
from autocache.how.extrapolate import lagrange
from autocache.runtime.outputs import time_at

if TYPE_CHECKING:
    from autocache.runtime.entry import Value
    from autocache.runtime.moment import Moment
    from autocache.runtime.record import Action


@dataclass(frozen=True)
class Forecast(How):
    """The next values on a line in the timestep, and at a computed step what they were off by.

    With v1 the last computed value, at time t1, and v0 the one before, the forecast at t is
    `v1 + d^2 (v1 - v0) (t - t1) / (t1 - t0)`. The damping d is what would have been best for v1:
    the projection of what v1 was away from v0 on what the line through the two values before v1
    said it would be, of each sample, between 0 (reuse) and 1; without a third value it is 1/2.

    Once the next value is computed, the values of the steps in between are known better: from the
    polynomial of order `correction` through the last computed values. Every step of the scheduler
    is linear in the denoiser's output, so what those steps made wrong of the latent is handed in
    with the computed output: each error counts for what the scheduler makes of it (`Call.gain`).
    Without a scheduler that is known to answer so, and with `correction=None`, nothing is. Of
    several values at one time, which schedulers of second order want, the last counts.
    """

    correction: int | None = 2
    keep: ClassVar[int] = 3  # type: ignore[misc]
    timed: ClassVar[bool] = True  # type: ignore[misc]
    action: ClassVar[Action] = "predicted"

    def fill(self, values: Sequence[Value], moment: Moment) -> torch.Tensor:
        values = apart(values)
        slope = self._slope(values)
        latest = values[-1]
        if slope is None:
            return latest.tensor
        ahead = time_at(moment) - _time(latest)
        return (latest.tensor.float() + slope * ahead).to(latest.tensor.dtype)

    def settle(
        self, values: Sequence[Value], computed: torch.Tensor, moment: Moment
    ) -> torch.Tensor:
        skipped = range(values[-1].step + 1 if values else moment.step, moment.step)
        gains = [moment.call.gain(step) for step in skipped]
        if self.correction is None or not gains or None in gains:
            return computed
        values = apart(values)
        times = [moment.call.time_of(step) for step in skipped]
        weights = [gain for gain in gains if gain is not None]
        off = self._known_now(values, computed, moment, times, weights)
        off = off - values[-1].tensor.float() * math.fsum(weights)
        slope = self._slope(values)
        if slope is not None:
            latest = _time(values[-1])
            off = off - slope * math.fsum(
                w * (t - latest) for w, t in zip(weights, times, strict=True)
            )
        return (computed.float() + off).to(computed.dtype)

    def _known_now(
        self,
        values: Sequence[Value],
        computed: torch.Tensor,
        moment: Moment,
        times: Sequence[float],
        weights: Sequence[float],
    ) -> torch.Tensor:
        """The weighted sum of the skipped values, interpolated."""
        assert self.correction is not None
        now = time_at(moment)
        earlier = [value for value in values if _time(value) != now]
        known = earlier[-self.correction :] if self.correction else ()
        points = [*map(_time, known), now]
        shares = [0.0] * len(points)
        for weight, time in zip(weights, times, strict=True):
            for n, share in enumerate(lagrange(points, time)):
                shares[n] += weight * share
        total = computed.float() * shares[-1]
        for value, share in zip(known, shares[:-1], strict=True):
            total = total.add_(value.tensor, alpha=share)
        return total

    @staticmethod
    def _slope(values: Sequence[Value]) -> torch.Tensor | None:
        """What the forecast changes by in one unit of time; None where it stays as it is."""
        if len(values) < 2:
            return None
        change = values[-1].tensor.float() - values[-2].tensor
        slope = change / (_time(values[-1]) - _time(values[-2]))
        if len(values) < 3:
            return slope / 4
        line = values[-2].tensor.float() - values[-3].tensor
        dims = tuple(range(1, line.ndim))
        size = (line * line).sum(dims, keepdim=True)
        before, between, now = map(_time, values[-3:])
        steepness = (now - between) / (between - before)
        damping = (change * line).sum(dims, keepdim=True) / (size * steepness).where(size > 0, 1)
        # Squared: guidance makes a forecast that is too steep worse than one too flat.
        return slope * damping.clamp(0, 1).square()


def apart(values: Sequence[Value]) -> Sequence[Value]:
    """The last value of each time."""
    return list({value.time: value for value in values}.values())


def _time(value: Value) -> float:
    assert value.time is not None
    return value.time
