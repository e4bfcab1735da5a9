"""One contestant on one model: time and operations of each step, memory, and waits."""

from __future__ import annotations

import contextlib
import itertools
from typing import Any

import torch
from gpu_device import Marks, Waits, free, peak

from autocache.errors import AutocacheError
from autocache.tuning.compute import Compute
from gpu_contestants import Contestant
from loops import Loop

SKIPPED = 0.99
"""A step that computes less than this share of the plain one's is one that skips."""


def measure(
    loop: Loop, contestant: Contestant, steps: int, device: torch.device, backend: str | None
) -> dict[str, Any]:
    """Milliseconds of each step and of the generation, operations of each step, bytes at most, and
    how often the host waits; what went wrong where it does not run.

    With a `backend` the repeated blocks are compiled, and nothing of the operations is known.
    """
    try:
        with contestant.install(loop, steps) as patch, _compiled(loop, backend):
            return _run(loop, steps, device, backend is not None, patch)
    except torch.OutOfMemoryError as error:
        return {"out_of_memory": str(error).splitlines()[0]}
    except AutocacheError as error:
        return {"does_not_apply": str(error)}
    except Exception as error:  # A peer may raise anything, and the other rows go on.
        return {"failed": f"{type(error).__name__}: {error}".splitlines()[0]}
    finally:
        free()


def _run(
    loop: Loop, steps: int, device: torch.device, compiled: bool, patch: Any
) -> dict[str, Any]:
    row: dict[str, Any] = {}
    waits = Waits(device)
    if compiled:
        # The first generation compiles, which waits too.
        loop.run(steps)
        with waits if device.type == "cuda" else contextlib.nullcontext():
            loop.run(steps)
    else:
        row["operations"] = operations(loop, steps, waits)
    marks = Marks(device)
    with peak(device) as memory:
        loop.run(steps, marks.set)
    row["milliseconds"] = [round(one, 4) for one in marks.milliseconds()]
    row["total_ms"] = round(sum(row["milliseconds"]), 4)
    row["waits"] = waits.count
    if "peak" in memory:
        row["bytes_peak"] = memory["peak"]
    if patch is not None:
        row["bytes_kept"] = patch.stats().bytes_peak
    return row


def operations(loop: Loop, steps: int, waits: Waits) -> list[int]:
    """Of each step: two for each multiplication that its matrix products and attention made."""
    seen: list[int] = []
    with Compute([loop.model]) as compute, waits:
        loop.run(steps, lambda: seen.append(compute.spent))
    return [after - before for before, after in itertools.pairwise(seen)]


@contextlib.contextmanager
def _compiled(loop: Loop, backend: str | None) -> Any:
    if backend is None:
        yield
        return
    model: Any = loop.model
    model.compile_repeated_blocks(backend=backend, dynamic=False)
    try:
        yield
    finally:
        for module in model.modules():
            module._compiled_call_impl = None
        torch.compiler.reset()
