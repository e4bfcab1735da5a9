"""Computed steps as they were chosen, and their like in generations of another length."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from autocache.runtime.moment import Call, Moment, State
from autocache.runtime.record import StepRecord
from autocache.runtime.store import Ledger, Store
from autocache.when import Chosen
from autocache.when.chosen import spread


def computed(rule: Chosen, total: int | None, steps: int) -> list[int]:
    state = State(Store(Ledger()))
    record = StepRecord("toy", 0, "0", 0, 0, 0)
    moments = [Moment(Call(step, total, "0", record), state, state) for step in range(steps)]
    return [moment.step for moment in moments if rule.decide(moment).compute]


@st.composite
def choices(draw) -> tuple[tuple[int, ...], int]:
    total = draw(st.integers(1, 60))
    rest = draw(st.sets(st.integers(1, total - 1))) if total > 1 else set()
    return (0, *sorted(rest)), total


def test_the_steps_as_they_were_chosen() -> None:
    """In a generation of that length, all others are skipped."""
    assert computed(Chosen((0, 1, 4, 6), 8), 8, 8) == [0, 1, 4, 6]


def test_of_unknown_length() -> None:
    """The same steps, and all after the last that there was."""
    assert computed(Chosen((0, 1, 4), 8), None, 11) == [0, 1, 4, 8, 9, 10]


def test_twice_and_half_as_long() -> None:
    """Dense where they were dense."""
    assert computed(Chosen((0, 1, 2, 6), 8), 16, 16) == [0, 1, 2, 3, 4, 8, 12, 14]
    assert computed(Chosen((0, 1, 2, 6), 8), 4, 4) == [0, 1]


@settings(deadline=None, derandomize=True, database=None)
@given(choices(), st.integers(1, 80))
def test_any_other_length(chosen: tuple[tuple[int, ...], int], other: int) -> None:
    """The same share of the steps, the first among them, all different and within the length."""
    steps, total = chosen
    found = spread(steps, total, other)
    assert 0 in found
    assert found <= set(range(other))
    wanted = len(steps) * other / total
    assert len(found) == min(other, max(1, round(wanted)))


@settings(deadline=None, derandomize=True, database=None)
@given(choices(), st.integers(2, 4))
def test_each_keeps_its_place(chosen: tuple[tuple[int, ...], int], times: int) -> None:
    """In a generation so many times as long, near every chosen step one is computed."""
    steps, total = chosen
    found = sorted(spread(steps, total, times * total))
    for nth, step in enumerate(steps):
        assert abs(found[nth * times] - step * times) <= times


@settings(deadline=None, derandomize=True, database=None)
@given(choices())
def test_all_of_them(chosen: tuple[tuple[int, ...], int]) -> None:
    """Who computes every step does so at any length, and the own length changes nothing."""
    steps, total = chosen
    assert spread(steps, total, total) == set(steps)
    assert spread(tuple(range(total)), total, total + 7) == set(range(total + 7))
