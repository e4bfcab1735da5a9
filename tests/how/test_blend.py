"""Blend moves the last value on by a share of its last change."""

from __future__ import annotations

import pytest
import torch

from autocache.how import Blend
from autocache.runtime.entry import Value
from autocache.runtime.moment import Call, Moment, State
from autocache.runtime.record import StepRecord
from autocache.runtime.store import Ledger, Store


def moment(step: int = 3, total: int | None = 10, time: float = 500.0) -> Moment:
    state = State(Store(Ledger()))
    record = StepRecord("", 0, "0", step, 0, 0)
    return Moment(Call(step, total, "0", record, time_of=lambda _: time), state, state)


def values(*numbers: float, dtype: torch.dtype = torch.float32) -> list[Value]:
    return [Value(n, torch.tensor([x], dtype=dtype)) for n, x in enumerate(numbers)]


def test_one_value_is_reused():
    assert Blend(0.5).fill(values(3.0), moment()).item() == 3.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_two_values(dtype):
    filled = Blend(0.5).fill(values(1.0, 3.0, dtype=dtype), moment())
    assert (filled.item(), filled.dtype) == (4.0, dtype)


@pytest.mark.parametrize(
    ("step", "total", "weight"),
    [(0, 11, 0.0), (5, 11, 0.5), (10, 11, 1.0), (5, None, 0.0), (0, 1, 0.0)],
)
def test_growing_weight(step, total, weight):
    assert Blend((0.0, 1.0)).weight_at(step, total) == weight


def test_open_sora_schedule():
    """Section 15.2's `(c - 7) / 20 * 0.9` of 30 steps counted from 1 is one of these."""
    how = Blend((-6 / 20 * 0.9, 23 / 20 * 0.9))
    for count in range(1, 31):
        assert how.weight_at(count - 1, 30) == pytest.approx((count - 7) / 20 * 0.9)


def test_feed_back_is_an_option():
    assert (Blend().keep, Blend().pushes, Blend(feed_back=True).pushes) == (2, False, True)
