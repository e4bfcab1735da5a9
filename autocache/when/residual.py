"""Skip while the probe, mostly the first blocks' residual, is close to what it was."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from autocache.runtime.distance import relative_l1
from autocache.runtime.moment import Decision, Moment
from autocache.when.base import When

if TYPE_CHECKING:
    import torch

    from autocache.probe import Probe

Reference = Literal["last_computed", "previous_step"]


@dataclass(frozen=True)
class Residual(When):
    """First Block Cache's rule. A step is skipped where `mean|r - ref| / mean|ref| < threshold`,
    `r` being the probe and `ref` the probe of the last computed step.

    With `reference="previous_step"` it is that of the step before, skipped or not: a slow drift is
    then never noticed. `downsample` compares every so many channels only. `limit` computes the step
    before which the changes measured since the last computed step had added up to it, or, without
    `limit_resets`, those of the whole generation. A threshold of 0 never skips, one of `certain` or
    more always does, and neither measures anything. A change that is not a number is computed.

    Source: ParaAttention and cache-dit, strict as here; diffusers also skips at equality.
    """

    measured: Probe
    threshold: float
    reference: Reference = "last_computed"
    downsample: int = 1
    limit: float | None = None
    limit_resets: bool = True
    certain: float = math.inf

    @property
    def probe(self) -> Probe | None:  # type: ignore[override]
        """What is measured; nothing is where the threshold alone decides."""
        return self.measured if 0 < self.threshold < self.certain else None

    def decide(self, moment: Moment) -> Decision:
        if self.probe is None:
            skips = self.threshold > 0
            return Decision(compute=not skips, keep=skips)
        probe = self._sampled(moment.probe)
        distance = self._distance(moment, probe)
        compute = distance is None or not distance < self.threshold
        if probe is not None and (compute or self.reference == "previous_step"):
            moment.store.put("reference", probe, moment.step, owned=probe is not moment.probe)
        self._add_up(moment.memory, distance, compute)
        return Decision(compute, keep=True, distance=distance, threshold=self.threshold)

    def overruled(self, moment: Moment) -> None:
        probe = self._sampled(moment.probe) if self.probe else None
        if probe is not None:
            moment.store.put("reference", probe, moment.step, owned=probe is not moment.probe)
        self._add_up(moment.memory, None, compute=True)

    def _sampled(self, probe: torch.Tensor | None) -> torch.Tensor | None:
        if probe is None or self.downsample == 1:
            return probe
        return probe[..., :: self.downsample].clone()

    def _distance(self, moment: Moment, probe: torch.Tensor | None) -> float | None:
        """The change, None where the step is computed whatever it is."""
        spent = self.limit is not None and moment.memory.get("sum", 0.0) >= self.limit
        if probe is None or moment.forced or spent:
            return None
        reference = moment.store.get("reference", like=probe)
        if not reference:
            return None
        return relative_l1(probe, reference[-1].tensor, ranks=moment.call.ranks)

    def _add_up(self, memory: dict, distance: float | None, compute: bool) -> None:
        if compute and self.limit_resets:
            memory["sum"] = 0.0
        elif distance is not None and math.isfinite(distance):
            memory["sum"] = memory.get("sum", 0.0) + distance
