"""Requests: several generations at a time on one patched pipeline or model."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

from torch import nn

from autocache.errors import ConcurrencyError, PatchError
from autocache.planning import sessions_of
from autocache.runtime.scope import Scope
from autocache.runtime.session import Session
from autocache.targets import describe


class Request:
    """The caching state of one generation at a time, and what to call for it.

    As a context manager it is selected within the block and closed at its end; what comes out is
    `target`. Where its steps take turns with those of others, in generators or tasks, select it
    around each of them with `active()` and close it at the end.
    """

    def __init__(self, target: Any, scope: Scope) -> None:
        self.target = target
        """What to call: the request's own pipeline, or the model, which is shared."""
        self._scope = scope
        self._entered = contextlib.ExitStack()

    @property
    def closed(self) -> bool:
        """Whether it was closed: calls use the thread's own state then."""
        return self._scope.closed

    def active(self) -> contextlib.AbstractContextManager[None]:
        """Calls made within, in this thread or asyncio task, use this request's state.

        The block may hold one step or many, in any thread, and be entered again for each. Between
        two generators that take turns it must not stay entered over a `yield`.

        Raises:
            ConcurrencyError: the request is closed; or, from calls within, they come from several
                generators or tasks by turns.
        """
        if self.closed:
            raise ConcurrencyError("this request is closed; make another with autocache.request")
        return self._scope.selected()

    def close(self) -> None:
        """Free what it holds. Doing so twice is allowed."""
        self._scope.close()

    def __enter__(self) -> Any:
        self._entered.enter_context(self.active())
        return self.target

    def __exit__(self, *raised: Any) -> None:
        try:
            self._entered.__exit__(*raised)
        finally:
            self.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else "open"
        return f"<autocache request on {describe(self.target)}, {state}>"


def request(target: Any) -> Request:
    """One of several generations at a time on a patched pipeline or model.

    For a pipeline it has one of its own, of the same class: all weights are shared with the patched
    one, but the scheduler, tokenizers and the state of the loop are its own. So threads that each
    use one draw what they would draw one after another, and skip the same.

    >>> with autocache.request(pipe) as own:  # doctest: +SKIP
    ...     image = own("a red circle").images[0]

    For a model, and loops of one's own, it selects the state that calls use.

    >>> request = autocache.request(model)  # doctest: +SKIP
    >>> with request.active():  # around each step, in whatever thread  # doctest: +SKIP
    ...     model(latents, timestep)

    It may be used for any number of generations, one at a time.

    Raises:
        PatchError: the target is not patched, or a part of the pipeline cannot be copied.
    """
    sessions = sessions_of(target)
    if not sessions:
        raise PatchError(f"{describe(target)} is not patched; call autocache.patch on it first")
    scope = Scope()
    if isinstance(target, nn.Module):
        return Request(target, scope)
    own = _own_pipeline(target, sessions)
    scope.owns(own)
    for session in sessions:
        session.attach(own)
    return Request(own, scope)


def _own_pipeline(pipeline: Any, sessions: list[Session]) -> Any:
    """A pipeline of the same class and weights, with nothing else in common that a call changes."""
    own = copy.copy(pipeline)
    denoisers = [module for s in sessions for module in (s.model, s.entry)]
    for name, part in pipeline.components.items():
        if part is None or any(part is module for module in denoisers):
            continue
        if isinstance(part, nn.Module):
            # Autoencoders of videos keep what they have seen in attributes of their own.
            _put(own, name, copy.copy(part))
        elif isinstance(part, (str, int, float, bool, tuple)):
            continue
        else:
            try:
                _put(own, name, copy.deepcopy(part))
            except Exception as error:
                raise PatchError(
                    f"{name}, a {type(part).__name__}, cannot be copied for a request: {error}"
                ) from error
    return own


def _put(pipeline: Any, name: str, part: Any) -> None:
    # Past the pipeline's own setter, which would write the same class into its config again.
    vars(pipeline)[name] = part
