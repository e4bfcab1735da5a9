"""One generation on a target that may have a cache on it, and everything that can be told of it."""

from __future__ import annotations

import contextlib
import copy
import gc
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from company.caches import Cache
from company.changes import CHANGES, changed
from company.subjects import Generation, blocks, call, generate, is_bare
from pipelines.tiny_pipelines import denoisers
from torch import nn

import autocache
from autocache.errors import AutocacheError, MemoryLimitError

Script = tuple[tuple[int, Any], ...]
"""What happens in a generation: after which step, and what; or at which call of a block."""


class Stopped(Exception):
    """Raised by a program in the middle of a generation."""


class Subject:
    """A target, with what was done to it, and the cache that is on it."""

    def __init__(self, kind: str, log: tuple[str, ...] = ()) -> None:
        self.kind, self.log = kind, log
        self.target = changed(kind, log)
        self.cache: Cache | None = None
        self.patch: autocache.Patch | None = None

    @property
    def enabled(self) -> bool:
        return self.patch is not None and self.patch.enabled

    @property
    def held(self) -> int:
        """Bytes that the cache keeps."""
        return 0 if self.patch is None else self.patch.stats().bytes_held

    def put_on(self, cache: Cache) -> None:
        self.patch = cache.on(self.target)
        self.cache = cache

    def take_off(self) -> None:
        autocache.unpatch(self.target)
        self.cache = self.patch = None

    def through(self, own: Any) -> Subject:
        """The same, with something else to call."""
        other = copy.copy(self)
        other.target = own
        return other

    def switch(self, on: bool) -> None:
        if self.patch is not None:
            self.patch.enabled = on


@dataclass(frozen=True)
class Outcome:
    """What came of a generation."""

    made: torch.Tensor | None
    error: tuple[type[BaseException], str] | None
    ran: dict[str, int]
    """Blocks and attention modules that really ran."""
    counted: dict[str, int] | None
    """What the stats say of it; None without a cache that was there all the time."""
    held: int

    def same_as(self, other: Outcome) -> bool:
        both = self.made is not None and other.made is not None
        return (
            (torch.equal(self.made, other.made) if both else self.made is other.made)
            and self.error == other.error
            and self.ran == other.ran
            and self.counted == other.counted
        )


def perform(subject: Subject, asked: Generation, script: Script = ()) -> Outcome:
    """A generation during which a script is followed. What is raised is a part of the outcome if
    the script, or autocache, raised it."""
    patch, before = subject.patch, _counts(subject.patch)
    made, error = None, None
    with _running(subject, script) as ran:
        try:
            made = generate(subject.target, asked, lambda _, step: _act(subject, script, step))
        except (Stopped, KeyboardInterrupt, AutocacheError) as raised:
            if isinstance(raised, KeyboardInterrupt) and not raised.args:
                raise  # Someone's real one.
            error = type(raised), str(raised)
    resets = any(what == "reset" for _, what in script)
    counted = None
    if patch is not None and subject.patch is patch and not resets:
        counted = {name: count - before[name] for name, count in _counts(patch).items()}
        if len(patch.denoisers) > 1:
            # Each counts its own, of which the stats tell the most: a generation that only some
            # of them had a part in may not show.
            del counted["generations"]
    return Outcome(made, error, dict(ran), counted, subject.held)


def _counts(patch: autocache.Patch | None) -> dict[str, int]:
    if patch is None:
        return {}
    stats = patch.stats()
    return {
        "generations": stats.generations,
        "passes": stats.passes,
        "denoiser": stats.denoiser.run,
        "block": stats.blocks.run,
        "attention": stats.attention.run,
        "of attention": stats.attention.total,
    }


def _act(subject: Subject, script: Script, step: int) -> None:
    for at, what in script:
        if at == step and what != "stop in a block":
            _do(subject, what)


def _do(subject: Subject, what: Any) -> None:
    if isinstance(what, Cache):
        subject.put_on(what)
    elif what in ("enable", "disable"):
        subject.switch(what == "enable")
    elif what == "reset" and subject.patch is not None:
        subject.patch.reset()
    elif what == "take off":
        subject.take_off()
    elif what == "collect":
        gc.collect()
    elif what == "copy":
        copy.deepcopy(subject.target)
    elif what == "interrupt" and not is_bare(subject.target):
        subject.target._interrupt = True
    elif what == "stop":
        raise Stopped("between two steps")
    elif what == "ctrl-c":
        raise KeyboardInterrupt("between two steps")


@contextlib.contextmanager
def _running(subject: Subject, script: Script) -> Iterator[Counter[str]]:
    """Counts what runs; raises in the block that the script says."""
    ran: Counter[str] = Counter()
    failing = [at for at, what in script if what == "stop in a block"]

    def watch(module: nn.Module, sort: str) -> Any:
        def hook(*_: Any) -> None:
            ran[sort] += 1
            if sort == "block" and ran[sort] - 1 in failing:
                raise Stopped("in a block")

        return module.register_forward_hook(hook)

    handles = [watch(module, sort) for sort, module in blocks(subject.target)]
    try:
        yield ran
    finally:
        for handle in handles:
            handle.remove()


_outcomes: dict[tuple, Outcome] = {}


def expected(
    subject: Subject, enabled: bool, cache: Cache | None, asked: Generation, script: Script
) -> Outcome:
    """The outcome on a target to which nothing happened but the same changes and the same cache."""
    log = tuple(name for name in subject.log if not CHANGES[name].exact)
    key = (subject.kind, log, cache, enabled, asked, script)
    if key not in _outcomes:
        fresh = Subject(subject.kind, log)
        if cache is not None:
            fresh.put_on(cache)
            fresh.switch(enabled)
        _outcomes[key] = perform(fresh, asked, script)
        fresh.take_off()
    return _outcomes[key]


_calls: dict[tuple, torch.Tensor] = {}


def expected_call(subject: Subject, seed: int) -> torch.Tensor:
    """What a single call makes on a target without a cache to which the same was done."""
    log = tuple(name for name in subject.log if not CHANGES[name].exact)
    key = subject.kind, log, seed
    if key not in _calls:
        _calls[key] = call(changed(subject.kind, log), seed)
    return _calls[key]


def called(subject: Subject, seed: int) -> torch.Tensor | str:
    """What a single call makes, or the words with which a memory limit refuses it."""
    try:
        return call(subject.target, seed)
    except MemoryLimitError as error:
        return str(error)


def called_afresh(subject: Subject, seed: int) -> torch.Tensor | str:
    """The same of a target to which nothing happened but the same changes and the same cache."""
    assert subject.cache is not None
    fresh = Subject(subject.kind, subject.log)
    fresh.put_on(subject.cache)
    fresh.switch(subject.enabled)
    made = called(fresh, seed)
    fresh.take_off()
    return made


def _anatomy(module: nn.Module) -> str:
    """Its class, its attributes, and how many hooks of each sort it has. A model that was saved
    while patched has two that do nothing, in place of ours."""
    kept = {key: hooks for key, hooks in vars(module).items() if "_hooks" in key}
    idle = {
        number
        for hooks in kept.values()
        for number, hook in hooks.items()
        if isinstance(getattr(hook, "__self__", None), contextlib.nullcontext)
    }
    counts = {key: len(set(hooks) - idle) for key, hooks in kept.items() if set(hooks) - idle}
    # Without the place of diffusers' own hooks, which is made in the first call.
    names = sorted(set(vars(module)) - {"_diffusers_hook"})
    return f"{type(module)} {id(type(module))} {names} {counts}"


def anatomy(target: Any) -> dict[str, str]:
    """Everything that a patch could leave on the modules of a target."""
    return {
        f"{number}.{name}": _anatomy(module)
        for number, model in enumerate(denoisers(target))
        for name, module in model.named_modules()
    }


_anatomies: dict[tuple, dict[str, str]] = {}


def expected_anatomy(kind: str, log: tuple[str, ...]) -> dict[str, str]:
    """That of a target that was never patched, and to which the same was done."""
    if (kind, log) not in _anatomies:
        _anatomies[kind, log] = anatomy(changed(kind, log))
    return _anatomies[kind, log]
