"""The change of a probe chooses from a table how many steps pass until the next computed one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from autocache.runtime.distance import relative_l1
from autocache.runtime.moment import Decision, Moment
from autocache.when.base import When

if TYPE_CHECKING:
    from autocache.probe import Probe
    from autocache.when.motion import Motion

Entries = tuple[tuple[float, int], ...]


@dataclass(frozen=True)
class Book:
    """A codebook, the number of steps it was made for, and at which of them motion counts."""

    entries: Entries
    steps: int | None = None
    moves: tuple[int, int] | None = None


HUNDRED: Entries = ((0.03, 12), (0.05, 10), (0.07, 8), (0.09, 6), (0.11, 4), (math.inf, 3))
FAST: Entries = ((0.08, 6), (0.16, 5), (0.24, 4), (0.32, 3), (0.40, 2), (math.inf, 1))
SLOW: Entries = ((0.08, 3), (0.16, 2), (math.inf, 1))
PUBLISHED: Mapping[str, Book] = MappingProxyType(
    {
        "100": Book(HUNDRED, 100, (9, 89)),
        "fast": Book(FAST, 30, (3, 25)),
        "slow": Book(SLOW, 30, (3, 25)),
    }
)


@dataclass(frozen=True)
class Codebook(When):
    """AdaCache's rule. At each computed step the change of the probe since the computed step before
    is `c = mean|p - p_prev| / mean|p_prev|`, per step between them. The first entry whose threshold
    is above `c` tells the rate: how many steps later the next one is computed, 1 being the very
    next. Past the last entry, or where `c` is not finite, that is 1. `motion` weighs `c`.

    The probe is measured in the middle of a computed step, so it decides on the steps after it; the
    step after the first computed one is computed as well, as there is nothing to compare yet.

    Source: AdaCache, arXiv 2411.02397.
    """

    measured: Probe
    entries: Entries = FAST
    motion: Motion | None = None

    @property
    def probe(self) -> Probe | None:  # type: ignore[override]
        """What is measured; nothing is where nothing can be skipped."""
        return self.measured if self._skips else None

    @property
    def _skips(self) -> bool:
        return any(rate > 1 for _, rate in self.entries)

    def counted_in(self, steps: int) -> Codebook:
        motion = self.motion and self.motion.counted_in(steps)
        return replace(self, motion=motion)

    def decide(self, moment: Moment) -> Decision:
        memory = moment.memory
        compute = moment.forced or moment.step >= memory.get("next", 0)
        return Decision(compute, keep=compute and self._skips, distance=memory.get("change"))

    def learn(self, moment: Moment) -> None:
        probe, memory = moment.probe, moment.memory
        if probe is None:
            return
        before = moment.store.get("probe", like=probe)
        rate = 1
        if before:
            gap = moment.step - before[-1].step
            change = relative_l1(probe, before[-1].tensor, ranks=moment.call.ranks) / gap
            if self.motion is not None:
                change *= self.motion.weight(probe, moment, gap)
            if not math.isfinite(change):
                memory["change"], memory["next"] = None, moment.step + 1
                moment.distrust()
                return
            rate, memory["change"] = self.rate(change), change
        moment.store.put("probe", probe, moment.step)
        memory["next"] = moment.step + rate

    def rate(self, change: float) -> int:
        """Steps until the next computed one."""
        return next((rate for threshold, rate in self.entries if change < threshold), 1)
