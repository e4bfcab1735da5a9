"""What patched models and requests that are open beside it cost a generation."""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import torch

import autocache
from loops import Loop
from scale_growth import SETTINGS, seconds
from scale_model import Size, build
from work import Counted, Work

SIZE = Size(blocks=6)
PATCH = SETTINGS[0]
Company = Callable[[Loop, int], contextlib.AbstractContextManager[Any]]


def _patch(loop: Loop) -> autocache.Patch:
    return autocache.patch(loop.pipeline, PATCH.strategy, **PATCH.parameters)


@contextlib.contextmanager
def patched_pipelines(busy: Loop, count: int) -> Iterator[None]:
    """So many other patched pipelines with models of their own, which do nothing."""
    with contextlib.ExitStack() as stack:
        # A model that nobody holds is collected, and its patch with it.
        others = [build(SIZE) for _ in range(count)]
        for other in others:
            stack.enter_context(_patch(other))
        yield


@contextlib.contextmanager
def open_requests(busy: Loop, count: int) -> Iterator[list[tuple[Loop, autocache.Request]]]:
    """So many requests on the pipeline of the loop, each with a loop of its own."""
    with contextlib.ExitStack() as stack:
        made = []
        for _ in range(count):
            request = autocache.request(busy.pipeline)
            stack.callback(request.close)
            own = request.target
            loop = dataclasses.replace(busy, pipeline=own, scheduler=own.scheduler)
            made.append((loop, request))
        yield made


COMPANY: dict[str, Company] = {
    "idle pipelines": patched_pipelines,
    "idle requests": open_requests,
}


def idle(company: Company, count: int, rounds: int) -> dict[str, float]:
    """The work of a step beside so many that do nothing, and its time as a ratio to the time
    without them."""
    busy = build(SIZE)
    ratios = []
    with _patch(busy):
        busy.run(SIZE.steps)
        with company(busy, count), Counted() as counted:
            busy.run(SIZE.steps)
        for _ in range(rounds):
            alone = statistics.median(seconds(busy, SIZE.steps))
            with company(busy, count):
                ratios.append(statistics.median(seconds(busy, SIZE.steps)) / alone)
    return {
        **_each(counted.work, SIZE.steps),
        **({"ratio": statistics.median(ratios)} if ratios else {}),
    }


@torch.no_grad()
def by_turns(count: int) -> dict[str, float]:
    """The work of each step where so many requests take theirs by turns."""
    loop = build(SIZE)
    with _patch(loop), open_requests(loop, count) as made:
        _in_turns(made)
        with Counted() as counted:
            _in_turns(made)
    return _each(counted.work, SIZE.steps * count)


def _in_turns(made: list[tuple[Loop, autocache.Request]]) -> None:
    under_way = [(loop.advance(SIZE.steps), request) for loop, request in made]
    for _ in range(SIZE.steps):
        for steps, request in under_way:
            with request.active():
                next(steps)


def _each(work: Work, steps: int) -> dict[str, float]:
    counts = {"calls": work.calls, "instructions": work.instructions}
    return {name: round(value / steps, 1) for name, value in counts.items()}
