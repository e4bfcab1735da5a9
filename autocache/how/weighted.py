"""Sums of the last computed values, with weights that were fitted for each step."""

from __future__ import annotations

import bisect
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import torch

from autocache.how.base import How
from autocache.how.forecast import Forecast

if TYPE_CHECKING:
    from autocache.runtime.entry import Value
    from autocache.runtime.moment import Moment
    from autocache.runtime.record import Action

Weights = Mapping[str, Sequence[Sequence[Sequence[float]]]]
"""By guidance branch, computed step and part of the batch: what the last computed values count for,
the latest first. Where a batch holds several guidance branches, each is a part, in their order."""

logger = logging.getLogger("autocache")


@dataclass(frozen=True)
class Weighted(How):
    """The sum of the last computed values, each with a weight, from one computed step to the next.

    The computed value itself is weighted too: what goes on from there makes good for what the steps
    before did wrong. The weights belong to generations of `total` steps of which just `steps` are
    computed, to these guidance branches and parts of the batch; in any other the forecast stands in
    for them, and the log says so.
    """

    weights: Weights
    steps: tuple[int, ...]
    total: int
    forecast: Forecast = field(default_factory=lambda: Forecast(3))
    told: set[str] = field(default_factory=set, compare=False, repr=False)
    timed: ClassVar[bool] = True  # type: ignore[misc]
    action: ClassVar[Action] = "predicted"

    @property
    def keep(self) -> int:  # type: ignore[override]
        lists = (part for steps in self.weights.values() for parts in steps for part in parts)
        return max([self.forecast.keep, *map(len, lists)])

    def fill(self, values: Sequence[Value], moment: Moment) -> torch.Tensor:
        tensors = [value.tensor for value in reversed(values)]
        parts = self._parts(tensors, values[-1].step, moment)
        return _sum(tensors, parts) if parts else self.forecast.fill(values, moment)

    def settle(
        self, values: Sequence[Value], computed: torch.Tensor, moment: Moment
    ) -> torch.Tensor:
        tensors = [computed, *(value.tensor for value in reversed(values))]
        parts = self._parts(tensors, moment.step, moment)
        return _sum(tensors, parts) if parts else self.forecast.settle(values, computed, moment)

    def _parts(
        self, tensors: Sequence[torch.Tensor], latest: int, moment: Moment
    ) -> Sequence[Sequence[float]] | None:
        """The weights of this moment; None where they were fitted for something else."""
        call = moment.call
        if call.unlike is not None:
            return self._not(call.unlike)
        if call.total != self.total:
            return self._not(f"the generation has {call.total} steps, not {self.total}")
        if call.branch not in self.weights:
            return self._not(f"there was no guidance branch {call.branch!r}")
        nth = bisect.bisect_right(self.steps, call.step) - 1
        if latest != self.steps[nth]:
            return self._not(f"step {latest} was computed last, not {self.steps[nth]}")
        parts = self.weights[call.branch][nth]
        if max(map(len, parts)) > len(tensors):
            return self._not("fewer values are kept than they are for")
        samples, batch = call.sample, tensors[0].shape[0]
        whole = batch % len(parts) == 0
        if len(parts) > 1 and samples is not None:
            whole = batch == len(parts) * samples.shape[0]
        if not whole:
            return self._not(f"a batch of {batch} does not hold {len(parts)} guidance branches")
        return parts

    def _not(self, reason: str) -> None:
        if reason not in self.told:
            self.told.add(reason)
            logger.warning("fitted weights do not apply and are left out: %s", reason)


def _sum(tensors: Sequence[torch.Tensor], parts: Sequence[Sequence[float]]) -> torch.Tensor:
    """The weighted sums of the parts of the tensors, latest first."""
    first = tensors[0]
    if all(tuple(part) == (1.0,) for part in parts):
        return first
    size = first.shape[0] // len(parts)
    made = []
    for nth, part in enumerate(parts):
        total = first.narrow(0, nth * size, size).float() * part[0]
        for weight, tensor in zip(part[1:], tensors[1:], strict=False):
            total.add_(tensor.narrow(0, nth * size, size), alpha=weight)
        made.append(total)
    joined = made[0] if len(made) == 1 else torch.cat(made)
    return joined.to(first.dtype)
