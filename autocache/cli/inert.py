"""Models that a command makes for its own ends are none of AUTOCACHE's."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator


@contextlib.contextmanager
def inert() -> Iterator[None]:
    """AUTOCACHE is off meanwhile, whatever the shell that started the command has it say."""
    given = os.environ.get("AUTOCACHE")
    os.environ["AUTOCACHE"] = "off"
    try:
        yield
    finally:
        del os.environ["AUTOCACHE"]
        if given is not None:
            os.environ["AUTOCACHE"] = given
