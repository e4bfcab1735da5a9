"""Skip while the rescaled change of a probe, added up since the last computed step, is small."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from autocache.runtime.distance import relative_l1
from autocache.runtime.moment import Decision, Moment
from autocache.when.base import When

if TYPE_CHECKING:
    from autocache.probe import Probe

logger = logging.getLogger("autocache")

Clip = Literal["zero", "abs", "none"]


def polynomial(coefficients: tuple[float, ...], x: float) -> float:
    """Value at `x`, highest order first. In float64: the published terms reach 1e6 and cancel."""
    value = 0.0
    for coefficient in coefficients:
        value = value * x + coefficient
    return value


@dataclass(frozen=True)
class Accumulated(When):
    """TeaCache's rule. The change `r` of the probe is `mean|m - m_prev| / mean|m_prev|`, taken
    against the step before, skipped or not. `p(r)` is added up; at `threshold` the step is computed
    and the sum starts again.

    A `threshold` of 0 never skips. `relative` reads the threshold as a multiple of the mean change
    per step of this generation so far: a rule for models nobody has calibrated. `per_sample` takes
    the change of each sample of the batch by itself, and their mean. Changes further outside the
    range `valid_for` than it is wide, for which the polynomial was not fitted and where it may say
    anything, are told once per generation.

    Source: TeaCache, arXiv 2411.19108.
    """

    measured: Probe
    threshold: float
    coefficients: tuple[float, ...] = (1.0, 0.0)
    clip: Clip = "zero"
    relative: bool = False
    per_sample: bool = False
    valid_for: tuple[float, float] | None = None

    @property
    def probe(self) -> Probe | None:  # type: ignore[override]
        """What is measured; nothing is where nothing can be skipped."""
        return self.measured if self.threshold > 0 else None

    def decide(self, moment: Moment) -> Decision:
        keep = self.threshold > 0
        distance, memory = self._distance(moment), moment.memory
        change = None if distance is None else self._rescale(distance)
        if change is not None and not math.isfinite(change):
            memory["sum"] = 0.0
            return Decision(compute=True, distance=change)
        if distance is None or change is None or moment.forced:
            memory["sum"] = 0.0
            return Decision(compute=True, keep=keep)
        self._tell_if_far(moment, distance)
        memory["sum"] = total = memory.get("sum", 0.0) + change
        limit = self._limit(memory, change)
        compute = total >= limit
        if compute:
            memory["sum"] = 0.0
        return Decision(compute, keep=keep, distance=total, threshold=limit)

    def overruled(self, moment: Moment) -> None:
        moment.memory["sum"] = 0.0

    def _distance(self, moment: Moment) -> float | None:
        """Relative L1 change of the probe since the step before, and remember the probe."""
        probe = moment.probe
        if probe is None:
            return None
        before = moment.store.get("probe", like=probe)
        moment.store.put("probe", probe, moment.step)
        if not before:
            return None
        return relative_l1(probe, before[-1].tensor, self.per_sample, moment.call.ranks)

    def _tell_if_far(self, moment: Moment, distance: float) -> None:
        if self.valid_for is None or "told" in moment.shared.memory:
            return
        low, high = self.valid_for
        if not 2 * low - high <= distance <= 2 * high - low:
            moment.shared.memory["told"] = True
            logger.warning(
                "the probe changed by %.3g in step %d, and the coefficients were fitted to changes "
                "from %.3g to %.3g; autocache calibrate fits them to this number of steps and this "
                "scheduler",
                distance,
                moment.step,
                low,
                high,
            )

    def _rescale(self, distance: float) -> float:
        if not math.isfinite(distance):
            # A polynomial that falls would make little of it.
            return distance
        value = polynomial(self.coefficients, distance)
        if self.clip == "abs":
            return abs(value)
        return max(value, 0.0) if self.clip == "zero" else value

    def _limit(self, memory: dict, change: float) -> float:
        if not self.relative:
            return self.threshold
        memory["seen"] = memory.get("seen", 0) + 1
        memory["change"] = memory.get("change", 0.0) + change
        return self.threshold * memory["change"] / memory["seen"]
