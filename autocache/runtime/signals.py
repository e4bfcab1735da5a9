"""What diffusers says while it runs: timesteps set, step taken, guidance branch named.

Methods are wrapped on the class, never on the instance: pipelines deep-copy their scheduler in
every generation, and a wrapper in its `__dict__` cannot be copied. The wrappers act only for
schedulers that a patched pipeline holds, and go with the last patch.
"""

from __future__ import annotations

import functools
import sys
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from autocache.errors import PatchError
from autocache.runtime import components, runs
from autocache.runtime.changes import ALTERING
from autocache.runtime.intercept import original_class
from autocache.runtime.schedulers import SCHEDULER, has_denoiser
from autocache.runtime.wrapping import Wrapping

if TYPE_CHECKING:
    from autocache.runtime.session import Session
    from autocache.runtime.track import Track

HOOKS = "diffusers.hooks._helpers"
"""Where diffusers keeps what its guiders know of blocks; its denoisers import it."""

_sessions: tuple[weakref.ref[Session], ...] = ()
"""Replaced and never changed: a model may be collected, and its session go, in any loop over it."""
_changing = threading.RLock()
_heard: set[type] = set()
"""Classes of schedulers that are heard."""
_wrapped: dict[tuple[type, str], Wrapping] = {}


def listening() -> list[Session]:
    """The sessions that signals are passed on to."""
    return [session for known in _sessions if (session := known()) is not None]


def beside(session: Session) -> list[Session]:
    """The sessions of the other denoisers that a pipeline of this one runs."""
    own = set(map(id, session.pipelines))
    others = (other for other in listening() if other is not session)
    return [other for other in others if own & set(map(id, other.pipelines))]


def _holding(scheduler: object) -> list[Session]:
    """The sessions that a scheduler speaks to: where it is known which pipeline uses it now, of
    several that have it in common, those of that one."""
    found = [session for session in listening() if session.holds(scheduler)]
    run = runs.innermost() if found else None
    if run is not None and run.holds(scheduler):
        return [session for session in found if has_denoiser(run.pipeline, session.model)]
    return found


def _set_timesteps(wrapped: Callable, instance: Any, args: tuple, kwargs: dict) -> Any:
    holding = _holding(instance)
    if holding and not runs.check(instance):
        for session in holding:
            session.enter(instance)
    # Two experts share one scheduler: what the first asks for goes for both.
    for session in holding[:1]:
        args, kwargs = session.timesteps(instance, args, kwargs)
    result = wrapped(*args, **kwargs)
    for session in holding[:1]:
        session.arrange(instance)
    for session in holding:
        session.announced(instance)
    return result


def _set_begin_index(wrapped: Callable, instance: Any, args: tuple, kwargs: dict) -> Any:
    result = wrapped(*args, **kwargs)
    for session in _holding(instance):
        session.begins_at(instance.begin_index)
    return result


def _step(owner: type | None, wrapped: Callable, instance: Any, args: tuple, kwargs: dict) -> Any:
    start = getattr(instance, "step_index", None)
    # A subclass that calls `super().step` is heard once, as itself.
    holding = _holding(instance) if _owner(type(instance), "step") is owner else []
    if holding and not runs.check(instance):
        for session in holding:
            session.admit(instance)
    for session in holding:
        args, kwargs = session.stepping(instance, args, kwargs)
    try:
        result = wrapped(*args, **kwargs)
    except BaseException:
        for session in holding:
            session.track.forget()
        raise
    for session in holding:
        session.step_ended(_sample(result), start, getattr(instance, "step_index", None))
    return result


def _generate(
    owner: type | None, wrapped: Callable, instance: Any, args: tuple, kwargs: dict
) -> Any:
    # A subclass that calls `super().__call__` is heard once, as itself.
    if _owner(type(instance), "__call__") is not owner:
        return wrapped(*args, **kwargs)
    serving = [s for s in listening() if s.serves(instance)]
    names = {session.scheduler_name(instance) for session in serving}
    if not serving:
        # It may have its scheduler in common with one that is patched.
        names = {name for name in vars(instance) if name.endswith(SCHEDULER)}
        if not any(_holding(getattr(instance, name)) for name in names):
            return wrapped(*args, **kwargs)
    with runs.under_way(instance, names) as call:
        for session in serving:
            session.started()
        try:
            with components.timed(instance, [session.model for session in serving]):
                result = wrapped(*args, **kwargs)
            if call is not None and call.end():
                for session in serving:
                    if session.enabled:
                        session.totals.add_call(call)
            return result
        finally:
            # A callback may have patched it meanwhile.
            patched_since = [s for s in listening() if s.serves(instance)]
            for session in dict.fromkeys([*serving, *patched_since]):
                session.finished()


def _sample(result: Any) -> Any:
    """The latent a scheduler's step returns, as a tuple's first item or by name."""
    return result[0] if isinstance(result, tuple) else getattr(result, "prev_sample", None)


def _progress_bar(wrapped: Callable, instance: Any, args: tuple, kwargs: dict) -> Any:
    bar = wrapped(*args, **kwargs)
    run = runs.innermost()
    if run is not None:
        run.call.shows(bar)
    return bar


def _cache_context(wrapped: Callable, instance: Any, args: tuple, kwargs: dict) -> Any:
    named = kwargs.get("name", args[0] if args else None)
    here = threading.get_ident()
    tracks = []
    for session in listening():
        if session.model is instance:
            track = session.track
            # A call that belongs to no pipeline is refused where one is under way elsewhere.
            if track.caller.runner in (0, here):
                tracks.append(track)
    context = wrapped(*args, **kwargs)
    return _Named(context, tracks, named, kwargs.get("sigma")) if tracks else context


class _Named:
    """A `cache_context` of diffusers, and within it the guidance branch that it names."""

    def __init__(
        self, context: Any, tracks: list[Track], name: str | None, sigma: float | None
    ) -> None:
        self.context, self.tracks, self.name, self.sigma = context, tracks, name, sigma

    def __enter__(self) -> Any:
        value = self.context.__enter__()
        for track in self.tracks:
            track.clock.context, track.sigma = self.name, self.sigma
        return value

    def __exit__(self, *error: Any) -> Any:
        for track in self.tracks:
            track.clock.context = track.sigma = None
        return self.context.__exit__(*error)


def _enable_cache(wrapped: Callable, instance: Any, args: tuple, kwargs: dict) -> Any:
    if any(session.model is instance for session in listening()):
        raise PatchError(
            f"{type(instance).__name__} is patched by autocache, and diffusers' own cache cannot "
            "be stacked on it; call autocache.unpatch(model) first, or do without enable_cache()"
        )
    return wrapped(*args, **kwargs)


def _altering(wrapped: Callable, instance: Any, args: tuple, kwargs: dict) -> Any:
    for session in listening():
        if session.model is instance or instance in session.pipelines:
            session.altered()
    return wrapped(*args, **kwargs)


def _block_facts(wrapped: Callable, instance: Any, args: tuple, kwargs: dict) -> Any:
    """Guiders that leave layers out look blocks up by their class, which is another one now."""
    return wrapped(*map(original_class, args), **kwargs)


def _owner(cls: type, method: str) -> type | None:
    """The class that a method comes from."""
    return next((base for base in cls.__mro__ if method in vars(base)), None)


def _wrap(owner: type | None, method: str, wrapper: Callable) -> bool:
    """Wrap a method once; False when there is nothing to do."""
    with _changing:
        if owner is None or (owner, method) in _wrapped or not hasattr(owner, method):
            return False
        _wrapped[owner, method] = Wrapping(owner, method, wrapper)
        return True


def listen(session: Session) -> None:
    """Begin to pass signals on to a session."""
    global _sessions
    with _changing:
        _sessions = (*_others(session), weakref.ref(session))
    owner = _owner(type(session.model), "cache_context")
    blocks = getattr(sys.modules.get(HOOKS), "TransformerBlockRegistry", None)
    _wrap(blocks, "get", _block_facts)
    _wrap(owner, "cache_context", _cache_context)
    _wrap(owner, "enable_cache", _enable_cache)
    hear_changes(session.model)


def is_heard_by(session: Session) -> bool:
    """Whether signals are passed on to a session."""
    return session in listening()


def hear_changes(owner: object) -> None:
    """Begin to hear what changes a denoiser, by its own methods or by its pipeline's."""
    for name in ALTERING:
        _wrap(_owner(type(owner), name), name, _altering)


def hear_calls(pipeline: object) -> None:
    """Begin to hear when pipelines of this one's class are called, when that is over, and which
    bar shows how far it is."""
    _wrap(_owner(type(pipeline), "progress_bar"), "progress_bar", _progress_bar)
    calls = _owner(type(pipeline), "__call__")
    _wrap(calls, "__call__", functools.partial(_generate, calls))


def hear(scheduler: object) -> bool:
    """Begin to hear schedulers of this one's class; False when they are heard already."""
    if type(scheduler) in _heard:
        return False
    with _changing:
        steps = _owner(type(scheduler), "step")
        _wrap(steps, "step", functools.partial(_step, steps))
        begins = _owner(type(scheduler), "set_begin_index")
        _wrap(begins, "set_begin_index", _set_begin_index)
        new = _wrap(_owner(type(scheduler), "set_timesteps"), "set_timesteps", _set_timesteps)
        # Last: whoever finds it here does not look whether it is so.
        _heard.add(type(scheduler))
    return new


def catch_up(scheduler: Any) -> None:
    """Hear a scheduler that came after the patch, and make up for what it announced unheard."""
    if hear(scheduler) and getattr(scheduler, "timesteps", None) is not None:
        for session in _holding(scheduler):
            session.announced(scheduler)


def silence(session: Session | None) -> None:
    """Pass no more on to a session or any that is gone; with the last one every wrapper goes."""
    global _sessions
    with _changing:
        _sessions = _others(session)
        if not _sessions:
            _heard.clear()
        while _wrapped and not _sessions:
            _wrapped.popitem()[1].off()


def _others(session: Session | None) -> tuple[weakref.ref[Session], ...]:
    return tuple(weakref.ref(known) for known in listening() if known is not session)
