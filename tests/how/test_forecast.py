"""The damped line and its late correction, on numbers that can be followed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from autocache.how import Forecast
from autocache.runtime.entry import Value
from autocache.runtime.moment import Call, Moment, State
from autocache.runtime.record import StepRecord
from autocache.runtime.store import Ledger, Store

TIMES = [1000.0, 930.0, 850.0, 720.0, 600.0, 450.0, 280.0, 120.0, 0.0]
"""Unequal steps; the last is where the latent ends."""


def moment(step: int, gain: Callable[[int], float | None] = lambda _: None) -> Moment:
    state = State(Store(Ledger()))
    record = StepRecord("toy", 0, "0", 0, 0, 0)
    call = Call(step, 8, "0", record, time_of=lambda n: TIMES[n], gain=gain)
    return Moment(call, state, state)


def value(step: int, tensor: torch.Tensor) -> Value:
    return Value(step, tensor, TIMES[step])


def euler(early: int, late: int) -> float:
    """What an output counts for in the latent, in units of what a later one does."""
    return (TIMES[early + 1] - TIMES[early]) / (TIMES[late + 1] - TIMES[late])


def test_a_straight_trajectory_is_forecast_exactly() -> None:
    """Three values on a line prove it right; the damping is 1."""
    line = [torch.tensor([[2.0 * t, -t]]) for t in TIMES]
    kept = [value(step, line[step]) for step in (0, 1, 3)]
    torch.testing.assert_close(Forecast().fill(kept, moment(5)), line[5])


def test_a_line_that_proved_wrong_is_not_followed() -> None:
    """Of the two samples one goes on as it did, and the other turns back: that one is reused."""
    rows = [torch.tensor([[t, abs(t - 850.0)]]).T for t in TIMES]
    kept = [value(step, rows[step]) for step in (0, 2, 3)]
    filled = Forecast().fill(kept, moment(4))
    assert filled[0, 0] == pytest.approx(TIMES[4], rel=1e-5)
    assert filled[1, 0] == rows[3][1, 0]


def test_one_value_is_reused_and_two_make_a_quarter_of_a_line() -> None:
    """Nothing has proven a slope yet."""
    line = [torch.tensor([[t]]) for t in TIMES]
    assert Forecast().fill([value(0, line[0])], moment(1)) == line[0]
    filled = Forecast().fill([value(0, line[0]), value(1, line[1])], moment(3))
    assert float(filled) == pytest.approx(TIMES[1] + (TIMES[3] - TIMES[1]) / 4)


@pytest.mark.parametrize("correction", [0, 1, 2, 3])
def test_a_correction_makes_the_latent_that_of_the_polynomial(correction: int) -> None:
    """Where the output is a polynomial in time of the correction's order, the latent after a
    computed step is that of a run without cache, whatever was filled in before."""
    outputs = [
        torch.tensor([[sum((k + 1.0) * (t / 1000) ** k for k in range(correction + 1))]])
        for t in TIMES
    ]
    how, kept = Forecast(correction), []
    plain = latent = torch.zeros(1, 1)
    compared = []
    for step in range(8):
        now = moment(step, lambda early, late=step: euler(early, late))
        made = outputs[step]
        if step in (0, 1, 2, 4, 7):
            if kept and step > kept[-1].step + 1:
                made = how.settle(kept, made, now)
                compared.append(step)
            kept = [*kept, value(step, outputs[step])][-how.keep :]
        else:
            made = how.fill(kept, now)
        latent = latent + (TIMES[step + 1] - TIMES[step]) * made
        plain = plain + (TIMES[step + 1] - TIMES[step]) * outputs[step]
        if step in compared:
            torch.testing.assert_close(latent, plain, rtol=1e-4, atol=1e-3)
    assert compared == [4, 7]


@pytest.mark.parametrize("how", [Forecast(None), Forecast(2)])
def test_without_a_known_response_nothing_is_corrected(how: Forecast) -> None:
    """What was computed goes on as it is."""
    kept = [value(step, torch.tensor([[float(step)]])) for step in (0, 1)]
    gain = (lambda early: euler(early, 4)) if how.correction is None else (lambda _: None)
    computed = torch.tensor([[5.0]])
    assert how.settle(kept, computed, moment(4, gain)) is computed
