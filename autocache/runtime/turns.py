"""Calls that come in the middle of others, or by turns with them: told, where they would share."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from autocache.errors import ConcurrencyError
from autocache.runtime import stacks

if TYPE_CHECKING:
    from autocache.runtime.session import Session
    from autocache.runtime.track import Track


def broken_off(session: Session, track: Track) -> None:
    """The call before never ended, and nobody heard of it: it was interrupted. What it left is of
    no generation any more.

    Raises:
        ConcurrencyError: it has not ended yet.
    """
    entry = session.entry
    assert entry is not None
    own = track.thread == threading.get_ident()
    if stacks.callers(entry)[track.thread] > own:
        session.here.refused = True
        raise ConcurrencyError(
            f"{session.label} is called in the middle of a call of its own, which would go on with "
            "what this one leaves; make this one for another request: with "
            "autocache.request(model): ..."
        )
    track.break_off()


def change(session: Session, track: Track, time: Callable[[], float]) -> None:
    """The call does not come from where the ones before came from.

    It may be the first of a new generation, and is computed as that. `time` reads its time.

    Raises:
        ConcurrencyError: two generations use one state by turns.
    """
    caller, clock = track.caller, track.clock
    sure = track.requested or clock.under_way
    if not sure:
        before, direction = clock.last
        told = session.spec.timestep is not None
        sure = caller.change(before if told else None, time(), direction)
        track.break_off()
    if sure:
        caller.forget()
        session.here.refused = True
        raise ConcurrencyError(
            f"several generators or tasks call {session.label} by turns, and what one left would "
            "stand in for another's; make a request = autocache.request(model) for each, and take "
            "its steps within: with request.active(): ..."
        )
