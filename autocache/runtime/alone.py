"""Nothing of a model is changed while a call of it is under way."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from autocache.errors import ConcurrencyError
from autocache.runtime import stacks

if TYPE_CHECKING:
    from autocache.runtime.session import Session

changing = threading.RLock()
"""Held by whoever patches or unpatches. One for all: who takes several could meet another."""


class Gate:
    """Where the calls of one denoiser wait while its patch is put on or taken off."""

    def __init__(self) -> None:
        self.closed = False

    def wait(self) -> None:
        """Wait until it is open again."""
        with changing:
            pass


@contextlib.contextmanager
def only(sessions: Sequence[Session]) -> Iterator[None]:
    """No call of these denoisers is under way, and none begins meanwhile.

    Raises:
        ConcurrencyError: one is under way.
    """
    with changing:
        before = [session.gate.closed for session in sessions]
        for session in sessions:
            session.gate.closed = True
        try:
            for session in sessions:
                _refuse_busy(session)
            yield
        finally:
            for session, closed in zip(sessions, before, strict=True):
                session.gate.closed = closed


def _refuse_busy(session: Session) -> None:
    entry = session.entry
    busy = stacks.callers(entry, Gate.wait) if entry is not None else {}
    if busy:
        others = len(busy.keys() - {threading.get_ident()})
        where = f"{others} other thread(s)" if others else "this thread"
        raise ConcurrencyError(
            f"a call of {session.label} is under way in {where}, and its patch cannot be taken off "
            "or replaced in the middle of one; nothing was changed: do so between two calls, or "
            "set Patch.enabled to False, which lets a call under way end as it began"
        )
