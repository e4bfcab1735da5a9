"""A pipeline without its patches for a while: what is measured must not depend on them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from autocache.runtime.root import session_of
from autocache.targets import modules, uncompiled


@contextlib.contextmanager
def unpatched(pipe: Any) -> Iterator[None]:
    """Take every patch off, and put it on again at the end, whatever happened."""
    sessions = [session_of(uncompiled(module)) for _, module in modules(pipe)]
    found = [session for session in dict.fromkeys(sessions) if session is not None]
    suspended = [(session, session.suspend()) for session in found]
    try:
        yield
    finally:
        for session, resume in suspended:
            resume()
            session.attach(pipe)
