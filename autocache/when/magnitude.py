"""Skip while a table of magnitudes, measured once per model, says that little error adds up."""

from __future__ import annotations

import math
from dataclasses import dataclass

from autocache.runtime.moment import Decision, Moment
from autocache.when.base import When


def unconditional(branch: str) -> bool:
    """Whether a guidance branch is named so, or is the second call of a step."""
    named = branch.partition("#")[0]
    return named == "1" or named.removeprefix("pred_").startswith("uncond")


@dataclass(frozen=True)
class Magnitude(When):
    """MagCache's rule. `ratios[i]` tells how much larger the residual of step `i` is than that of
    the step before, in the calibration run. Since the last computed step the ratios are multiplied
    up to `a`, and `|1 - a|` is added up; while that sum is at most `threshold`, steps are skipped.

    `uncond` are the ratios of the unconditional guidance branch, where it has its own: the branch
    named so, or the second call of a step where nobody names them. Another number of steps takes
    the nearest ratio, `round(j (L-1) / (T-1))` with halves to even; where the total is unknown, it
    is taken to be the table's. The first `retention` of the steps are computed, counted from the
    first step this denoiser runs: each of two experts has its own. Their number is rounded to the
    nearest, or down with `round_down`. With `strict` the sum must be below the threshold. A
    `threshold` of 0 never skips.

    Source: MagCache, arXiv 2506.09045.
    """

    ratios: tuple[float, ...]
    threshold: float
    retention: float = 0.2
    uncond: tuple[float, ...] | None = None
    round_down: bool = False
    strict: bool = False

    def decide(self, moment: Moment) -> Decision:
        memory, keep = moment.memory, self.threshold > 0
        first = memory.setdefault("first", moment.step)
        if moment.forced or moment.step < first + self._retained(moment, first):
            memory["ratio"], memory["error"] = 1.0, 0.0
            return Decision(compute=True, keep=keep)
        memory["ratio"] = ratio = memory.get("ratio", 1.0) * self._ratio(moment)
        memory["error"] = error = memory.get("error", 0.0) + abs(1.0 - ratio)
        little = error < self.threshold if self.strict else error <= self.threshold
        if not (keep and little):
            memory["ratio"], memory["error"] = 1.0, 0.0
        known = error if math.isfinite(error) else None
        skip = keep and little
        return Decision(not skip, keep=keep, distance=known, threshold=self.threshold)

    def overruled(self, moment: Moment) -> None:
        moment.memory["ratio"], moment.memory["error"] = 1.0, 0.0

    def _table(self, moment: Moment) -> tuple[float, ...]:
        if self.uncond and unconditional(moment.call.branch):
            return self.uncond
        return self.ratios

    def _total(self, moment: Moment) -> int:
        return moment.total or len(self._table(moment))

    def _retained(self, moment: Moment, first: int) -> int:
        share = self.retention * (self._total(moment) - first)
        return int(share if self.round_down else share + 0.5)

    def _ratio(self, moment: Moment) -> float:
        table, total = self._table(moment), self._total(moment)
        if moment.step >= total:
            # Past the end of the table nothing is known.
            return math.inf
        if total == 1:
            return table[-1]
        return table[round(moment.step * (len(table) - 1) / (total - 1))]
