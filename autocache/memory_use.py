"""What a patch holds in memory, where and in which form."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autocache.runtime.ledger import Ledger, Place


@dataclass(frozen=True)
class MemoryUse:
    """Cached tensors in bytes: now, and the most there were since the patch or `Patch.reset()`.

    `held` and `peak` count what is on the devices that compute, which `limit` bounds; what was
    moved to the host is `away` and `away_peak`. `places` says the same of each place, and of what
    each rule compares, with all guidance branches and denoisers of one class together.
    """

    held: int = 0
    peak: int = 0
    away: int = 0
    away_peak: int = 0
    limit: int | None = None
    places: tuple[Place, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return dataclasses.asdict(self)

    def rows(self) -> dict[str, str]:
        """In words, by heading."""
        from autocache.runtime.sizes import readable_bytes as read

        of = f" of {read(self.limit)} allowed" if self.limit is not None else ""
        rows = {"cached": f"{read(self.held)}, peak {read(self.peak)}{of}"}
        if self.away_peak:
            rows["on the host"] = f"{read(self.away)}, peak {read(self.away_peak)}"
        if self.places:
            most = max(self.places, key=lambda place: place.peak)
            rows["cached where"] = (
                f"{len(self.places)} places, most in {most.name}: peak {read(most.peak)}, "
                f"{most.form}, on {most.device}"
            )
        return rows


def collect(ledgers: Sequence[Ledger]) -> MemoryUse:
    """What some patches hold together."""
    copies = []
    for ledger in ledgers:
        with ledger.lock:
            copies += [dataclasses.replace(place) for place in ledger.places.values()]
    limits = [ledger.limit for ledger in ledgers if ledger.limit is not None]
    return MemoryUse(
        held=sum(ledger.held for ledger in ledgers),
        peak=sum(ledger.peak for ledger in ledgers),
        away=sum(ledger.away for ledger in ledgers),
        away_peak=sum(ledger.away_peak for ledger in ledgers),
        limit=sum(limits) if limits else None,
        places=tuple(copies),
    )
