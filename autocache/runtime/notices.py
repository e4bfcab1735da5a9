"""What the log is told once of each patched denoiser."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autocache.runtime.record import StepRecord
    from autocache.runtime.track import Track

logger = logging.getLogger("autocache")

LONG_ENOUGH = 4
"""Calls of a generation from which on it is worth a word that none of them skipped anything."""


class Notices:
    """Of one session, whose strategy is there to skip something or is not."""

    def __init__(self, skips: bool) -> None:
        self._idle_told = not skips
        self._not_finite_told = False

    def idle(self, label: str, track: Track, strategy: object) -> None:
        """A strategy that is on and does nothing would pass for one that does not help."""
        if self._idle_told or track.skipped or track.calls < LONG_ENOUGH:
            return
        self._idle_told = True
        logger.warning(
            "%s skipped nothing in %d calls of %s; its limits or its threshold compute every step "
            "of a generation this short or this restless (autocache.stats says what was computed)",
            strategy,
            track.calls,
            label,
        )

    def not_finite(self, record: StepRecord, strategy: object) -> None:
        """A picture that is lost anyway would be lost without a word."""
        if self._not_finite_told:
            return
        self._not_finite_told = True
        logger.warning(
            "%s measured NaN or Inf in step %d of %s: such steps are computed, nothing kept before "
            "stands in for the next, and autocache.stats counts them as not_finite; in float16 it "
            "is mostly an overflow, which bfloat16 does not have",
            strategy,
            record.step,
            record.denoiser,
        )
