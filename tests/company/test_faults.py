"""Whatever fails, the error arrives as it is and the next generation is that of a fresh pipeline.

Each strategy is tried with some of the places and steps; with AUTOCACHE_FULL set, with all.
"""

from __future__ import annotations

import itertools
import os
from typing import Any

import pytest
import torch
from company import eager
from company.faults import INSIDE, PLACES, Breakable, Broken
from pipelines.tiny_pipelines import counted, denoisers

import autocache

ERRORS: tuple[type[BaseException], ...] = (Broken, KeyboardInterrupt)
EVERY: list[tuple[str, int, type[BaseException]]] = list(
    itertools.product(PLACES, range(eager.STEPS), ERRORS)
)
FEW = 3
"""Faults that each strategy is tried with on each pipeline."""
CASES = eager.pairs("flux", "wan", "sd")


def _faults(nth: int) -> list[tuple[str, int, type[BaseException]]]:
    if os.environ.get("AUTOCACHE_FULL"):
        return EVERY
    # A stride without a common factor with the number of them comes by all in turn.
    return [EVERY[(nth * FEW + n) * 37 % len(EVERY)] for n in range(FEW)]


def _drawn(breakable: Breakable, patch: autocache.Patch) -> tuple[torch.Tensor, Any]:
    """A generation, and what was done in it: by the record, and counted in the blocks."""
    models = denoisers(breakable.pipe)
    before = [autocache.stats(model).passes for model in models]
    with counted(breakable.pipe) as counts:
        image = breakable.draw()
    assert patch.stats().bytes_held == 0
    after = [autocache.stats(model) for model in models]
    done = [
        (s.branch, s.step, s.action, s.blocks_skipped, s.attention_skipped, s.sites)
        for passes, stats in zip(before, after, strict=True)
        for s in stats.steps[passes - stats.passes :]
    ]
    return image, (done, counts)


@pytest.mark.parametrize(("nth", "pipeline", "strategy"), [(n, *c) for n, c in enumerate(CASES)])
def test_the_next_generation_is_that_of_a_fresh_pipeline(
    nth: int, pipeline: str, strategy: str
) -> None:
    """An error anywhere, at any step, under any strategy, leaves nothing for the next generation:
    the same picture to the bit, the same calls skipped, and nothing held of the broken one."""
    breakable = Breakable(pipeline)
    patch = eager.patch(breakable.pipe, strategy)
    image, done = _drawn(breakable, patch)
    raised = 0
    for place, step, error in _faults(nth):
        before = patch.stats()
        if strategy == "fewer_steps":
            step //= 2
        fault = breakable.break_at(place, step, error)
        raised += fault.raised
        assert fault.arrived is (fault.error if fault.raised else None)
        assert fault.error.__cause__ is fault.error.__context__ is None
        broken = patch.stats()
        assert broken.bytes_held == 0
        again, did = _drawn(breakable, patch)
        assert torch.equal(again, image), (place, step, error)
        assert did == done, (place, step, error)
        after = patch.stats()
        assert 0 <= broken.passes - before.passes <= after.passes - broken.passes
        assert after.generations == broken.generations + 1
        assert after.bytes_held == 0
    assert raised > 0
    # Its scheduler's class refers to it, and is heard as long as anything is patched.
    patch.unpatch()


def test_every_place_and_step_is_tried() -> None:
    """By some strategy on some pipeline, though not by each."""
    tried = {fault for nth in range(len(CASES)) for fault in _faults(nth)}
    assert {(place, error) for place, _, error in tried} == {*itertools.product(PLACES, ERRORS)}
    assert {(place, step) for place, step, _ in tried} == {
        *itertools.product(PLACES, range(eager.STEPS))
    }
    assert all(set(INSIDE[pipeline]) < set(PLACES) for pipeline in INSIDE)
