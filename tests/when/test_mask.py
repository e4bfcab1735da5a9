"""Patterns of computed steps. `tests/parity` compares the named ones with cache-dit's."""

from __future__ import annotations

import pytest
import torch

import autocache
from autocache.runtime.limits import Limits
from autocache.runtime.moment import Call, Moment, State
from autocache.runtime.record import StepRecord
from autocache.runtime.store import Ledger, Store
from autocache.when import Mask
from autocache.when.mask import PUBLISHED, published
from toy import SPEC, ToyDenoiser, added, executed


def moment(step: int, total: int | None = None) -> Moment:
    state = State(Store(Ledger()))
    return Moment(Call(step, total, "0", StepRecord("toy", 0, "0", step, 0, 0)), state, state)


def pattern(mask: Mask, total: int, known: bool = True) -> str:
    decisions = [mask.decide(moment(step, total if known else None)) for step in range(total)]
    return "".join("1" if decision.compute else "0" for decision in decisions)


def test_the_published_pattern_for_28_steps():
    """The pattern that cache-dit documents; the last step is always computed."""
    assert pattern(Mask("slow"), 28) == "1111111101110011100110010001"


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("total", [1, 2, 3, 5, 28, 50, 333])
def test_a_named_pattern_fits_any_number_of_steps(name, total):
    """Also where upstream has none: as long as the generation, from a computed step to one."""
    made = published(name, total)
    assert len(made) == total
    assert made[0] == made[-1] == "1"
    assert total < 5 or "0" in made


def test_without_a_total_the_longest_pattern_goes():
    """An unknown total reads as 28 steps, and what comes after is computed."""
    assert pattern(Mask("fast"), 32, known=False) == published("fast", 28) + "1111"


def test_given_steps():
    """A mask from the list of computed steps; those after its end are computed."""
    mask = Mask.computing([0, 1, 4], total=6)
    assert mask == Mask("110010")
    assert pattern(mask, 8) == "11001011"


def test_only_what_a_skip_needs_is_remembered():
    """As many computed steps before a skipped one as the history asks for."""
    keeps = [Mask("11110110").decide(moment(step)).keep for step in range(8)]
    assert [step for step, keep in enumerate(keeps) if keep] == [3, 6]
    keeps = [Mask("11110110", history=2).decide(moment(step)).keep for step in range(8)]
    assert [step for step, keep in enumerate(keeps) if keep] == [2, 3, 5, 6]


def test_it_bounds_another_rule():
    """As a limit a mask forces its steps and leaves the others to the rule."""
    limits = Limits(mask=Mask("1011").computes)
    assert [limits.forces(moment(step)) for step in range(5)] == [True, False, True, True, True]


def test_a_thinned_warm_up():
    """Of the first steps every so many are forced."""
    limits = Limits(warmup=5, warmup_interval=2)
    forced = [limits.forces(moment(step)) for step in range(7)]
    assert forced == [True, False, True, False, True, False, False]


@pytest.mark.parametrize("wrong", ["slwo", "", "0120"])
def test_what_is_no_pattern_is_refused(wrong):
    """The error names what was expected."""
    with pytest.raises(ValueError, match="expected slow, medium, fast, ultra, or a 1"):
        Mask(wrong)


def test_a_strategy_of_its_own():
    """Given as `when`, the pattern alone decides what is run."""
    model = ToyDenoiser(3)
    with autocache.patched(model, when=Mask("10110"), spec=SPEC):
        sums = added(model, 5)
    assert executed(model, 5) == ["CCC", "rrr", "CCC", "CCC", "rrr"]
    assert sums == [6, 6, 18, 24, 24]
    assert torch.is_tensor(model(torch.zeros(1, 2), 0))
