"""Computed steps that someone chose, one by one, for a generation of a known length."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from autocache.runtime.moment import Decision, Moment
from autocache.when.base import When


@dataclass(frozen=True)
class Chosen(When):
    """Compute these steps of a generation of `total`, counted from 0.

    A generation of another length computes the same share of its steps, spread alike. Where the
    length is not known the steps are taken as they are, and all after the last are computed.
    """

    steps: tuple[int, ...]
    total: int
    history: int = 3

    def decide(self, moment: Moment) -> Decision:
        total = moment.total
        if total is None:
            compute = moment.step in self.steps or moment.step >= self.total
        else:
            compute = moment.step in spread(self.steps, self.total, total)
        return Decision(compute=compute, keep=True)


@functools.lru_cache(maxsize=64)
def spread(steps: tuple[int, ...], total: int, other: int) -> frozenset[int]:
    """The steps of a generation of `total` steps, in one of `other` steps."""
    if other == total:
        return frozenset(steps)
    count = min(other, max(1, round(len(steps) * other / total)))
    places = [*steps, total]
    wanted = np.interp(
        np.linspace(0, len(steps), count, endpoint=False), range(len(places)), places
    )
    chosen: list[int] = []
    for nth, place in enumerate(wanted * other / total):
        earliest = chosen[-1] + 1 if chosen else 0
        chosen.append(int(min(max(round(place), earliest), other - count + nth)))
    return frozenset(chosen)
