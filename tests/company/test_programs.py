"""Random programs over everything that users do with a cached pipeline.

At least a thousand of them, the same in every run. `AUTOCACHE_PROGRAMS=20` runs twenty times as
many, and others in every run.
"""

from __future__ import annotations

import gc
import logging
import os
from collections import Counter
from collections.abc import Iterator

import pytest
from company.caches import for_kind, name_of
from company.changes import CHANGES
from company.originals import Originals
from company.programs import Programs
from company.subjects import KINDS
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

import autocache
from autocache.runtime.signals import listening

PROGRAMS = dict(zip(KINDS, (200, 200, 60, 250, 250, 60), strict=True))
TIMES = float(os.environ.get("AUTOCACHE_PROGRAMS", "1"))


@pytest.fixture(autouse=True)
def _quiet(nothing_patched: None) -> Iterator[None]:
    """What lived before is left out when what is alive is looked at; no word on idle strategies."""
    gc.collect()
    gc.freeze()
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)
    gc.unfreeze()
    # A program that failed is kept alive by its traceback, and would be heard in the next one.
    for session in listening():
        autocache.unpatch(session.model)


def _settings(kind: str) -> settings:
    return settings(
        max_examples=round(PROGRAMS[kind] * TIMES),
        stateful_step_count=6,
        derandomize=TIMES == 1,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        print_blob=TIMES > 1,
    )


def test_there_are_a_thousand() -> None:
    """The programs of all kinds together."""
    assert sum(PROGRAMS.values()) >= 1000


@pytest.mark.parametrize("kind", KINDS)
def test_random_programs(kind: str) -> None:
    """Off is bit-identical to a twin that was never touched, on is as on a fresh one, and after
    unpatching nothing is left, whatever was done before."""
    seen: Counter[str] = Counter()
    originals = Originals()
    machine = type("Program", (Programs,), {"kind": kind, "seen": seen, "originals": originals})
    run_state_machine_as_test(machine, settings=_settings(kind))
    gc.collect()
    assert originals.changed() == []
    assert seen["program"] >= round(PROGRAMS[kind] * TIMES)
    if TIMES >= 1:
        expected = _things(kind)
        missed = {name for name in expected if not seen[name]}
        assert not missed & ALWAYS, missed
        assert len(missed) < len(expected) / 2, missed
        assert sum(seen[name] for name in seen if name.startswith("skipped")) > 0


ALWAYS = {"generation", "thread", "copy", "save", "refused", "stop in a block"}
"""What programs of every kind do, however few there are."""

OFTEN = {
    "request", "at once", "stop", "ctrl-c", "act cache", "act disable", "act enable", "act reset",
    "act take off", "act collect", "act copy",
}  # fmt: skip
"""Of these and of the caches and changes there are, most are among them."""


def _things(kind: str) -> set[str]:
    """All that programs of a kind can do: rules, caches, caches that skip, and changes."""
    caches = for_kind(kind)
    acting = {name_of(cache) for cache in caches if not cache.never} - {"fewer_steps"}
    things = ALWAYS | OFTEN | {f"cache {name_of(cache)}" for cache in caches}
    things |= {f"skipped with {name}" for name in acting}
    things |= {f"change {name}" for name, change in CHANGES.items() if change.only(kind)}
    return things | (set() if kind.startswith("bare") else {"interrupt", "call"})
