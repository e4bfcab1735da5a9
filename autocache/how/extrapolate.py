"""A polynomial through the last computed values, continued to the present step."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from autocache.how.base import How
from autocache.runtime.outputs import time_at

if TYPE_CHECKING:
    from autocache.runtime.entry import Value
    from autocache.runtime.moment import Moment
    from autocache.runtime.record import Action

Basis = Literal["taylor", "newton", "hermite"]


@dataclass(frozen=True)
class Extrapolate(How):
    """Forecast of order `order` from the last `order + 1` computed values, fewer at first.

    `taylor` is as published: backward differences
    `F[j+1] = (F[j] - F[j] before) / g`, `g` the steps between the two last computed ones, summed as
    `F[j] x^j / j!` at `x` steps after the last. It is exact for what is linear in the step.
    `newton` is the interpolating polynomial in the timestep (divided differences over the true,
    unequal gaps), exact for polynomials up to the order. `hermite` weighs the differences of
    `taylor` by `s^j H_j(s x) / j!`, `s` being `scale` and `H` the physicists' polynomials. Order 0
    is reuse in each. Accumulates in float32.

    Source: TaylorSeer, arXiv 2503.06923; HiCache, arXiv 2508.16984.
    """

    order: int = 1
    basis: Basis = "taylor"
    scale: float = 0.5
    action: ClassVar[Action] = "predicted"

    @property
    def keep(self) -> int:  # type: ignore[override]
        return self.order + 1

    @property
    def timed(self) -> bool:  # type: ignore[override]
        return self.basis == "newton"

    def fill(self, values: Sequence[Value], moment: Moment) -> torch.Tensor:
        weights = self.weights(values[-self.keep :], moment)
        latest = values[-1].tensor
        if len(weights) == 1:
            return latest
        filled = latest.float() * weights[-1]
        for value, weight in zip(values[-len(weights) : -1], weights[:-1], strict=True):
            filled = filled.add_(value.tensor, alpha=weight)
        return filled.to(latest.dtype)

    def weights(self, values: Sequence[Value], moment: Moment) -> list[float]:
        """What each value counts for, oldest first; they add up to 1 but in `hermite`."""
        if self.basis == "newton":
            return _through(tuple([_time(value) for value in values]), time_at(moment))
        scale = None if self.basis == "taylor" else self.scale
        return _from_differences(tuple([value.step for value in values]), moment.step, scale)


def _time(value: Value) -> float:
    assert value.time is not None
    return value.time


# All places of a step ask for the same.
@functools.lru_cache(maxsize=16)
def _from_differences(steps: tuple[int, ...], now: int, scale: float | None) -> list[float]:
    """The weights of the values at `steps`, by Taylor's factors or those of Hermite's polynomials
    of a `scale`."""
    ahead = now - steps[-1]
    return _differences(steps, [_factor(j, ahead, scale) for j in range(len(steps))])


@functools.lru_cache(maxsize=16)
def _through(times: tuple[float, ...], at: float) -> list[float]:
    return lagrange(times, at)


def _factor(j: int, ahead: int, scale: float | None) -> float:
    if scale is None:
        return ahead**j / math.factorial(j)
    return scale**j * _hermite(j, scale * ahead) / math.factorial(j)


def lagrange(times: Sequence[float], at: float) -> list[float]:
    """The interpolating polynomial's value at a time, as weights of the values at `times`."""
    return [
        math.prod((at - other) / (own - other) for other in times if other != own) for own in times
    ]


def _differences(steps: Sequence[int], factors: Sequence[float]) -> list[float]:
    """`sum F[j] * factors[j]` as weights of the values at `steps`."""
    count = len(steps)
    # Row k: the differences F[0..] as they stood after the value k, each as weights of the values.
    before: list[list[float]] = []
    for k, step in enumerate(steps):
        differences = [[float(n == k) for n in range(count)]]
        for j, old in enumerate(before):
            gap = step - steps[k - 1]
            differences.append([(a - b) / gap for a, b in zip(differences[j], old, strict=True)])
        before = differences
    return [sum(f * d[n] for f, d in zip(factors, before, strict=True)) for n in range(count)]


def _hermite(n: int, z: float) -> float:
    """The physicists' Hermite polynomial of degree `n` at `z`."""
    before, now = 0.0, 1.0
    for k in range(n):
        before, now = now, 2 * z * now - 2 * k * before
    return now
