"""One call of a pipeline: how long it took, and the bar that shows how far it is."""

from __future__ import annotations

import time
import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autocache.runtime.record import StepRecord


class PipelineCall:
    """Host time of a pipeline's call, in seconds, and of what it did in its denoisers."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._first: float | None = None
        self._last = self._ended = self._began
        self.denoiser = 0.0
        self._bar: weakref.ref[Any] | None = None
        self._calls = self._computed = 0

    def shows(self, bar: Any) -> None:
        """Its bar is this one, from now on."""
        # What is no tqdm may have no place for it, or not bear a weak reference.
        if callable(getattr(bar, "set_postfix_str", None)):
            self._bar, self._calls, self._computed = weakref.ref(bar), 0, 0

    def denoised(self, record: StepRecord, started: float) -> None:
        """A call of a denoiser that was `started` at this time is over now."""
        self._first = started if self._first is None else self._first
        self._last = started + record.seconds
        self.denoiser += record.seconds
        bar = self._bar() if self._bar is not None else None
        if bar is None:
            return
        self._calls += 1
        self._computed += record.action == "computed"
        # Shown when the bar is drawn next, which its pipeline sees to at the end of the step.
        bar.set_postfix_str(f"computed {self._computed / self._calls:.0%}", refresh=False)

    def end(self) -> bool:
        """The call is over; whether a denoiser was called in it."""
        self._ended = time.perf_counter()
        return self._first is not None

    @property
    def seconds(self) -> float:
        return self._ended - self._began

    @property
    def before(self) -> float:
        return (self._first or self._began) - self._began

    @property
    def after(self) -> float:
        return self._ended - self._last
