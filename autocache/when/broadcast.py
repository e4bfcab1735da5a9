"""Skip a few steps after each of some timesteps."""

from __future__ import annotations

import math
from dataclasses import dataclass

from autocache.runtime.moment import Decision, Moment
from autocache.when.base import When


@dataclass(frozen=True)
class Broadcast(When):
    """Compute and keep at each of `times`, and skip the `skips` steps after it.

    A time is that of the first step that is not above it, so that times published for one step
    count serve any. What was kept is dropped with the last step that used it.

    Source: the feed-forward of PAB, arXiv 2408.12588.
    """

    times: tuple[float, ...]
    skips: int

    def decide(self, moment: Moment) -> Decision:
        memory, now = moment.memory, moment.call.time_of(moment.step)
        before, memory["time"] = memory.get("time", math.inf), now
        if any(now <= time < before for time in self.times):
            memory["left"] = self.skips
            return Decision(compute=True, keep=True)
        left = memory.get("left", 0)
        memory["left"] = max(left - 1, 0)
        return Decision(compute=left == 0)

    def learn(self, moment: Moment) -> None:
        if not moment.memory["left"]:
            moment.store.clear()
            moment.kept.clear()
