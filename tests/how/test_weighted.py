"""Weighted sums of the last computed values, and what stands in where the weights do not hold."""

from __future__ import annotations

import logging

import pytest
import torch

from autocache.how import Forecast, Weighted
from autocache.runtime.entry import Value
from autocache.runtime.moment import Call, Moment, State
from autocache.runtime.record import StepRecord
from autocache.runtime.store import Ledger, Store

STEPS, TOTAL = (0, 1, 4), 8
PARTS = [[[1.0]], [[1.5, -0.5]], [[2.0, -1.5, 0.5]]]
TIMES = [float(1000 - 100 * n) for n in range(TOTAL + 1)]


def weighted(parts=None, branch: str = "0") -> Weighted:
    return Weighted({branch: parts or PARTS}, STEPS, TOTAL)


def moment(step: int, **facts) -> Moment:
    state = State(Store(Ledger()))
    record = StepRecord("toy", 0, "0", 0, 0, 0)
    given = {"total": TOTAL, "branch": "0", "time_of": lambda n: TIMES[n], **facts}
    return Moment(Call(step, record=record, **given), state, state)


def values(*steps: int, rows: int = 2) -> list[Value]:
    generator = torch.Generator().manual_seed(0)
    drawn = {step: torch.randn(rows, 3, generator=generator) for step in range(TOTAL)}
    return [Value(step, drawn[step], TIMES[step]) for step in steps]


@pytest.mark.parametrize("step", [5, 7])
def test_skipped_steps_are_the_weighted_sum(step: int) -> None:
    """Of the last computed values, the latest first; all the way to the next computed step."""
    a, b, c = values(0, 1, 4)
    expected = 2.0 * c.tensor - 1.5 * b.tensor + 0.5 * a.tensor
    torch.testing.assert_close(weighted().fill([a, b, c], moment(step)), expected)


def test_a_computed_value_is_weighted_too() -> None:
    """What goes on from there is the same sum as in the steps after it."""
    a, b, c = values(0, 1, 4)
    settled = weighted().settle([a, b], c.tensor, moment(4))
    torch.testing.assert_close(settled, weighted().fill([a, b, c], moment(5)))


def test_a_single_weight_of_one_is_the_value_itself() -> None:
    """Not a copy."""
    (a,) = values(0)
    assert weighted().settle([], a.tensor, moment(0)) is a.tensor


def test_guidance_branches_in_one_batch_have_their_own_weights() -> None:
    """The first half by the first weights, the second by the second."""
    made = weighted([[[1.0], [1.0]], [[1.5, -0.5], [3.0]], PARTS[2] * 2])
    a, b = values(0, 1, rows=4)
    filled = made.fill([a, b], moment(2, sample=torch.zeros(2, 3)))
    torch.testing.assert_close(filled[:2], 1.5 * b.tensor[:2] - 0.5 * a.tensor[:2])
    torch.testing.assert_close(filled[2:], 3.0 * b.tensor[2:])


def test_it_keeps_what_it_needs_and_the_type() -> None:
    """As many values as the longest sum has, half precision among them."""
    assert weighted().keep == Forecast(3).keep
    long = [[[1.0] * 5]] * 3
    assert weighted(long).keep == 5
    a, b = (Value(v.step, v.tensor.half(), v.time) for v in values(0, 1))
    assert weighted().fill([a, b], moment(2)).dtype is torch.float16


@pytest.mark.parametrize(
    ("step", "kept", "facts", "reason"),
    [
        (5, (0, 1, 4), {"total": 9}, "9 steps, not 8"),
        (5, (0, 1, 4), {"total": None}, "None steps, not 8"),
        (5, (0, 1, 4), {"branch": "uncond"}, "no guidance branch 'uncond'"),
        (5, (0, 1, 3), {}, "step 3 was computed last, not 4"),
        (5, (0, 1, 4, 5), {}, "step 5 was computed last, not 4"),
        (5, (1, 4), {}, "fewer values"),
        (5, (0, 1, 4), {"unlike": "the resolution is another"}, "the resolution is another"),
    ],
)
def test_elsewhere_the_forecast_stands_in(caplog, step, kept, facts, reason) -> None:
    """And the log says why, once."""
    made, there = weighted(), values(*kept)
    with caplog.at_level(logging.WARNING, "autocache"):
        for _ in range(2):
            filled = made.fill(there, moment(step, **facts))
    assert torch.equal(filled, Forecast(3).fill(there, moment(step, **facts)))
    assert len(caplog.records) == 1
    assert reason in caplog.records[0].message


@pytest.mark.parametrize(("rows", "samples"), [(3, 3), (3, None), (4, 4)])
def test_another_batch_is_not_cut_in_parts(caplog, rows, samples) -> None:
    """A batch that does not hold both guidance branches, or holds more samples of one."""
    made = weighted([[[1.0]] * 2, [[1.5, -0.5]] * 2, PARTS[2] * 2])
    there = values(0, 1, rows=rows)
    sample = None if samples is None else torch.zeros(samples, 3)
    here = moment(2, sample=sample)
    with caplog.at_level(logging.WARNING, "autocache"):
        filled = made.fill(there, here)
    assert torch.equal(filled, Forecast(3).fill(there, here))
    assert f"a batch of {rows} does not hold 2" in caplog.records[0].message
