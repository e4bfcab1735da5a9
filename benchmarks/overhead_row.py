"""What one method adds to a step of one model: time, waits for the device, and memory."""

from __future__ import annotations

import gc
import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from gpu_device import Waits

from dispatched import Dispatched
from gpu_contestants import Contestant
from gpu_row import SKIPPED, operations
from loops import Loop
from work import Counted

CPU = torch.device("cpu")
USUAL = slice(3, -1)
"""The steps that count: the first ones settle what the others go by, the last one keeps nothing."""
GENERATIONS = 2
"""That are timed in one turn, after one in which the interpreter specialises its code."""


def kinds(loop: Loop, contestant: Contestant, steps: int) -> list[str]:
    """Of each step whether it was "computed" or "skipped", by what was multiplied in it."""
    plain = operations(loop, steps, Waits(CPU))
    with contestant.install(loop, steps):
        spent = operations(loop, steps, Waits(CPU))
    pairs = zip(spent, plain, strict=True)
    return ["skipped" if own < SKIPPED * whole else "computed" for own, whole in pairs]


def waits(loop: Loop, contestant: Contestant, steps: int, kinds: list[str]) -> dict[str, float]:
    """How often most steps of a kind read a number off a tensor, for which a GPU is waited for."""
    counts: list[int] = []
    with contestant.install(loop, steps), Waits(CPU) as seen:
        loop.run(steps, lambda: counts.append(seen.so_far))
    return _by_kind([_between(counts)], kinds, lambda seen: min(statistics.multimode(seen)))


def work(
    loop: Loop, contestant: Contestant, steps: int, kinds: list[str]
) -> dict[str, dict[str, int]]:
    """Python instructions and torch operations of most steps of each kind, whoever they are of."""
    with contestant.install(loop, steps):
        # The interpreter's caches, and whatever is made once, are there after the first one.
        loop.run(steps)
        seen: list[int] = []
        with Counted(everything=True) as counted:
            loop.run(steps, lambda: seen.append(counted.work.instructions))
        calls: list[int] = []
        with Dispatched() as operations:
            loop.run(steps, lambda: calls.append(operations.count))
    usual = [
        _by_kind([_between(counts)], kinds, lambda found: min(statistics.multimode(found)))
        for counts in (seen, calls)
    ]
    return {
        kind: {"instructions": usual[0][kind], "operations": usual[1][kind]} for kind in usual[0]
    }


def held(loop: Loop, contestant: Contestant, steps: int) -> int:
    """Bytes of tensors that are there between two steps, at most, and are not at the same place of
    the plain loop."""

    def between() -> list[int]:
        found: list[int] = []
        loop.run(steps, lambda: found.append(_bytes()))
        return found

    gc.collect()
    # What is there before is looked through neither by the collector nor here: it is a million
    # objects.
    gc.freeze()
    try:
        loop.run(steps)
        plain = between()
        with contestant.install(loop, steps):
            return max(own - usual for own, usual in zip(between(), plain, strict=True))
    finally:
        gc.unfreeze()


def _bytes() -> int:
    gc.collect()
    storages = {}
    for one in gc.get_objects():
        if issubclass(type(one), torch.Tensor):
            storage = one.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def seconds(
    loop: Loop, contestant: Contestant, steps: int, kinds: list[str]
) -> tuple[float, dict[str, float]]:
    """Processor time of a step: the plain one, and each kind of the method's own, in one turn."""
    plain = _timed(loop, steps)
    with contestant.install(loop, steps):
        own = _timed(loop, steps)
    return statistics.median(itertools.chain(*plain)), _by_kind(own, kinds, statistics.median)


def _timed(loop: Loop, steps: int) -> list[list[float]]:
    """Of each generation each step."""
    loop.run(steps)
    found = []
    for _ in range(GENERATIONS):
        marks: list[float] = []
        # Of this thread: what else the machine does is not in it.
        loop.run(steps, lambda marks=marks: marks.append(time.thread_time()))
        found.append(_between(marks))
    return found


def _between(marks: list[Any]) -> list[Any]:
    return [end - start for start, end in itertools.pairwise(marks)]


def _by_kind(
    generations: list[list[Any]], kinds: list[str], what: Callable[[list[Any]], float]
) -> dict[str, Any]:
    return {kind: what(several) for kind, several in usual(generations, kinds).items()}


def usual(generations: list[list[Any]], kinds: list[str]) -> dict[str, list[Any]]:
    """Of what each step of each generation has, that of the usual steps, by their kind."""
    found: dict[str, list[Any]] = {}
    for steps in generations:
        for one, kind in list(zip(steps, kinds, strict=True))[USUAL]:
            found.setdefault(kind, []).append(one)
    return found
