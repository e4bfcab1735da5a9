"""What diffusers says while it runs: timesteps set, step taken, guidance branch named.

Methods are wrapped on the class, never on the instance: pipelines deep-copy their scheduler in every
generation, and a wrapper in its `__dict__` cannot be copied. The wrappers act only for schedulers
that a patched pipeline holds, and go with the last patch.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import wrapt

from ..errors import PatchError

if TYPE_CHECKING:
    from .session import Session

_sessions: weakref.WeakSet[Session] = weakref.WeakSet()
_wrapped: dict[tuple[type, str], Any] = {}


def _holding(scheduler: object) -> list[Session]:
    return [session for session in _sessions if session.holds(scheduler)]


def _set_timesteps(wrapped: Callable, instance: Any, args: tuple, kwargs: dict) -> Any:
    result = wrapped(*args, **kwargs)
    for session in _holding(instance):
        session.track.clock.announce(len(instance.timesteps))
    return result


def _step(wrapped: Callable, instance: Any, args: tuple, kwargs: dict) -> Any:
    result = wrapped(*args, **kwargs)
    for session in _holding(instance):
        session.step_ended()
    return result


def _cache_context(wrapped: Callable, instance: Any, args: tuple, kwargs: dict) -> Any:
    named = kwargs.get("name", args[0] if args else None)
    clocks = [session.track.clock for session in _sessions if session.model is instance]
    return _named(wrapped(*args, **kwargs), clocks, named)


@contextlib.contextmanager
def _named(context: Any, clocks: list[Any], name: str | None) -> Iterator[Any]:
    with context as value:
        for clock in clocks:
            clock.context = name
        try:
            yield value
        finally:
            for clock in clocks:
                clock.context = None


def _enable_cache(wrapped: Callable, instance: Any, args: tuple, kwargs: dict) -> Any:
    if any(session.model is instance for session in _sessions):
        raise PatchError(
            f"{type(instance).__name__} is patched by autocache, and diffusers' own cache cannot be "
            "stacked on it; call autocache.unpatch(model) first, or do without enable_cache()"
        )
    return wrapped(*args, **kwargs)


def _wrap(owner: type, method: str, wrapper: Callable) -> None:
    if (owner, method) not in _wrapped and hasattr(owner, method):
        _wrapped[owner, method] = wrapt.wrap_function_wrapper(owner, method, wrapper)


def listen(session: Session) -> None:
    """Begin to pass signals on to a session."""
    _sessions.add(session)
    owner = next((c for c in type(session.model).__mro__ if "cache_context" in vars(c)), None)
    if owner is not None:
        _wrap(owner, "cache_context", _cache_context)
        _wrap(owner, "enable_cache", _enable_cache)


def hear(scheduler: object) -> None:
    """Begin to hear schedulers of this one's class."""
    _wrap(type(scheduler), "set_timesteps", _set_timesteps)
    _wrap(type(scheduler), "step", _step)


def silence(session: Session) -> None:
    """Pass no more on to a session; with the last one every wrapper goes."""
    _sessions.discard(session)
    if _sessions:
        return
    while _wrapped:
        (owner, method), handle = _wrapped.popitem()
        wrapt.unwrap_object(owner, method, handle, missing_ok=True)
