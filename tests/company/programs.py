"""Random programs: a state machine whose rules are what users do, on one kind of target."""

from __future__ import annotations

import copy
import gc
import io
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from company import acting
from company.acting import Outcome, Script, Subject, perform
from company.caches import REFUSED, Cache, for_kind, name_of
from company.changes import CHANGES, OFFLOADED, tags_after
from company.checking import Checked
from company.subjects import Generation, generate, is_bare
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule
from pipelines.tiny_pipelines import denoisers

import autocache
from autocache.runtime.root import session_of

GENERATIONS = st.builds(
    Generation,
    steps=st.sampled_from([4, 5, 3, 2]),
    size=st.sampled_from([8, 4]),
    batch=st.sampled_from([1, 2]),
    guided=st.booleans(),
    seed=st.sampled_from([0, 1]),
)


def _of_kind(make: Any) -> Any:
    """Values drawn from what there is for the kind of the machine that runs."""
    return st.runner().flatmap(lambda machine: st.sampled_from(make(machine)))


CACHES = _of_kind(lambda machine: for_kind(machine.kind))
FITTING = _of_kind(lambda machine: machine.fitting())
STEPS = st.integers(0, 3)
CALM = st.sampled_from(["disable", "enable", "reset", "take off", "collect", "copy"])


class Programs(Checked):
    """What users do, in any order."""

    def fitting(self) -> list[str]:
        tags = tags_after(self.subject.log)
        return [name for name, change in CHANGES.items() if change.fits(self.kind, tags)]

    @initialize(cache=CACHES)
    def begin(self, cache: Cache) -> None:
        self.put_on(cache)

    # What is done with the cache.

    @rule(cache=CACHES)
    def put_on(self, cache: Cache) -> None:
        """Patch, or replace what was on it."""
        former = self.subject.patch
        self.subject.put_on(cache)
        self.seen[f"cache {name_of(cache)}"] += 1
        if former is not None:
            former.unpatch()
            assert former.stats().bytes_held == 0
        assert autocache.is_patched(self.subject.target)

    @rule(refused=st.sampled_from(REFUSED))
    def put_on_in_vain(self, refused: tuple[type[Exception], Cache]) -> None:
        """What cannot be put on says so, and leaves what was there."""
        kind, cache = refused
        before = acting.anatomy(self.subject.target)
        with pytest.raises(kind, match=r"."):
            cache.on(self.subject.target)
        assert acting.anatomy(self.subject.target) == before
        self.seen["refused"] += 1

    @rule()
    def unpatch(self) -> None:
        self.take_off()

    @rule(on=st.booleans())
    def switch(self, on: bool) -> None:
        self.subject.switch(on)

    @precondition(lambda self: self.subject.patch is not None)
    @rule()
    def reset(self) -> None:
        patch = self.subject.patch
        assert patch is not None
        patch.reset()
        stats = patch.stats()
        assert (stats.passes, stats.generations, stats.bytes_held) == (0, 0, 0)
        assert stats.steps == ()

    # What is done to the target.

    @precondition(lambda self: self.fitting())
    @rule(name=FITTING)
    def change(self, name: str) -> None:
        CHANGES[name].act(self.subject.target)
        self.subject.log += (name,)
        self.seen[f"change {name}"] += 1

    @precondition(lambda self: not OFFLOADED & tags_after(self.subject.log))
    @rule(keep=st.booleans(), asked=GENERATIONS)
    def copy(self, keep: bool, asked: Generation) -> None:
        """Go on with a deep copy; the original goes on by itself, or goes."""
        original = self.subject
        self.subject = copy.copy(original)
        self.subject.target = copy.deepcopy(original.target)
        self.note()
        if original.cache is not None:
            assert original.patch is not None
            assert autocache.is_patched(self.subject.target)
            self.subject.patch = _patch_of(self.subject.target)
        if keep:
            self.check(original, asked)
        self.seen["copy"] += 1

    @precondition(lambda self: not OFFLOADED & tags_after(self.subject.log))
    @rule()
    def save_and_load(self) -> None:
        """Every denoiser gives way to what was saved of it: a plain one."""
        target = self.subject.target
        if is_bare(target):
            self.subject.target = _loaded(target)
        else:
            for name in ("transformer", "transformer_2", "unet"):
                if getattr(target, name, None) is not None:
                    setattr(target, name, _loaded(getattr(target, name)))
        self.subject.cache = self.subject.patch = None
        assert not autocache.is_patched(self.subject.target)
        self.note()
        self.seen["save"] += 1

    @rule()
    def collect(self) -> None:
        gc.collect()

    # What is made with it.

    @rule(asked=GENERATIONS)
    def generate(self, asked: Generation) -> None:
        self.check(self.subject, asked)

    @rule(asked=GENERATIONS)
    def generate_in_a_thread(self, asked: Generation) -> None:
        self.check(self.subject, asked, how=_in_a_thread)
        self.seen["thread"] += 1

    @precondition(lambda self: not is_bare(self.subject.target))
    @rule(seed=st.sampled_from([0, 1]))
    def call_once(self, seed: int) -> None:
        """The denoiser by itself, as to look at what it does: it is computed, or refused where the
        limit has no room for anything."""
        subject, held = self.subject, self.subject.held
        made = acting.called(subject, seed)
        if isinstance(made, str):
            assert held or made == acting.called_afresh(subject, seed)
        else:
            assert torch.equal(made, acting.expected_call(subject, seed))
        self.seen["call"] += 1

    @precondition(lambda self: self.subject.patch is not None)
    @rule(asked=GENERATIONS)
    def generate_in_a_request(self, asked: Generation) -> None:
        self.check(self.subject, asked, how=_in_a_request)
        self.seen["request"] += 1

    @precondition(lambda self: self.subject.patch is not None)
    @rule(first=GENERATIONS, second=GENERATIONS)
    def generate_two_at_once(self, first: Generation, second: Generation) -> None:
        """In two threads, each with a request of its own."""
        subject, wanted = self.subject, []
        if OFFLOADED & tags_after(subject.log) or (subject.cache and subject.cache.limited):
            # Weights moved about for one call are moved away from under the other, and of a memory
            # limit each gets what the other leaves.
            return
        for asked in (first, second):
            wanted.append(acting.expected(subject, subject.enabled, subject.cache, asked, ()))
        with ThreadPoolExecutor(2) as pool:
            made = [pool.submit(_made, subject.target, asked) for asked in (first, second)]
            for outcome, future in zip(wanted, made, strict=True):
                error = future.exception()
                if outcome.error is not None:
                    assert isinstance(error, outcome.error[0])
                else:
                    assert outcome.made is not None
                    assert error is None
                    assert torch.equal(future.result(), outcome.made)
        self.seen["at once"] += 1

    @rule(asked=GENERATIONS, step=STEPS, what=CALM | CACHES)
    def generate_and_act(self, asked: Generation, step: int, what: Any) -> None:
        """Something is done to the cache between two steps."""
        if what == "copy" and OFFLOADED & tags_after(self.subject.log):
            return
        self.check(self.subject, asked, ((step, what),))
        self.seen[f"act {what if isinstance(what, str) else 'cache'}"] += 1

    @rule(asked=GENERATIONS, step=STEPS, how=st.sampled_from(["stop", "ctrl-c", "interrupt"]))
    def break_off(self, asked: Generation, step: int, how: str) -> None:
        """Between two steps."""
        # Someone's own loop that ended after its first step cannot be told from one at that step.
        self.check(self.subject, asked, ((max(step, is_bare(self.subject.target)), how),))
        self.seen[how] += 1

    @rule(asked=GENERATIONS, at=st.integers(0, 20))
    def break_off_in_a_block(self, asked: Generation, at: int) -> None:
        self.check(self.subject, asked, ((at, "stop in a block"),))
        self.seen["stop in a block"] += 1


def _loaded(model: Any) -> Any:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def _patch_of(target: Any) -> autocache.Patch:
    """The handle of the patch that a copy brought along."""
    session = session_of(denoisers(target)[0])
    assert session is not None
    return session.patch


def _in_a_thread(subject: Subject, asked: Generation, script: Script) -> Outcome:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(perform, subject, asked, script).result()


def _in_a_request(subject: Subject, asked: Generation, script: Script) -> Outcome:
    """The request's own pipeline, or the model, is called in place of the target."""
    with autocache.request(subject.target) as own:
        return perform(subject.through(own), asked, script)


def _made(target: Any, asked: Generation) -> torch.Tensor:
    with autocache.request(target) as own:
        return generate(own, asked, lambda *_: None)
