"""The fixed schedule's bounds."""

from __future__ import annotations

import pytest

from autocache.runtime.moment import Call, Moment, State
from autocache.runtime.record import StepRecord
from autocache.runtime.store import Ledger, Store
from autocache.when import Interval


def decisions(when: Interval, steps: int, total: int | None):
    store = Store(Ledger())
    record = StepRecord("toy", 0, "0", 0, 0, 0)
    state = State(store)
    calls = [Call(step, total, "0", record) for step in range(steps)]
    return [when.decide(Moment(call, state, state)) for call in calls]


@pytest.mark.parametrize("total", [2, 3, 4, 8, 28, 50])
@pytest.mark.parametrize("interval", [2, 3])
def test_shares_skip_something_for_every_step_count(total, interval):
    """A schedule given in shares of the steps skips at any step count from two on."""
    when = Interval(interval, start_share=0.2, end_share=0.94)
    assert not all(d.compute for d in decisions(when, total, total))


def test_nothing_is_kept_that_no_later_step_could_use():
    """A computed step is kept only when the next one skips: no memory for nothing."""
    when = Interval(2, start=0, end=3)
    kept = [(d.compute, d.keep) for d in decisions(when, 6, 6)]
    skip = (False, False)
    assert kept == [(True, True), skip, (True, True), skip, (True, False), (True, False)]
    assert not any(d.keep for d in decisions(Interval(1, start=0), 6, 6))


def test_published_shares_give_back_the_published_steps():
    """A preset made for 50 steps is that preset at 50 steps, and scales to others."""
    when = Interval(3, start_share=9 / 50, end_share=47 / 50)
    assert when.bounds(50) == (9, 47)
    assert when.bounds(100) == (18, 94)


@pytest.mark.parametrize("end", [1, 3, 27])
def test_a_derived_start_leaves_room_before_a_given_end(end):
    """An early `end` moves the derived start forward: the schedule is never an empty window."""
    when = Interval(2, end=end, start_share=0.2)
    skipped = [step for step, d in enumerate(decisions(when, 28, 28)) if not d.compute]
    assert skipped
    assert max(skipped) <= end
