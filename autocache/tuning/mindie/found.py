"""What the two searches share: results, their order, and numbers as they are written."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from autocache.errors import ParameterError

BEST = 3
"""Results that a search returns."""

Evaluate = Callable[[Mapping[str, Any]], float]
"""From the parameters of a candidate to its error, lower is better."""


@dataclass(frozen=True)
class Found:
    """Parameters that were tried, and the error that they gave."""

    parameters: dict[str, Any]
    error: float


Tell = Callable[[Found], None]
"""Hears of every candidate right after it was evaluated."""

TryAll = Callable[[str, Sequence[dict[str, Any]]], list[Found]]
"""Evaluates the candidates of one stage, which has a name, in any order."""


def one_by_one(evaluate: Evaluate, tell: Tell | None = None) -> TryAll:
    """Evaluates candidates as they come."""

    def try_all(_: str, candidates: Sequence[dict[str, Any]]) -> list[Found]:
        found = []
        for parameters in candidates:
            found.append(Found(parameters, float(evaluate(parameters))))
            if tell is not None:
                tell(found[-1])
        return found

    return try_all


def best(found: Iterable[Found]) -> list[Found]:
    """The three of least error, in the order they came where it is the same; a result that is not
    a number is the worst."""
    ranked = sorted(found, key=lambda one: math.inf if math.isnan(one.error) else one.error)
    return ranked[:BEST]


def decimal(number: float) -> Fraction:
    """The number as it is written: 1.3 is 13/10, which no float is."""
    return Fraction(str(number))


def check(*, steps: int, ratio: float, interval: int, starts: Sequence[int]) -> None:
    """Raises ParameterError when one of these makes no search."""
    if not 1 < ratio < math.inf:
        raise ParameterError(f"ratio={ratio}: expected a speed-up above 1")
    if interval < 2:
        raise ParameterError(f"interval={interval}: expected 2 or more; 1 never skips")
    if not starts or not all(0 <= start < steps for start in starts):
        raise ParameterError(f"starts={tuple(starts)}: expected steps from 0 to {steps - 1}")


def up_to(most: Fraction) -> str:
    """What may be asked for, up to a speed-up that may itself."""
    return f"feasible ratios are above 1 and up to {math.floor(most * 1000) / 1000:.3f}"
