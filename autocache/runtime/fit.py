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
    words = [
        f"memory_limit {readable_bytes(limit)}: about {_needs(branches)} to keep",
        f"kept {' and '.join(forms)}" if forms else "",
        f"{away} of {len(kept)} places on the host" if away else "",
    ]
    if len(kept) < len(claims):
        words.append(f"{len(kept)} of {len(claims)} places keep anything, the others are computed")
    return "; ".join(word for word in words if word)


def refusal(limit: int, branches: Sequence[Claims]) -> str:
    """That nothing fits, or too little, and what would."""
    return (
        f"memory_limit is {readable_bytes(limit)}, and the strategy wants to keep about "
        f"{_needs(branches)}{_ways(limit, branches)}; raise the limit, or choose a strategy that "
        "keeps less (dit_block keeps one residual per stream and stack)"
    )


def _needs(branches: Sequence[Claims]) -> str:
    count = sum(1 for claims in branches if places(claims))
    several = f" in {count} guidance branches" if count > 1 else " per guidance branch"
    return readable_bytes(wanted(branches, PLAIN)) + several


def _ways(limit: int, branches: Sequence[Claims]) -> str:
    """In numbers, what each way would come to, and which would do."""
    forms = [PLAIN, *LOSSY.values()]
    sizes = {form.name: wanted(branches, form) for form in forms}
    told = ", ".join(f"{readable_bytes(sizes[name])} as {name}" for name in LOSSY)
    enough = [f"memory_fit={name!r}" for name in LOSSY if sizes[name] <= limit]
    smallest = {form.name: least(branches, form) for form in forms}
    if smallest[PLAIN.name] <= limit:
        enough.append("memory_fit='fewer' for a part of it")
    else:
        enough += [
            f"memory_fit=({name!r}, 'fewer') for a part of it"
            for name in LOSSY
            if smallest[name] <= limit < sizes[name]
        ]
    devices = {claim.device.type for found in branches for claim in found.values()}
    if devices - {"cpu"}:
        enough.append("memory_fit='host'")
    fits = f"; {' or '.join(enough)} would fit" if enough else ""
    return f" ({told}; the smallest part of it is {readable_bytes(smallest[PLAIN.name])}){fits}"
