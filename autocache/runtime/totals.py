"""What a patched denoiser has done so far, in all threads together."""

from __future__ import annotations

import itertools
import threading
from collections import deque

from autocache.runtime.record import StepRecord

KEPT_RECORDS = 4096
"""Denoiser calls whose record is kept, the latest ones; totals count all."""


class Totals:
    """Sums over all denoiser calls, and the records of the latest."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._records: deque[StepRecord] = deque(maxlen=KEPT_RECORDS)
        self._zero()

    def _zero(self) -> None:
        self.passes = self.passes_skipped = self.generations = 0
        self.blocks_skipped = self.attention_skipped = self.not_finite = 0
        self.seconds = 0.0

    @property
    def records(self) -> tuple[StepRecord, ...]:
        """Of the latest calls, in the order in which they ended."""
        with self._lock:
            return tuple(self._records)

    def begin(self) -> int:
        """A generation begins; its number, which no other one has."""
        with self._lock:
            self.generations += 1
            return next(self._numbers)

    def add(self, record: StepRecord) -> None:
        """A denoiser call is over."""
        with self._lock:
            self._records.append(record)
            self.passes += 1
            self.passes_skipped += record.whole
            self.blocks_skipped += record.blocks_skipped
            self.attention_skipped += record.attention_skipped
            self.seconds += record.seconds
            self.not_finite += record.not_finite

    def clear(self) -> None:
        """Count from nothing again."""
        with self._lock:
            self._records.clear()
            self._zero()
