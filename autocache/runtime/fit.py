"""What is said of a memory limit: what was chosen to keep to it, or what would."""

from __future__ import annotations

from collections.abc import Sequence

from autocache.runtime.claims import Claims, least, places, wanted
from autocache.runtime.encodings import LOSSY, PLAIN
from autocache.runtime.sizes import readable_bytes


def choice(limit: int, branches: Sequence[Claims]) -> str:
    """What was chosen, in one line."""
    claims = [claim for found in branches for claim in places(found)]
    kept = [claim for claim in claims if not claim.refused]
    forms = sorted({claim.encoding.name for claim in kept})
    away = sum(claim.away for claim in kept)
    words = [f"memory_limit={readable_bytes(limit)}: about {_needs(branches)} to keep"]
    if forms:
        words.append(f"held {' and '.join(forms)}")
    if away:
        words.append(f"{away} of {len(kept)} places on the host")
    if len(kept) < len(claims):
        words.append(f"{len(kept)} of {len(claims)} places keep anything, the others are computed")
    return "; ".join(words)


def refusal(limit: int, branches: Sequence[Claims]) -> str:
    """That nothing fits, or too little, and what would."""
    return (
        f"memory_limit is {readable_bytes(limit)}, and the strategy wants to keep about "
        f"{_needs(branches)}{_ways(limit, branches)}; raise the limit, or choose a strategy that "
        "keeps less (dit_block keeps one residual per stream and stack)"
    )


def _needs(branches: Sequence[Claims]) -> str:
    count = len(branches)
    several = f" in {count} guidance branches" if count > 1 else " per guidance branch"
    return readable_bytes(wanted(branches, PLAIN)) + several


def _ways(limit: int, branches: Sequence[Claims]) -> str:
    """In numbers what each way comes to, and the first that would do."""
    if not any(places(claims) for claims in branches):
        return " only to decide"
    whole = {form.name: wanted(branches, form) for form in (PLAIN, *LOSSY.values())}
    part = {form.name: least(branches, form) for form in (PLAIN, *LOSSY.values())}
    told = ", ".join(f"{readable_bytes(whole[name])} as {name}" for name in LOSSY)
    found = f" ({told}; the smallest part of it takes {readable_bytes(part[PLAIN.name])})"
    devices = {claim.device.type for claims in branches for claim in claims.values()}
    enough = ["memory_fit='host'"] if devices - {"cpu"} else []
    enough += [f"memory_fit={name!r}" for name in LOSSY if whole[name] <= limit][:1]
    enough += [f"{_fewer(name)} for a part of it" for name in part if part[name] <= limit][:1]
    return f"{found}; enough is {' or '.join(enough)}" if enough else found


def _fewer(form: str) -> str:
    return f"memory_fit=({form!r}, 'fewer')" if form in LOSSY else "memory_fit='fewer'"
