"""What a step costs us, in counts that do not vary between machines: a guard against regressions.

A change that makes a step dearer fails here, and then raises a limit or is made cheaper. Memory is
held against its formulas in test_scale.py, graph breaks and recompiles in tests/company.
"""

from __future__ import annotations

import itertools
import statistics
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from gpu_device import Waits

import autocache
from dispatched import Allocated
from loops import Loop
from scale_growth import SETTINGS, Setting, row
from scale_model import Size, build
from work import Counted

FLUX = Size(blocks=57, tokens=16, steps=12)
INSTRUCTIONS = {
    "dit_block": (8_100, 11_000),
    "teacache": (8_500, 12_500),
    "fbcache": (8_200, 12_100),
    "attention": (45_700, 32_400),
    "taylorseer": (95_500, 95_500),
    "auto": (5_600, 4_100),
}
"""Of our own code in a step of 57 blocks that computes, and keeps what it computed, and in one that
skips, with CPython 3.11: a tenth above what they were when this was written."""
ALLOCATED = {
    "dit_block": (4, 820),
    "teacache": (17, 104),
    "fbcache": (3, 190),
    "attention": (0, 1_590),
    "taylorseer": (0, 1_590),
    "auto": (21, 24),
}
"""Tensors that a step of 57 blocks allocates: one that computes beside the plain one, and one that
skips in all, a tenth above what it was. A residual is one for each stream and stack; what modules
return is kept as it is."""
ONLINE = ("teacache", "fbcache")
"""These decide by a number that they read off a tensor, once a step."""

each_setting = pytest.mark.parametrize("setting", SETTINGS, ids=lambda one: one.strategy)


@each_setting
def test_instructions_of_a_step(setting: Setting) -> None:
    """Not many more than they were."""
    # Frames of the caller are looked through: in a thread of its own there are few.
    with ThreadPoolExecutor(1) as thread:
        found = thread.submit(row, FLUX, setting, rounds=0).result()
    computed, skipped = INSTRUCTIONS[setting.strategy]
    assert 0 < found["computed"]["instructions"] <= computed
    assert 0 < found["skipped"]["instructions"] <= skipped


def test_a_module_that_is_idle_is_passed_in_a_few_instructions() -> None:
    """Where nothing is skipped or kept, a block more costs one look."""
    never = Setting("dit_block", {"step_interval": 1}, lambda size: 0)
    few, many = (_never(never, Size(blocks=count, tokens=16, steps=8)) for count in (6, 57))
    assert (many - few) / (57 - 6) <= 30


def _never(setting: Setting, size: Size) -> int:
    loop, seen = build(size), []
    with autocache.patched(loop.pipeline, setting.strategy, **setting.parameters):
        loop.run(size.steps)
        with Counted() as counted:
            loop.run(size.steps, lambda: seen.append(counted.work.instructions))
    return statistics.mode(after - before for before, after in itertools.pairwise(seen))


@each_setting
def test_allocations_of_a_step(setting: Setting) -> None:
    """What is kept and no more, and what stands in."""
    loop = build(FLUX)
    plain = _allocated(loop)
    with autocache.patched(loop.pipeline, setting.strategy, **setting.parameters) as patch:
        loop.run(FLUX.steps)
        own = _allocated(loop)
        skips = [step.skips for step in patch.stats().steps[-FLUX.steps :]]
    # The first steps settle what the others go by, and the last one keeps nothing.
    usual = [*zip(own, plain, skips, strict=True)][3:-1]
    added = [count - before for count, before, skipped in usual if not skipped]
    computed, most = ALLOCATED[setting.strategy]
    assert min(statistics.multimode(added)) == computed
    assert 0 < statistics.mode(count for count, _, skipped in usual if skipped) <= most


def _allocated(loop: Loop) -> list[int]:
    seen: list[int] = []
    with Allocated() as allocated:
        loop.run(FLUX.steps, lambda: seen.append(allocated.count))
    return [after - before for before, after in itertools.pairwise(seen)]


# Those of auto are counted in tests/strategies/test_auto.py: it reads the scheduler's lists once.
@pytest.mark.parametrize("name", ["dit_block", "attention", "taylorseer", *ONLINE])
def test_waits_of_a_generation(name: str) -> None:
    """None by a fixed schedule, and one a step by a rule that measures."""
    setting = next(one for one in SETTINGS if one.strategy == name)
    loop = build(FLUX)
    plain = _waits(loop)
    with autocache.patched(loop.pipeline, setting.strategy, **setting.parameters):
        loop.run(FLUX.steps)
        added = _waits(loop) - plain
    assert added <= FLUX.steps if name in ONLINE else added == 0


def _waits(loop: Loop) -> int:
    with Waits(torch.device("cpu")) as waits:
        loop.run(FLUX.steps)
    return waits.count
