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

_selected: ContextVar[tuple[Scope, ...]] = ContextVar("autocache_scopes", default=())
"""Those that are selected here, the innermost last."""
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
        _selected.set((*_selected.get(), self))
        try:
            yield
            if _selected.get()[-1:] != (self,):
                raise ConcurrencyError(
                    "two requests are selected by turns, and the first was left before the second; "
                    "select a request around each step: with request.active(): ..."
                )
        finally:
            _selected.set(_without(_selected.get(), self))
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


def _without(selected: tuple[Scope, ...], scope: Scope) -> tuple[Scope, ...]:
    """The others, where the scope was left before those that were selected since; it may have been
    selected further out, too."""
    last = max((nth for nth, each in enumerate(selected) if each is scope), default=None)
    return selected if last is None else (*selected[:last], *selected[last + 1 :])


def present() -> Scope | None:
    """The one that is selected here; None for the thread's own state."""
    selected = _selected.get()
    return selected[-1] if selected and not selected[-1].closed else None


def scope_of(pipeline: Any) -> Scope | None:
    """The one that a pipeline belongs to."""
    return _of_pipelines.get(pipeline)
