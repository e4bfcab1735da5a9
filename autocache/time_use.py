"""Where the time of a pipeline's calls went."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autocache.runtime.pipeline_call import Phase
    from autocache.runtime.totals import Totals

PHASES = ("before", "between", "after")


@dataclass(frozen=True)
class ComponentTime:
    """Host seconds in a component that is no denoiser, such as `text_encoder` or `vae.decode`.

    `phase` is "before" the first call of a denoiser, "between" such calls, or "after" the last.
    """

    name: str
    phase: Phase
    seconds: float


@dataclass(frozen=True)
class TimeUse:
    """Host time in seconds, summed over the pipeline's calls that ended without an error.

    `call` is the whole call and the sum of the others: `denoiser`, in the calls of the denoiser;
    `before` the first of them (text encoder, encoding of images, loading of weights); `between`
    them (scheduler, ControlNet, callbacks); and `after` the last (VAE, post-processing). All are
    None where no pipeline was called, as when a model is run by a loop of one's own. On an
    accelerator that runs asynchronously the host waits later than the work is done, mostly `after`.

    `components` are what took the time outside of the denoiser, the longest first in each phase, as
    far as the pipeline calls them by themselves or by `encode` and `decode`; moving their weights
    for it is a part of that.
    """

    call: float | None = None
    denoiser: float | None = None
    before: float | None = None
    between: float | None = None
    after: float | None = None
    components: tuple[ComponentTime, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """By name, ready for JSON."""
        return dataclasses.asdict(self)


def of(totals: Sequence[Totals]) -> TimeUse:
    """That of the pipeline whose denoisers these are. Each of them counted the same calls."""
    found = max(totals, key=lambda one: one.call)
    if not found.pipeline_calls:
        return TimeUse()
    between = found.call - found.before - found.denoiser - found.after
    parts = [ComponentTime(name, phase, took) for (phase, name), took in found.others.items()]
    parts.sort(key=lambda part: (PHASES.index(part.phase), -part.seconds))
    return TimeUse(found.call, found.denoiser, found.before, between, found.after, tuple(parts))
