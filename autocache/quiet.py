"""Our own warnings, held back where patches that do nothing are made on purpose."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Log errors alone, unless the log is at debug."""
    logger = logging.getLogger("autocache")
    if logger.isEnabledFor(logging.DEBUG):
        yield
        return
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
