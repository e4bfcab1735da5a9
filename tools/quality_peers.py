"""Where another library is ahead of this one in what was measured, and why."""

from __future__ import annotations

from quality_rows import (
    ALONE,
    LIBRARIES,
    OTHERS,
    SPEEDUPS,
    Case,
    best_of,
    cells,
    decibels,
    unmeasured,
)

SAME = {
    "cache-dit": "dbcache",
    "diffusers TaylorSeer": "taylorseer",
    "diffusers first block": "fbcache",
    "diffusers MagCache": "magcache",
    "diffusers SeaCache": "seacache",
    "diffusers PAB": "pab",
    "diffusers FasterCache": "fastercache",
    "DeepCache": "deepcache",
    "MindIE-SD dit_block": "dit_block",
    "MindIE-SD attention": "attention",
}
"""By a peer's row: the strategy here that does the same."""
MARGIN = 0.5
"""Decibels that a mean of these prompts does not tell apart."""
REASONS: dict[str, str] = {}
"""Why a peer's row is above that of the same method here, and what would change it."""


def behind(measured: list[Case]) -> str:
    """The best of each side, and method by method."""
    lines = [
        f"- {peer} against {SAME[peer]}: {'; '.join(rows)}. {_reason(peer, rows)}"
        for peer, rows in ahead(measured).items()
    ]
    said = "these rows of theirs are" if lines else "of what was measured on both sides nothing is"
    words = f"Method by method, {said} more than {MARGIN} dB above the same method here."
    return "\n\n".join(part for part in (overall(measured), words, "\n".join(lines)) if part)


def _reason(peer: str, rows: list[str]) -> str:
    if peer not in REASONS:
        raise ValueError(f"REASONS in {__file__} does not say why {peer} is ahead: {rows}")
    return REASONS[peer]


def overall(measured: list[Case]) -> str:
    """Where the best of any library is above the best of the strategies here."""
    found, compared = [], []
    for case in measured:
        for speedup in SPEEDUPS:
            best = best_of(case.rows, speedup)
            ours = [best[one] for one in (*ALONE[:3], OTHERS) if one in best]
            theirs = [best[one] for one in LIBRARIES if one in best]
            if not ours or not theirs:
                continue
            compared.append(case.title)
            (name, mine), (peer, other) = (
                max(side, key=lambda one: decibels(one[1])) for side in (ours, theirs)
            )
            if decibels(other) > decibels(mine):
                figures = f"{decibels(other):.1f} to {decibels(mine):.1f} dB"
                found.append(f"- {case.title}, {speedup}x: {peer} before {name}, {figures}")
    silent = [case.title for case in measured if case.title not in compared]
    unsaid = f" There is no row of another library yet for: {'; '.join(silent)}." if silent else ""
    if found:
        return "\n".join(found) + unsaid.replace(" ", "\n\n", 1)
    known = dict.fromkeys(name for case in measured for name in case.rows)
    rest = ", as far as both are measured; each section names what is not yet"
    missing = rest * any(unmeasured(case.rows, known) for case in measured)
    return (
        "At no speed-up is the best of the other libraries above the best of the strategies "
        f"here{missing}.{unsaid}"
    )


def ahead(measured: list[Case]) -> dict[str, list[str]]:
    """By peer: the rows that are above those of the same method here."""
    found: dict[str, list[str]] = {}
    for peer, ours in SAME.items():
        for case in measured:
            for speedup in SPEEDUPS:
                known = cells(case.rows, speedup)
                # A method that was not measured here says nothing of the peer's.
                if peer not in known or ours not in case.rows:
                    continue
                theirs = decibels(known[peer])
                mine = decibels(known[ours]) if ours in known else None
                if mine is None or theirs > mine + MARGIN:
                    figure = "no setting" if mine is None else f"{mine:.1f}"
                    words = f"{case.name} {speedup}x {theirs:.1f} to {figure}"
                    found.setdefault(peer, []).append(words)
    return found
