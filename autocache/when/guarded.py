"""Compute also where what would be filled in is expected to be too far off."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from autocache.runtime.distance import EPSILON
from autocache.runtime.moment import Decision
from autocache.runtime.outputs import DENOISER, kept_values, time_at
from autocache.when.base import When

if TYPE_CHECKING:
    from autocache.probe import Probe
    from autocache.runtime.entry import Value
    from autocache.runtime.moment import Moment

FADED = 0.5
"""What a divided difference still counts for one computed step later."""


@dataclass(frozen=True)
class Guarded(When):
    """Skip where `inner` does, anywhere without it, while the errors expected of the steps skipped
    in a row add up to at most `max_error`. 0 computes every step.

    The error expected of a step is the gap between two extrapolations of the last computed outputs,
    relative to the last one, y1. With t1 and t0 the times of the last two and F the second divided
    difference of the last three, `mean|F| |t - t1| |t - t0| / mean|y1|` is what the line and the
    parabola through them are apart at t. Of two outputs it is the gap between reuse and the line,
    with the first difference; of fewer nothing is known and the step is computed. What F was at the
    computed step before counts by half: where a trajectory begins to bend the other way, F is
    nothing for a moment. The sample and the guidance branch with the largest gap count, and every
    branch does the same.

    F is formed at each computed step, and read once where a step after it may be skipped: one host
    sync for each computed step. It looks at the outputs that `where.Denoiser` keeps; a `how` that
    keeps three of them lets it see the parabola.

    Raises:
        ValueError: `max_error` is no number from 0 on.
    """

    inner: When | None
    max_error: float
    history = 3

    def __post_init__(self) -> None:
        if not self.max_error >= 0:
            raise ValueError(f"max_error={self.max_error} is wrong: expected a number from 0 on")

    @property
    def probe(self) -> Probe | None:  # type: ignore[override]
        return self.inner.probe if self.inner else None

    @property
    def late(self) -> bool:  # type: ignore[override]
        return self.inner is not None and self.inner.late

    def counted_in(self, steps: int) -> Guarded:
        return replace(self, inner=self.inner.counted_in(steps)) if self.inner else self

    def decide(self, moment: Moment) -> Decision:
        # What the first branch of a step was told holds for those after it.
        memory = moment.shared.memory
        if memory.get("told at") != moment.step:
            memory["told"] = self._decide(moment)
            memory["told at"] = moment.step
        return memory["told"]

    def _decide(self, moment: Moment) -> Decision:
        memory = moment.shared.memory
        proposed = self.inner.decide(moment) if self.inner else Decision(compute=False)
        if self.max_error == 0:
            return Decision(compute=True)
        if proposed.compute or moment.forced:
            memory["expected"] = 0.0
            return replace(proposed, compute=True, keep=True)
        known: _Known | None = memory.get("known")
        error = known.error(moment) if known else None
        if error is None or not math.isfinite(error):
            # Of what is not finite nothing more is known.
            memory["expected"], memory["known"] = 0.0, known if error is None else None
            return Decision(compute=True, keep=True, distance=error)
        expected = memory.get("expected", 0.0) + error
        compute = expected > self.max_error
        memory["expected"] = 0.0 if compute else expected
        return Decision(compute, keep=True, distance=expected, threshold=self.max_error)

    def overruled(self, moment: Moment) -> None:
        if self.inner:
            self.inner.overruled(moment)
        moment.shared.memory["expected"] = 0.0

    def learn(self, moment: Moment) -> None:
        if self.inner:
            self.inner.learn(moment)
        outputs = kept_values(moment, DENOISER)
        if self.max_error == 0 or not outputs or not all(outputs):
            return
        if outputs[0][-1].step != moment.step:
            return
        memory = moment.shared.memory
        known: _Known | None = memory.get("known")
        if known is None or known.step != moment.step:
            known = memory["known"] = _Known(outputs[0], known)
        known.add(outputs)


class _Known:
    """What the last computed step, and by half the one before it, tells of those after it."""

    def __init__(self, values: Sequence[Value], before: _Known | None) -> None:
        self.step = values[-1].step
        self._timed = values[-1].time is not None
        self._points = [_time(value) for value in values[-3:]]
        self._gaps: list[torch.Tensor] = []
        self._before = before._gaps if before and before._order == self._order else []
        self._largest: float | None = None

    @property
    def _order(self) -> int:
        return len(self._points) - 1

    def add(self, outputs: Sequence[Sequence[Value]]) -> None:
        """Look at the outputs of a guidance branch."""
        if len(set(self._points)) == len(self._points) > 1:
            self._gaps += [_gap(values[-3:], len(outputs) == 1) for values in outputs]
            self._largest = None

    def error(self, moment: Moment) -> float | None:
        """What a step would be off by, relative to the last computed output; None where that is
        not known."""
        if not self._gaps:
            return None
        if self._largest is None:
            gaps = [*self._gaps, *(gap * FADED for gap in self._before)]
            found = torch.stack([gap.to(gaps[0].device) for gap in gaps])
            self._largest = moment.call.ranks.largest(found)
        now = time_at(moment) if self._timed else float(moment.step)
        return self._largest * math.prod(abs(now - point) for point in self._points[1:])


def _gap(values: Sequence[Value], alone: bool) -> torch.Tensor:
    """The divided difference of highest order, relative to the last value: the largest of the
    samples, or of a tensor that is one of several samples."""
    times = [_time(value) for value in values]
    differences = [value.tensor.float() for value in values]
    latest = differences[-1]
    for order in range(1, len(times)):
        differences = [
            (differences[n + 1] - differences[n]) / (times[n + order] - times[n])
            for n in range(len(differences) - 1)
        ]
    size, now = (_means(tensor, alone) for tensor in (differences[0], latest))
    return (size / now.clamp_min(EPSILON)).max()


def _means(tensor: torch.Tensor, alone: bool) -> torch.Tensor:
    return tensor.abs().flatten(1).mean(1) if alone else tensor.abs().mean()


def _time(value: Value) -> float:
    return float(value.step) if value.time is None else value.time
