"""What was done in one guidance branch of one generation, as it is counted."""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from autocache.branch_stats import BranchStats, Calls

if TYPE_CHECKING:
    from autocache.runtime.record import StepRecord


@dataclass(slots=True)
class Tally:
    """Sums over the calls of one guidance branch, and what a call cost in which all was run."""

    denoiser: str
    generation: int
    branch: str
    actions: Counter[str] = field(default_factory=Counter)
    blocks: list[int] = field(default_factory=lambda: [0, 0])
    attention: list[int] = field(default_factory=lambda: [0, 0])
    feed_forward: list[int] = field(default_factory=lambda: [0, 0])
    """Module calls run, and those there would have been."""
    whole: list[float] = field(default_factory=list)
    """Seconds of each call in which nothing was skipped."""
    partial: int = 0
    """Calls in which something was."""
    partial_seconds: float = 0.0

    def add(self, record: StepRecord, dry_run: bool) -> None:
        """A call is over."""
        self.actions[record.action] += 1
        for calls, skipped, total in (
            (self.blocks, record.blocks_skipped, record.blocks_total),
            (self.attention, record.attention_skipped, record.attention_total),
            (self.feed_forward, record.feed_forward_skipped, record.feed_forward_total),
        ):
            calls[0] += total - skipped
            calls[1] += total
        if dry_run or not record.skips:
            self.whole.append(record.seconds)
        else:
            self.partial += 1
            self.partial_seconds += record.seconds

    @property
    def saved(self) -> float | None:
        """See `BranchStats.seconds_saved`."""
        if not self.partial:
            return 0.0
        if not self.whole:
            return None
        # The first call of a program pays for what comes once: kernels chosen, weights moved.
        usual = statistics.median(self.whole[1:] or self.whole)
        return self.partial * usual - self.partial_seconds

    def stats(self) -> BranchStats:
        """As the user sees it."""
        return BranchStats(
            generation=self.generation,
            denoiser=self.denoiser,
            branch=self.branch,
            computed=self.actions["computed"],
            reused=self.actions["reused"],
            predicted=self.actions["predicted"],
            blocks=Calls(*self.blocks),
            attention=Calls(*self.attention),
            feed_forward=Calls(*self.feed_forward),
            seconds=sum(self.whole) + self.partial_seconds,
            seconds_saved=self.saved,
        )
