"""What a tuning was done under, as a profile keeps it."""

from __future__ import annotations

import os
import platform
from typing import TYPE_CHECKING, Any

from autocache.errors import AutocacheError
from autocache.tuning.made_for import MadeFor
from autocache.tuning.trajectory import record

if TYPE_CHECKING:
    from autocache.tuning.workload import Workload


def conditions(workload: Workload) -> MadeFor:
    """The pipeline as the workload runs it, looked at while it draws the first input."""
    try:
        one = record(workload.among(0, 1))[0]
    except AutocacheError:  # Its steps cannot be followed: what the pipeline says has to do.
        return MadeFor.of(workload.pipe)
    step = one.steps[-1]
    sizes = {output.shape[0] / step.given.shape[0] for output in step.outputs.values()}
    parts = sizes.pop() if len(sizes) == 1 else 0.0
    return MadeFor.of(
        workload.pipe,
        steps=len(one.steps),
        latents=one.shapes,
        calls=len(step.outputs),
        parts=int(parts) if parts.is_integer() and parts else None,
    )


def machine(pipe: Any) -> str:
    """The machine in words."""
    kind = getattr(getattr(pipe, "device", None), "type", "cpu")
    return f"{kind}, {platform.machine()} with {os.cpu_count()} cores"
