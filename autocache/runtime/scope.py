"""Whose state the present calls use: the thread's own, or that of one request."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from autocache.errors import ConcurrencyError

if TYPE_CHECKING:
    from autocache.runtime.track import Here, Track

_present: ContextVar[Scope | None] = ContextVar("autocache_scope", default=None)
_of_pipelines: weakref.WeakKeyDictionary[Any, Scope] = weakref.WeakKeyDictionary()


class Scope:
    """The state of one request: a way of its own through every denoiser that it comes to."""

    def __init__(self) -> None:
        self._tracks: weakref.WeakKeyDictionary[Here, Track] = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()
        self.closed = False

    def track(self, here: Here) -> Track:
        """Its way through one denoiser."""
        with self._lock:
            track = self._tracks.get(here)
            if track is None:
                track = self._tracks[here] = here.tracks.new()
                track.requested = True
            return track

    def owns(self, pipeline: Any) -> None:
        """Calls of a pipeline use this state wherever they come from."""
        _of_pipelines[pipeline] = self

    @contextlib.contextmanager
    def selected(self) -> Iterator[None]:
        """Calls made within, in this thread or task, use this state.

        Raises:
            ConcurrencyError: it is left while another one, selected since, has not been.
        """
        with self._lock:
            for track in self._tracks.values():
                track.caller.forget()
        before = _present.get()
        _present.set(self)
        try:
            yield
            if _present.get() is not self:
                raise ConcurrencyError(
                    "two requests are selected by turns, and the first was left before the second; "
                    "select a request around each step: with request.active(): ..."
                )
        finally:
            if _present.get() is self:
                _present.set(before)
            self._leave()

    def _leave(self) -> None:
        """A call of its own that broke off inside another one is over."""
        with self._lock:
            tracks = list(self._tracks.items())
        for here, track in tracks:
            here.resume(track)

    def close(self) -> None:
        """Free what it holds; calls use the thread's state from then on."""
        self.closed = True
        with self._lock:
            tracks = list(self._tracks.values())
            self._tracks.clear()
        for track in tracks:
            track.forget()

    def __del__(self) -> None:
        # A thread keeps the way that its latest call was on.
        self.close()


def present() -> Scope | None:
    """The one that is selected here; None for the thread's own state."""
    scope = _present.get()
    return None if scope is None or scope.closed else scope


def scope_of(pipeline: Any) -> Scope | None:
    """The one that a pipeline belongs to."""
    return _of_pipelines.get(pipeline)
