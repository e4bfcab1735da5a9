"""What we add to a step grows no faster than the model and its use do.

Counted in calls and instructions of our own code, which are the same on every machine.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import shlex
from typing import Any

import pytest

import autocache
import scale
import scale_sessions
from scale_growth import SETTINGS, Setting, row
from scale_model import Size, build
from scripts import ROOT, tool
from work import Counted

SMALL = Size(blocks=6, tokens=16, steps=12)
MOST_FOR_ANOTHER = 200
"""Instructions that one more patched pipeline or request may add to a step of another one."""
KINDS = ("computed", "skipped")
each_setting = pytest.mark.parametrize("setting", SETTINGS, ids=lambda one: one.strategy)


@functools.cache
def measured(setting: Setting, **changes: int) -> dict[str, Any]:
    return row(dataclasses.replace(SMALL, **changes), setting, rounds=0)


@each_setting
def test_work_is_affine_in_blocks(setting):
    """Each block adds what the one before it added, to a step and to patching; nothing where whole
    calls are skipped."""
    # dit_block leaves a tenth of each stack at both its ends alone, and that in whole blocks.
    first = 30 if setting.strategy == "dit_block" else 9
    few, some, many = (measured(setting, blocks=first * times) for times in (1, 2, 4))
    for kind in KINDS:
        for what in ("calls", "instructions", "intercepted"):
            some_more, many_more = (
                b[kind][what] - a[kind][what] for a, b in ((few, some), (some, many))
            )
            assert many_more == 2 * some_more
            assert some_more == 0 or setting.strategy != "auto"


@each_setting
def test_work_does_not_depend_on_how_much_there_is_to_compute(setting):
    """Neither on steps, tokens nor samples."""
    for kind in KINDS:
        known = measured(setting)[kind]
        assert known["instructions"] > 0
        for changes in ({"steps": 24}, {"tokens": 64}, {"batch": 3}):
            assert measured(setting, **changes)[kind] == known


@each_setting
def test_bytes_are_those_of_the_formula(setting):
    """At every size."""
    for changes in ({}, {"blocks": 12}, {"steps": 24}, {"tokens": 64}, {"batch": 3}):
        found = measured(setting, **changes)
        assert found["bytes"] == found["formula"]


@pytest.mark.parametrize("company", scale_sessions.COMPANY)
def test_what_is_idle_is_looked_past(company):
    """Each idle pipeline or request costs a step the same, far less than the step itself does."""
    added = scale_sessions.COMPANY[company]
    none, few, many = (scale_sessions.idle(added, count, 0)["instructions"] for count in (0, 4, 12))
    assert many - few == pytest.approx(2 * (few - none), rel=0.1)
    assert many - none <= 12 * MOST_FOR_ANOTHER


def test_a_request_at_work_is_looked_past_too():
    """In steps that requests take by turns."""
    few, many = (scale_sessions.by_turns(count)["instructions"] for count in (1, 9))
    assert many - few <= 8 * MOST_FOR_ANOTHER


def test_work_outside_our_files_is_not_counted():
    """A plain generation is nothing of ours, and a second count is the same as the first."""
    loop = build(SMALL)
    with Counted() as counted:
        loop.run(4)
    assert counted.work == (0, 0, 0)
    with autocache.patched(loop.pipeline, "dit_block", step_start=2, step_interval=2):
        seen = []
        for _ in range(3):
            with Counted() as counted:
                loop.run(4)
            seen.append(counted.work)
    assert seen[1] == seen[2]
    assert seen[1].intercepted == 4 * 6


def test_the_page_is_the_committed_measurement():
    """Word for word what the tool writes from the result, which covers what the script would."""
    page = tool("scale_page")
    assert page.PAGE.read_text() == page.page()
    result = json.loads(scale.RESULT.read_text())
    swept = {name: [int(value) for value in rows] for name, rows in result["growth"].items()}
    assert swept == {name: list(values) for name, values in scale.SWEEPS.items()}
    names = {setting.strategy for setting in SETTINGS}
    assert all(set(one) == names for rows in result["growth"].values() for one in rows.values())
    assert (ROOT / "docs" / "scaling.md") == page.PAGE


def test_the_commands_of_the_page():
    """The script takes what docs/benchmarks.md gives it."""
    said = (ROOT / "docs" / "benchmarks.md").read_text().splitlines()
    commands = [line for line in said if line.startswith("python benchmarks/scale.py")]
    assert commands
    for command in commands:
        scale.parser().parse_args(shlex.split(command, comments=True)[2:])
