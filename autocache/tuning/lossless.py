"""Work that is the same at every step: left out beside a schedule, it buys more computed steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from autocache.errors import AutocacheError
from autocache.tuning.reference import Reference
from autocache.tuning.strategies import measured

if TYPE_CHECKING:
    from autocache.tuning.placement import Placement
    from autocache.tuning.workload import Workload

LOSSLESS = "invariant"
WORTH_IT = 0.95
"""Share of the compute above which it is not."""


class Lossless:
    """Which lossless strategies a pipeline has, and what they leave of its compute."""

    def __init__(self, workload: Workload) -> None:
        self._call = workload.among(0, workload.batch)
        self.names: tuple[str, ...] = ()
        try:
            self.left = self._compute(LOSSLESS, {})
        except AutocacheError:  # The model has no such work.
            return
        if self.left < WORTH_IT:
            self.names = (LOSSLESS,)

    def count(self, placement: Placement, compute: float) -> int:
        """The most computed steps, 1 and up, that leave no more than so much of the compute."""
        total = placement.total
        if not self.names:
            return max(1, math.floor(total * compute + 1e-9))
        # The first step is paid in full, and spares something in each of the others.
        each = (self.left * total - 1) / (total - 1)
        count = max(1, min(total, math.floor(1 + (total * compute - 1) / each + 1e-9)))
        while count > 1 and self._scheduled(placement, count) > compute:
            count -= 1
        return count

    def _scheduled(self, placement: Placement, count: int) -> float:
        return self._compute("schedule", {"steps": placement.best(count), "total": placement.total})

    @cached_property
    def _plain(self) -> Reference:
        return Reference.of(self._call)

    def _compute(self, strategy: str, parameters: Mapping[str, Any]) -> float:
        """The share of the compute that is left in one call of the pipeline."""
        return measured(self._call, self._plain, strategy, parameters, self.names).compute
