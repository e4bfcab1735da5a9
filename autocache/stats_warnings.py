"""What a user should know of a run without having to ask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from autocache.runtime import displaced

if TYPE_CHECKING:
    from autocache.runtime.record import StepRecord
    from autocache.runtime.session import Session


def collect(sessions: Sequence[Session]) -> tuple[str, ...]:
    """One sentence for each thing, of all denoisers of a pipeline."""
    records = [record for s in sessions for record in s.totals.records]
    ledgers = {id(s.ledger): s.ledger for s in sessions}.values()
    missed = (ledger.budget.missed for ledger in ledgers if ledger.budget is not None)
    return (
        *_idle(sessions, records),
        *_limited(records),
        *(said for said in missed if said),
        *(
            f"{s.label}: {why}; unpatch one of the two"
            for s in sessions
            for why in displaced.reasons(s)
        ),
        *_not_finite(sessions),
    )


def _idle(sessions: Sequence[Session], records: Sequence[StepRecord]) -> list[str]:
    meant_to = any(part.recipe.where.skips for s in sessions for part in s.parts)
    skipped = any(tally.partial for s in sessions for tally in s.totals.tallies)
    if not records or not meant_to or skipped or any(record.skips for record in records):
        return []
    done = "would have been" if any(s.dry_run for s in sessions) else "was"
    return [f"nothing {done} skipped: {_why_idle(records)}"]


def _why_idle(records: Sequence[StepRecord]) -> str:
    free = [record for record in records if record.forced is None]
    measured = [r for r in free if r.distance is not None and r.threshold is not None]
    if measured:
        closest = min(measured, key=lambda r: (r.distance or 0.0) - (r.threshold or 0.0))
        return (
            f"the distance never came below the threshold, the closest was {closest.distance:.3g} "
            f"against {closest.threshold:.3g} in step {closest.step}"
        )
    if not free:
        steps = max(record.step for record in records) + 1
        empty = any(record.forced == "nothing kept" for record in records)
        return (
            f"the limits of the strategy (warm-up, last steps, window) compute every step of "
            f"generations of {steps} steps"
            + (", or its places kept nothing that could stand in" if empty else "")
        )
    return "its rule had every step computed"


def _limited(records: Sequence[StepRecord]) -> list[str]:
    limited = sum(record.forced == "skips used up" for record in records)
    if not limited:
        return []
    return [
        f"{limited} of {len(records)} calls were computed because as many were skipped before, in "
        "a row or in all, as the strategy allows (max_consecutive_skips, max_skips)"
    ]


def _not_finite(sessions: Sequence[Session]) -> list[str]:
    count = sum(s.totals.sums.not_finite for s in sessions)
    said = f"what was measured was not finite (NaN or Inf) in {count} calls, which were computed"
    return [said] if count else []
