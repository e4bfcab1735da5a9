"""Several generations at a time, stopped and let go where it hurts most."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from pipelines.tiny_pipelines import FEED_FORWARD, denoisers
from torch import nn

PATIENCE = 60.0
"""Seconds after which a thread that never comes fails the test."""


@contextlib.contextmanager
def switching_often() -> Iterator[None]:
    """Threads take turns every few bytecodes, and not every few milliseconds."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def at_once(*tasks: Callable[[], Any]) -> list[Any]:
    """What the tasks return, each run in a thread of its own, all begun together."""
    together = threading.Barrier(len(tasks), timeout=PATIENCE)

    def begin(task: Callable[[], Any]) -> Any:
        together.wait()
        return task()

    with ThreadPoolExecutor(len(tasks)) as pool:
        return [done.result(PATIENCE) for done in [pool.submit(begin, task) for task in tasks]]


@contextlib.contextmanager
def blocks_run(target: Any) -> Iterator[Counter[int]]:
    """Blocks that really ran, by the thread that ran them."""
    counts: Counter[int] = Counter()

    def count(*_: Any) -> None:
        counts[threading.get_ident()] += 1

    inside = [
        module.get_submodule(FEED_FORWARD[type(module).__name__])
        for model in denoisers(target)
        for module in model.modules()
        if type(module).__name__ in FEED_FORWARD
    ]
    handles = [module.register_forward_hook(count) for module in inside]
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()


class Held:
    """A thread that is stopped as it comes through a module for the `nth` time, until let go."""

    def __init__(self, module: nn.Module, nth: int = 1) -> None:
        self._module = module
        self._left = nth
        self._there, self._go = threading.Event(), threading.Event()
        self._result: Any = None
        self._error: BaseException | None = None

    def __call__(self, task: Callable[[], Any]) -> Held:
        """Begin a task in a thread of its own; returns once that is stopped."""
        self._thread = threading.Thread(target=self._run, args=(task,))
        self._thread.start()
        assert self._there.wait(PATIENCE)
        assert self._thread.is_alive(), self._error or "it never came there"
        return self

    def _run(self, task: Callable[[], Any]) -> None:
        here = threading.get_ident()

        def stop(*_: Any) -> None:
            if threading.get_ident() != here:
                return
            self._left -= 1
            if self._left == 0:
                self._there.set()
                assert self._go.wait(PATIENCE)

        opaque: Any = torch.compiler.disable(stop)
        handle = self._module.register_forward_hook(opaque)
        try:
            self._result = task()
        except BaseException as error:
            self._error = error
        finally:
            handle.remove()
            self._there.set()

    def let_go(self) -> Any:
        """What the task returned; raises what it raised."""
        self._go.set()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        if self._error is not None:
            raise self._error
        return self._result


def same(one: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> bool:
    """Whether two lists of tensors are equal, bit for bit."""
    return len(one) == len(other) and all(map(torch.equal, one, other))
