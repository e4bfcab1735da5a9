"""What a patched denoiser has done so far, in all threads together."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from autocache.runtime.record import StepRecord
from autocache.runtime.tally import Tally

if TYPE_CHECKING:
    from autocache.runtime.pipeline_call import Phase, PipelineCall

KEPT_RECORDS = 4096
"""Denoiser calls whose record is kept, the latest ones; totals count all."""
KEPT_BRANCHES = 256
"""Guidance branches of a generation that are told apart, the latest ones."""
UNSETTLED = 64
"""Records that wait to be added up: it is done when somebody asks, and not in every step."""


@dataclass(slots=True)
class Sums:
    """Over all denoiser calls there were."""

    passes: int = 0
    passes_skipped: int = 0
    blocks_skipped: int = 0
    attention_skipped: int = 0
    feed_forward_skipped: int = 0
    not_finite: int = 0
    seconds: float = 0.0

    def add(self, record: StepRecord) -> None:
        self.passes += 1
        self.passes_skipped += record.whole
        self.blocks_skipped += record.blocks_skipped
        self.attention_skipped += record.attention_skipped
        self.feed_forward_skipped += record.feed_forward_skipped
        self.not_finite += record.not_finite
        self.seconds += record.seconds


class Totals:
    """Sums over all denoiser calls, and the records of the latest.

    In a dry run all of a call is run, whatever its record says.
    """

    def __init__(self, dry_run: bool = False) -> None:
        self._lock = threading.Lock()
        self._dry_run = dry_run
        self._numbers = itertools.count()
        self._records: deque[StepRecord] = deque(maxlen=KEPT_RECORDS)
        self._unsettled: list[StepRecord] = []
        self._tallies: dict[tuple[int, str], Tally] = {}
        self._zero()

    def _zero(self) -> None:
        self._sums = Sums()
        self.generations = self.unreached = 0
        self._saved: float | None = None
        self.pipeline_calls = 0
        self.call = self.denoiser = self.before = self.after = 0.0
        self.others: dict[tuple[Phase, str], float] = {}
        """Seconds of the pipeline's other components."""

    @property
    def records(self) -> tuple[StepRecord, ...]:
        """Of the latest calls, in the order in which they ended."""
        with self._lock:
            return tuple(self._records)

    @property
    def sums(self) -> Sums:
        """Over all calls that have ended."""
        with self._lock:
            self._settle()
            return replace(self._sums)

    @property
    def tallies(self) -> tuple[Tally, ...]:
        """Of the latest guidance branches."""
        with self._lock:
            self._settle()
            return tuple(self._tallies.values())

    @property
    def saved(self) -> float | None:
        """Seconds saved in all branches in which that is known, None where it is in none."""
        known = [tally.saved for tally in self.tallies]
        found = [saved for saved in (self._saved, *known) if saved is not None]
        return sum(found) if found else None

    def begin(self) -> int:
        """A generation begins; its number, which no other one has."""
        with self._lock:
            self.generations += 1
            return next(self._numbers)

    def add(self, record: StepRecord) -> None:
        """A denoiser call is over."""
        with self._lock:
            self._records.append(record)
            self._unsettled.append(record)
            if len(self._unsettled) >= UNSETTLED:
                self._settle()

    def _settle(self) -> None:
        for record in self._unsettled:
            self._sums.add(record)
            self._tally(record)
        self._unsettled.clear()

    def _tally(self, record: StepRecord) -> None:
        key = (record.generation, record.branch)
        tally = self._tallies.get(key)
        if tally is None:
            if len(self._tallies) >= KEPT_BRANCHES:
                oldest = self._tallies.pop(next(iter(self._tallies))).saved
                if oldest is not None:
                    self._saved = (self._saved or 0.0) + oldest
            tally = Tally(record.denoiser, record.generation, record.branch)
            self._tallies[key] = tally
        tally.add(record, self._dry_run)

    def add_call(self, call: PipelineCall) -> None:
        """A call of the pipeline is over, in which the denoiser was called."""
        with self._lock:
            self.pipeline_calls += 1
            self.call += call.seconds
            self.denoiser += call.denoiser
            self.before += call.before
            self.after += call.after
            for key, took in call.others().items():
                self.others[key] = self.others.get(key, 0.0) + took

    def clear(self) -> None:
        """Count from nothing again."""
        with self._lock:
            self._records.clear()
            self._unsettled.clear()
            self._tallies.clear()
            self._zero()
