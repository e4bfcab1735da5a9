"""What must hold in every program: after each rule, of each generation, and at the end."""

from __future__ import annotations

import gc
import sys
import weakref
from collections import Counter
from typing import Any, ClassVar

import torch
from company import acting
from company.acting import Outcome, Script, Subject, perform
from company.caches import name_of
from company.originals import Originals, classes_of
from company.subjects import Generation, is_bare
from hypothesis.stateful import RuleBasedStateMachine, invariant
from pipelines.tiny_pipelines import denoisers

import autocache
from autocache.errors import AutocacheError
from autocache.runtime.session import Session


class Checked(RuleBasedStateMachine):
    """One target, its life, and what must hold all along."""

    kind: ClassVar[str]
    seen: ClassVar[Counter[str]]
    """What the programs of this kind did, so that a test can tell that they did something."""
    originals: ClassVar[Originals]

    def __init__(self) -> None:
        super().__init__()
        self.subject = Subject(self.kind)
        self.lives: list[weakref.ref] = []
        # A program that failed is kept alive by its traceback.
        self.before = weakref.WeakSet(_sessions())
        self.note()

    def note(self) -> None:
        """Remember what must be gone in the end."""
        target = self.subject.target
        self.lives += [weakref.ref(thing) for thing in (target, *denoisers(target))]

    def check(
        self, subject: Subject, asked: Generation, script: Script = (), how: Any = perform
    ) -> None:
        """A generation is what it is on a target to which nothing else has happened."""
        cache, enabled = subject.cache, subject.enabled
        if cache is not None and cache.limited and subject.held:
            # A limit is one for all threads and requests: what is held elsewhere is missing here.
            how = perform
        held = subject.held
        outcome = how(subject, asked, script)
        wanted = acting.expected(subject, enabled, cache, asked, script)
        assert outcome.same_as(wanted), (outcome, wanted)
        if outcome.error is not None:
            assert outcome.error[1], "an error that says nothing"
        if outcome.counted is not None and "generations" in outcome.counted:
            refused = outcome.error is not None and issubclass(outcome.error[0], AutocacheError)
            assert outcome.counted["generations"] == 1 or refused, outcome.counted
        self.seen["generation"] += 1
        if script:
            return
        if cache is None or not enabled or cache.never:
            plain = acting.expected(subject, False, None, asked, ())
            assert outcome.made is not None
            assert torch.equal(outcome.made, plain.made), "not bit-identical"
            assert outcome.ran == plain.ran or cache is not None
        elif outcome.made is not None:
            self.consistent(outcome)
            skipped = outcome.counted["attention"] < outcome.counted["of attention"]
            self.seen[f"skipped with {name_of(cache)}"] += skipped
        if outcome.made is not None and not is_bare(subject.target):
            # What other threads and requests left behind is their own.
            left = 0 if how is perform else held
            kept = cache is not None and "keep" in cache.params
            assert kept or outcome.held == left, "kept after the last step"

    def consistent(self, outcome: Outcome) -> None:
        counted = outcome.counted
        assert counted is not None
        assert outcome.ran.get("attention", 0) == counted["attention"], outcome
        assert 0 <= counted["attention"] <= counted["of attention"]

    @invariant()
    def stats_add_up(self) -> None:
        subject = self.subject
        assert autocache.is_patched(subject.target) == (subject.patch is not None)
        if subject.patch is None:
            log, kind = subject.log, subject.kind
            assert acting.anatomy(subject.target) == acting.expected_anatomy(kind, log)
            return
        stats = autocache.stats(subject.target)
        for calls in (stats.denoiser, stats.blocks, stats.attention):
            assert 0 <= calls.run <= calls.total
        assert 0 <= stats.bytes_held <= stats.bytes_peak

    def take_off(self) -> None:
        patch = self.subject.patch
        self.subject.take_off()
        assert patch is None or patch.stats().bytes_held == 0

    def teardown(self) -> None:
        """Whatever happened: off is off, and nothing is left."""
        if sys.exc_info()[0] is not None:
            # It failed, or was given up by the search, which does so without a word: either way it
            # is no part of the programs to come.
            autocache.unpatch(self.subject.target)
            return
        self.check(self.subject, Generation())
        self.take_off()
        self.check(self.subject, Generation())
        self.stats_add_up()
        classes = classes_of(self.subject.target)
        del self.subject
        gc.collect()
        assert [life() for life in self.lives if life() is not None] == []
        assert [session for session in _sessions() if session not in self.before] == []
        assert len(self.before) > 0 or self.originals.changed(classes) == []
        self.seen["program"] += 1


def _sessions() -> list[Session]:
    """Those that live. Not by what autocache itself knows of."""
    return [thing for thing in gc.get_objects() if type(thing) is Session]
