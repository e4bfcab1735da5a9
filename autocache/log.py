"""The log of the library: quiet unless AUTOCACHE or AUTOCACHE_LOG asks for it."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING

from autocache.errors import ParameterError, nearest

if TYPE_CHECKING:
    from autocache.runtime.record import StepRecord

VARIABLE = "AUTOCACHE_LOG"
LEVELS = ("debug", "info", "warning", "error", "off")

logger = logging.getLogger("autocache")


class _Shown(logging.Handler):
    """Writes lines on standard error, above a progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        text = f"autocache: {self.format(record)}"
        tqdm = sys.modules.get("tqdm")
        if tqdm is None:
            print(text, file=sys.stderr, flush=True)
        else:
            tqdm.tqdm.write(text, file=sys.stderr)


def configure(default: str | None = None) -> None:
    """Show what AUTOCACHE_LOG asks for, or else `default`; nothing is shown where neither does.

    Raises:
        ParameterError: the variable has a value that is no level.
    """
    asked = os.environ.get(VARIABLE, "").strip().lower()
    if asked and asked not in LEVELS:
        raise ParameterError(
            f"{VARIABLE}={asked} is no level{nearest(asked, LEVELS)}; "
            f"expected one of {', '.join(LEVELS)}"
        )
    level = asked or default
    ours = [handler for handler in logger.handlers if isinstance(handler, _Shown)]
    if level is None:
        return
    for handler in ours:
        logger.removeHandler(handler)
    if level != "off":
        logger.addHandler(_Shown())
    # A program that has set a level of its own keeps it, unless the variable says another.
    if asked or logger.level == logging.NOTSET:
        logger.setLevel(logging.CRITICAL if level == "off" else level.upper())


def decision(record: StepRecord) -> None:
    """What was done in a denoiser call, at debug level."""
    if not logger.isEnabledFor(logging.DEBUG):
        return
    logger.debug(
        "%s generation %d branch %s step %d: %s%s; %s; %.1f ms",
        record.denoiser,
        record.generation,
        record.branch,
        record.step,
        record.action,
        _why(record),
        _places(record),
        record.seconds * 1000,
    )


def _why(record: StepRecord) -> str:
    if record.forced is not None:
        return f" ({record.forced})"
    if record.distance is None:
        return ""
    against = "" if record.threshold is None else f" against threshold {record.threshold:.4g}"
    return f" (distance {record.distance:.4g}{against})"


def _places(record: StepRecord) -> str:
    """How many places of each group, which is a stack or what stands outside of one."""
    groups: dict[tuple[str, str], int] = {}
    for name, done in record.sites.items():
        key = (name.partition(".")[0].partition("[")[0], done)
        groups[key] = groups.get(key, 0) + 1
    told = (f"{group} {done} x{count}" for (group, done), count in groups.items())
    return ", ".join(told) or "no places asked"
