"""Conditional follows a rule only in steps with nothing unconditional."""

from __future__ import annotations

import pytest

from autocache.runtime.moment import Decision
from autocache.when import Conditional, Interval
from tests.how.test_blend import moment

RULE = Conditional(Interval(3, start=0))


@pytest.mark.parametrize(
    ("step", "alone", "unconditional", "expected"),
    [
        (3, True, False, Decision(compute=True, keep=True)),
        (4, True, False, Decision(compute=False)),
        (3, False, False, Decision(compute=True, keep=True)),
        (4, False, False, Decision(compute=True, keep=True)),
        (3, False, True, Decision(compute=True)),
        (4, False, True, Decision(compute=True)),
    ],
)
def test_decisions(step, alone, unconditional, expected):
    now = moment(step)
    now.call.conditional_only, now.call.unconditional = alone, unconditional
    assert RULE.decide(now) == expected


def test_nothing_is_kept_for_a_rule_that_never_skips():
    assert Conditional(Interval(1, start=0)).decide(moment(4)) == Decision(compute=True)


def test_it_is_decided_late():
    """What the call is of is known only once the part around it has begun."""
    assert RULE.late
    assert not Interval(2).late
