"""What is on the stacks of the threads. Looked up where nothing else tells, and rarely."""

from __future__ import annotations

import inspect
import sys
from collections import Counter
from types import FrameType
from typing import Any

from torch import nn

Line = tuple[int, ...]
"""The calls that can be suspended which the present one is made from: the task, then generators."""

_GENERATOR = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR
_SUSPENDED = _GENERATOR | inspect.CO_COROUTINE | inspect.CO_ITERABLE_COROUTINE

_module_call: Any = nn.Module.__call__


def line() -> Line:
    """Which generators and which task the caller runs in; two that take turns differ in it.

    Of coroutines only the outermost counts: those that it awaits come and go within one task.
    """
    task, generators = 0, []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_flags & _SUSPENDED:
            if frame.f_code.co_flags & _GENERATOR:
                generators.append(id(frame))
            else:
                task = id(frame)
        frame = frame.f_back
    return (task, *reversed(generators))


def related(one: Line, other: Line) -> bool:
    """Whether one of them is made from within the other."""
    return all(a == b for a, b in zip(one, other, strict=False))


def callers(model: nn.Module, aside: Any = None) -> Counter[int]:
    """The threads that are inside calls of a model: how many such calls, by the thread's number.

    A thread that waits in the function `aside` is outside. Of a model that was given to
    torch.compile, `model` is what came out, which is what is called.
    """
    found: Counter[int] = Counter()
    frames: dict[int, FrameType] = sys._current_frames()
    # Taken out one by one: a frame that refers to itself would keep all that its callers hold.
    while frames:
        thread, top = frames.popitem()
        frame: FrameType | None = top
        del top
        while frame is not None:
            if aside is not None and frame.f_code is aside.__code__:
                break
            is_call = frame.f_code is _module_call.__code__
            found[thread] += is_call and frame.f_locals.get("self") is model
            frame = frame.f_back
    return +found
