"""Where the time of a pipeline's calls went."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autocache.runtime.totals import Totals


@dataclass(frozen=True)
class TimeUse:
    """Host time in seconds, summed over the pipeline's calls that ended without an error.

    `call` is the whole call and the sum of the others: `denoiser`, in the calls of the denoiser;
    `before` the first of them (text encoder, encoding of images, loading of weights); `between`
    them (scheduler, ControlNet, callbacks); and `after` the last (VAE, post-processing). All are
    None where no pipeline was called, as when a model is run by a loop of one's own. On an
    accelerator that runs asynchronously the host waits later than the work is done, mostly `after`.
    """

    call: float | None = None
    denoiser: float | None = None
    before: float | None = None
    between: float | None = None
    after: float | None = None

    def to_dict(self) -> dict[str, float | None]:
        """By name, ready for JSON."""
        return dataclasses.asdict(self)


def of(totals: Sequence[Totals]) -> TimeUse:
    """That of the pipeline whose denoisers these are. Each of them counted the same calls."""
    found = max(totals, key=lambda one: one.call)
    if not found.pipeline_calls:
        return TimeUse()
    between = found.call - found.before - found.denoiser - found.after
    return TimeUse(found.call, found.denoiser, found.before, between, found.after)
