"""The books of one patch: what is held, where and in which form, and what was held at most."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autocache.runtime.budget import Budget
from autocache.runtime.encodings.host import HeldOnHost

if TYPE_CHECKING:
    from autocache.runtime.encodings import Held


_name = functools.cache(str)
"""Of a device; it is asked for whenever something is kept."""


@dataclass
class Place:
    """What one place of a denoiser, or a rule, holds in all guidance branches, in bytes."""

    denoiser: str
    name: str
    held: int = 0
    peak: int = 0
    form: str = ""
    device: str = ""


class Ledger:
    """Bytes held by all stores of one patch, and the most there ever were.

    `held` counts what is on the devices that compute, and a `limit` holds for it, at any moment and
    for all denoisers, guidance branches and threads together; `away` is what was moved to the host.
    `ways` are the ways to keep to the limit, see `autocache.patch`.
    """

    def __init__(self, limit: int | None = None, ways: Sequence[str] = ()) -> None:
        self.lock = threading.RLock()
        self.held = self.peak = 0
        self.away = self.away_peak = 0
        self.copies = False
        """What comes to be kept may be overwritten by compiled code, and is copied."""
        self.places: dict[tuple[str, str], Place] = {}
        self.budget = None if limit is None else Budget(limit, tuple(ways))

    def __deepcopy__(self, memo: dict[int, Any]) -> Ledger:
        # The books of a copied pipeline are its own, and still those of all its denoisers.
        budget = self.budget
        fresh = Ledger(budget.limit, budget.ways) if budget else Ledger()
        memo[id(self)] = fresh
        return fresh

    @property
    def limit(self) -> int | None:
        return None if self.budget is None else self.budget.limit

    def add(self, denoiser: str, name: str, held: Held) -> None:
        """Account for something held."""
        place = self.places.get((denoiser, name))
        if place is None:
            place = self.places[denoiser, name] = Place(denoiser, name)
        size = held.bytes
        place.held += size
        if place.held > place.peak:
            place.peak = place.held
        place.form, place.device = held.encoding.name, _name(held.place)
        if held.away:
            self.away += size
            self.away_peak = max(self.away_peak, self.away)
            return
        self.held += size
        if self.held > self.peak:
            self.peak = self.held

    def release(self, denoiser: str, name: str, held: Held) -> None:
        """It is held no more."""
        if held.away:
            self.arrived((held,))
        self.places[denoiser, name].held -= held.bytes
        if held.away:
            self.away -= held.bytes
        else:
            self.held -= held.bytes

    def fetch(self, held: Held) -> None:
        """Have something that is on the host brought back ahead, if there is room for it."""
        if not isinstance(held, HeldOnHost) or held.lent or self.budget is None:
            return
        if self.budget.lend(held.bytes):
            held.lent = held.bytes
            self.held += held.bytes
            self.peak = max(self.peak, self.held)
            held.fetch()

    def arrived(self, several: Iterable[Held]) -> None:
        """What was brought back was used, and its memory is free again."""
        with self.lock:
            for held in several:
                if isinstance(held, HeldOnHost) and held.lent and self.budget is not None:
                    self.budget.give_back(held.lent)
                    self.held -= held.lent
                    held.lent = 0

    def restart(self) -> None:
        """Count the most that there is from now on."""
        self.peak, self.away_peak = self.held, self.away
        if self.budget is not None:
            self.budget.missed = None
        self.places = {key: place for key, place in self.places.items() if place.held}
        for place in self.places.values():
            place.peak = place.held
