"""One call of a pipeline: how long it took, and the bar that shows how far it is."""

from __future__ import annotations

import time
import weakref
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from autocache.runtime.record import StepRecord

Phase = Literal["before", "between", "after"]


class PipelineCall:
    """Host time of a pipeline's call, in seconds, and of what it did in its components."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._first: float | None = None
        self._last = self._ended = self._began
        self.denoiser = 0.0
        self._bar: weakref.ref[Any] | None = None
        self._calls = self._computed = 0
        self.names: dict[int, str] = {}
        """What its components are called that are no denoisers, by their `id`."""
        self._inside: list[tuple[int, str, float]] = []
        self._others: list[tuple[str, float, float]] = []

    def enter(self, module: object, method: str) -> None:
        """A component that is no denoiser is called, itself or by a method such as ".decode"."""
        name = self.names.get(id(module))
        if name is not None:
            self._inside.append((id(module), name + method, time.perf_counter()))

    def leave(self, module: object) -> None:
        """That call of it is over."""
        if not self._inside or self._inside[-1][0] != id(module):
            return
        _, name, began = self._inside.pop()
        # What one of them calls of another is its own time.
        if not self._inside:
            self._others.append((name, began, time.perf_counter() - began))

    def others(self) -> dict[tuple[Phase, str], float]:
        """Seconds of each of them, before the first call of a denoiser, between them and after."""
        found: dict[tuple[Phase, str], float] = {}
        for name, began, took in self._others:
            key = self._phase(began), name
            found[key] = found.get(key, 0.0) + took
        return found

    def _phase(self, time: float) -> Phase:
        if self._first is None or time < self._first:
            return "before"
        return "between" if time < self._last else "after"

    def shows(self, bar: Any) -> None:
        """Its bar is this one, from now on."""
        # What is no tqdm may have no place for it, or not bear a weak reference.
        if callable(getattr(bar, "set_postfix_str", None)):
            self._bar, self._calls, self._computed = weakref.ref(bar), 0, 0

    def denoised(self, record: StepRecord, started: float, dry_run: bool) -> None:
        """A call of a denoiser that was `started` at this time is over now."""
        self._first = started if self._first is None else self._first
        self._last = started + record.seconds
        self.denoiser += record.seconds
        bar = self._bar() if self._bar is not None else None
        if bar is None:
            return
        self._calls += 1
        self._computed += dry_run or record.action == "computed"
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
