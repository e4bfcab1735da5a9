"""MagCache's decision against a transcription of its published pseudo-code."""

from __future__ import annotations

import random

import numpy as np
import pytest

from autocache.runtime.limits import Limits
from autocache.runtime.moment import Call, Moment, State
from autocache.runtime.record import StepRecord
from autocache.runtime.store import Ledger, Store
from autocache.when import Magnitude


def table(seed: int, length: int) -> tuple[float, ...]:
    """Ratios as they are published: far from one at both ends, near it between."""
    uneven = random.Random(seed)
    spread = [0.2 * abs(2 * step / length - 1) ** 3 + 0.01 for step in range(length)]
    return (1.0, *(1 + uneven.uniform(-width, width) for width in spread[1:]))


def published(ratios, total, threshold, most, retention) -> list[bool]:
    """True where the step is computed, by the rule as the paper's code states it."""
    scale = (len(ratios) - 1) / (total - 1)
    resized = [ratios[int(n)] for n in np.round(np.arange(total) * scale)]
    ratio, count, error, computed = 1.0, 0, 0.0, []
    for step in range(total):
        run = step < int(retention * total + 0.5)
        if not run:
            ratio *= resized[step]
            count += 1
            error += abs(1 - ratio)
            run = error > threshold or count > most or not computed
            if run:
                ratio, count, error = 1.0, 0, 0.0
        computed.append(run)
    return computed


def decide(
    when: Magnitude,
    total: int | None,
    steps: int,
    limits: Limits | None = None,
    branch: str = "cond",
    start: int = 0,
) -> list[bool]:
    """True where the step is computed, within the limits."""
    limits = limits or Limits()
    state = State(Store(Ledger()))
    computed = []
    for step in range(start, steps):
        call = Call(step, total, branch, StepRecord("toy", 0, branch, step, 0, 0))
        moment = Moment(call, state, state)
        moment.forced = not state.kept or limits.forces(moment) or limits.exhausted(moment)
        state.kept["something"] = True
        computed.append(when.decide(moment).compute)
        limits.count(moment, computed[-1])
    return computed


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("total", [50, 28, 20, 77])
@pytest.mark.parametrize(
    ("threshold", "most", "retention"), [(0.06, 3, 0.2), (0.24, 6, 0.1), (9.0, 2, 0.0)]
)
def test_follows_the_published_rule(seed, total, threshold, most, retention):
    """Same steps computed as the published rule, at the table's number of steps and at others."""
    ratios = table(seed, 50)
    expected = published(ratios, total, threshold, most, retention)
    when = Magnitude(ratios, threshold, retention)
    assert decide(when, total, total, Limits(max_consecutive_skips=most)) == expected
    assert len(set(expected)) == 2


def test_halves_go_to_the_even_place():
    """`round(j (L-1) / (T-1))` at exact halves: of places 0.5, 1.5 and 2.5, the places 0, 2, 2."""
    errors = []
    state = State(Store(Ledger()), {"something": True})
    for step in range(7):
        call = Call(step, 7, "0", StepRecord("toy", 0, "0", step, 0, 0))
        decision = Magnitude((1.0, 2.0, 3.0, 4.0), 1e-9, 0.0).decide(Moment(call, state, state))
        errors.append(decision.distance)
    assert errors == [0.0, 0.0, 1.0, 2.0, 2.0, 2.0, 3.0]


@pytest.mark.parametrize(("down", "retained"), [(False, 6), (True, 5)])
def test_the_retained_steps_are_rounded(down, retained):
    """A fifth of 28 steps is 5.6: six as in diffusers, five as in the Wan script."""
    when = Magnitude((1.0,) * 28, 1.0, round_down=down)
    assert decide(when, 28, 28).index(False) == retained


def test_a_second_expert_retains_steps_of_its_own():
    """An expert that takes over at step 13 of 40 retains its share of the 27 that are left."""
    when = Magnitude((1.0,) * 40, 1.0, retention=0.4)
    assert decide(when, 40, 40, start=13).index(False) == 11


@pytest.mark.parametrize(
    ("branch", "own"),
    [
        ("uncond", True),
        ("pred_uncond", True),
        ("1", True),
        ("cond", False),
        ("pred_cond", False),
        ("0", False),
    ],
)
def test_each_guidance_branch_has_its_ratios(branch, own):
    """The unconditional branch, named or the second, follows its own ratios."""
    when = Magnitude((1.0,) * 10, 0.1, 0.2, uncond=(3.0,) * 10)
    assert all(decide(when, 10, 10, branch=branch)) is own


def test_an_unknown_total_is_that_of_the_table():
    """Without an announcement ratios are taken as they are; past their end nothing is skipped."""
    ratios = table(1, 30)
    when = Magnitude(ratios, 0.2)
    known = decide(when, 30, 30)
    assert decide(when, None, 35) == [*known, *[True] * 5]
    assert not all(known)


def test_a_forced_step_starts_the_sum_again():
    """After a step that a limit has computed, as much error may add up as after any other."""
    when = Magnitude((1.0, *(1.1,) * 9), 0.35, 0.0)
    # 0.1 + 0.21 is little, 0.1 + 0.21 + 0.331 is not.
    assert decide(when, 10, 7) == [True, False, False, True, False, False, True]
    forced = Limits(mask=lambda step, total: step == 2)
    assert decide(when, 10, 7, forced) == [True, False, True, False, False, True, False]


def test_an_error_equal_to_the_threshold():
    """It skips, and is computed where `strict`, as in the Wan script."""
    ratios = (1.0, 1.5, 1.5)
    assert decide(Magnitude(ratios, 0.5, 0.0), 3, 2) == [True, False]
    assert decide(Magnitude(ratios, 0.5, 0.0, strict=True), 3, 2) == [True, True]


def test_threshold_zero_never_skips():
    """Not even where every ratio is one."""
    assert all(decide(Magnitude((1.0,) * 20, 0.0, 0.0), 20, 20))
