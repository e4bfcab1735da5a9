"""The forecast against the published recursion, and what it is exact for."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import torch

from autocache.how import Extrapolate, Reuse
from autocache.runtime.entry import Value
from autocache.runtime.moment import Call, Moment, State
from autocache.runtime.record import StepRecord
from autocache.runtime.store import Ledger, Store

BASES: list[Any] = ["taylor", "newton", "hermite"]


def moment(step: int, time: float) -> Moment:
    state = State(Store(Ledger()))
    call = Call(step, None, "0", StepRecord("toy", 0, "0", 0, 0, 0), time_of=lambda _: time)
    return Moment(call, state, state)


def values(steps: list[int], features: list[float], times: list[float]) -> list[Value]:
    return [
        Value(step, torch.tensor([feature], dtype=torch.float64), time)
        for step, feature, time in zip(steps, features, times, strict=True)
    ]


def published(steps: list[int], features: list[float], order: int, at: int) -> float:
    """TaylorSeer's bank of differences, filled step by step, and its sum."""
    bank: list[float] = []
    last = 0
    for step, feature in zip(steps, features, strict=True):
        new = [feature]
        for old in bank[:order]:
            new.append((new[-1] - old) / (step - last))
        bank, last = new, step
    return sum(d * (at - last) ** j / math.factorial(j) for j, d in enumerate(bank))


@pytest.mark.parametrize("order", range(5))
@pytest.mark.parametrize("count", range(1, 8))
def test_taylor_is_the_published_recursion(order, count):
    """Any unequal gaps, any number of computed steps so far, more than the order needs or fewer."""
    chance = random.Random(order * 10 + count)
    for _ in range(20):
        steps = sorted(chance.sample(range(30), count))
        features = [chance.uniform(-1, 1) for _ in steps]
        at = steps[-1] + chance.randint(1, 6)
        how = Extrapolate(order)
        kept = values(steps, features, [0.0] * count)[-how.keep :]
        made = float(how.fill(kept, moment(at, 0.0)))
        assert made == pytest.approx(published(steps, features, order, at), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("order", range(1, 5))
def test_taylor_is_exact_for_what_is_linear_in_the_step(order):
    """From two computed steps on, however far apart, nothing of a line is lost."""
    steps = [0, 1, 5, 7, 12][: order + 1]
    line = [3.0 - 0.25 * step for step in steps]
    made = Extrapolate(order).fill(values(steps, line, [0.0] * len(steps)), moment(16, 0.0))
    assert float(made) == pytest.approx(3.0 - 0.25 * 16, abs=1e-5)


def test_taylor_is_not_exact_for_a_quadratic():
    """Order 2 at constant gap g leaves -(g x / 2) f'', as backward differences do."""
    gap, ahead = 3, 2
    steps = [0, gap, 2 * gap]
    made = Extrapolate(2).fill(
        values(steps, [float(s * s) for s in steps], [0.0] * 3), moment(2 * gap + ahead, 0.0)
    )
    error = float(made) - (2 * gap + ahead) ** 2
    assert error == pytest.approx(-(gap * ahead / 2) * 2, abs=1e-4)


@pytest.mark.parametrize("order", range(1, 5))
def test_newton_is_exact_for_polynomials_of_the_timestep(order):
    """Polynomials up to the order, over timesteps with unequal gaps; one degree more is not."""
    times = [0.97, 0.9, 0.78, 0.71, 0.5][: order + 1]
    coefficients = [0.7, -1.3, 2.1, 0.4, -0.8, 1.7]

    def polynomial(degree: int, time: float) -> float:
        return sum(c * time**n for n, c in enumerate(coefficients[: degree + 1]))

    steps = list(range(len(times)))
    how = Extrapolate(order, "newton")
    for degree in range(order + 2):
        features = [polynomial(degree, time) for time in times]
        made = float(how.fill(values(steps, features, times), moment(9, 0.3)))
        assert (made == pytest.approx(polynomial(degree, 0.3), abs=1e-4)) == (degree <= order)


@pytest.mark.parametrize("basis", BASES)
def test_order_0_is_reuse(basis):
    """The very tensor of the last computed step, in each basis."""
    kept = values([2, 4], [1.0, 5.0], [0.8, 0.6])
    how = Extrapolate(0, basis)
    assert how.keep == 1
    assert how.fill(kept[-1:], moment(6, 0.5)) is Reuse().fill(kept, moment(6, 0.5))


@pytest.mark.parametrize("basis", BASES)
def test_a_constant_stays(basis):
    """What does not change is forecast as it is, at every order."""
    for order in range(5):
        steps = list(range(0, 2 * (order + 1), 2))
        times = [1.0 - 0.07 * n * n for n in range(order + 1)]
        made = Extrapolate(order, basis).fill(
            values(steps, [4.0] * len(steps), times), moment(9, 0.0)
        )
        assert float(made) == pytest.approx(4.0, abs=1e-4)


def test_hermite_damps_the_linear_term():
    """At scale 0.5 the first difference counts half: 2 scale^2 x."""
    how = Extrapolate(1, "hermite")
    made = how.fill(values([0, 2], [1.0, 5.0], [0.0, 0.0]), moment(5, 0.0))
    assert float(made) == pytest.approx(5.0 + 2.0 * 3 / 2)


def test_low_precision_is_summed_in_float32():
    """bfloat16 values are weighed in float32 and rounded once."""
    kept = [
        Value(step, torch.tensor([feature], dtype=torch.bfloat16))
        for step, feature in ((0, 1.0), (1, 1.0078125), (2, 1.015625))
    ]
    made = Extrapolate(1).fill(kept[-2:], moment(5, 0.0))
    assert made.dtype == torch.bfloat16
    assert float(made) == 1.0390625
