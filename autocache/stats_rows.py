"""Rows of the table that stats print."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autocache.run_stats import RunStats

Row = tuple[str, str]

LETTERS = {"computed": "C", "reused": "r", "predicted": "p"}


def of_steps(stats: RunStats) -> list[Row]:
    """The row to read first, and why whole calls of the denoiser may be run where steps are not."""
    calls = ("denoiser calls run", str(stats.denoiser))
    if stats.dry_run or not stats.branches:
        return [calls]
    counts = {name: sum(getattr(b, name) for b in stats.branches) for name in LETTERS}
    every, computed = sum(counts.values()), counts.pop("computed")
    if computed < every and stats.denoiser.share == 1.0:
        calls = (calls[0], f"{calls[1]}: what is skipped is inside of them")
    others = "".join(f", {count} {name}" for name, count in counts.items() if count)
    return [("steps computed", f"{computed} of {every} ({computed / every:.1%}){others}"), calls]


def of_dry_run(stats: RunStats) -> list[Row]:
    """What a dry run would have skipped, of the calls that are on record, and at what error."""
    if not stats.dry_run:
        return []
    skipping = [step for step in stats.steps if step.skips]
    told = f"everything was computed; {len(skipping)} of {len(stats.steps)} denoiser calls"
    rows = [("dry run", f"{told} would have skipped something")]
    errors = [step.error for step in skipping if step.error is not None]
    if errors:
        mean, worst = sum(errors) / len(errors), max(errors)
        rows.append(("error if skipped", f"mean {mean:.3g}, worst {worst:.3g} (relative L1)"))
    return rows


def of_time(stats: RunStats) -> list[Row]:
    """Where the time went, and what came of what was saved."""
    saved, times = stats.seconds_saved, stats.times
    told = "saving not known" if saved is None else f"{saved:.2f} s saved"
    told = "nothing saved by a dry run" if stats.dry_run else told
    rows = [("denoiser time", f"{stats.seconds:.2f} s, {told}")]
    if times.call is None or times.denoiser is None:
        return rows
    parts = {
        "denoiser": ("denoiser", times.denoiser),
        "before": ("before it", times.before or 0.0),
        "between": ("between its calls", times.between or 0.0),
        "after": ("after it", times.after or 0.0),
    }
    shares = ", ".join(
        f"{name} {part / times.call:.0%}{_components(stats, phase)}"
        for phase, (name, part) in parts.items()
    )
    rows.append(("pipeline time", f"{times.call:.2f} s: {shares}"))
    # Calls outside of the pipeline's have saved too, by which its own became no shorter.
    if (
        saved is not None
        and not stats.dry_run
        and math.isclose(times.denoiser, stats.seconds, rel_tol=1e-3)
    ):
        denoiser, whole = times.denoiser + saved, times.call + saved
        if denoiser > 0:
            rows.append(
                (
                    "time saved",
                    f"{saved / whole:.0%} of the pipeline's: {saved / denoiser:.0%} of the "
                    f"denoiser's, which is {denoiser / whole:.0%} of it without skips",
                )
            )
    return rows


def _components(stats: RunStats, phase: str) -> str:
    """What took the time of a phase, in brackets: what is a hundredth of the call or more."""
    call = stats.times.call or 0.0
    named = [one for one in stats.times.components if one.phase == phase]
    told = [f"{one.name} {one.seconds / call:.0%}" for one in named if one.seconds >= 0.01 * call]
    return f" ({', '.join(told)})" if told else ""


def of_distance(stats: RunStats) -> list[Row]:
    """What was measured in the last generation, against what it was compared with."""
    last = stats.steps[-1].generation if stats.steps else None
    steps = [s for s in stats.steps if s.generation == last]
    pairs = [(s.distance, s.threshold) for s in steps if s.distance is not None]
    if not pairs:
        return []
    low, high = min(d for d, _ in pairs), max(d for d, _ in pairs)
    limits = [limit for _, limit in pairs if limit is not None]
    against = ""
    if limits:
        lowest, highest = f"{min(limits):.3g}", f"{max(limits):.3g}"
        several = lowest if lowest == highest else f"{lowest} to {highest}"
        against = f", against a threshold of {several}"
    return [("distance", f"{low:.3g} to {high:.3g} in the last generation{against}")]


def of_generation(stats: RunStats) -> list[Row]:
    """One letter per step of each branch of the last generation: C computed, r reused, p predicted.

    Each denoiser counts its own generations.
    """
    last = {step.denoiser: step.generation for step in stats.steps}
    rows = []
    for (denoiser, generation, branch), drawn in _drawn(stats).items():
        if generation != last[denoiser]:
            continue
        counts = (f"{drawn.count(letter)} {name}" for name, letter in LETTERS.items())
        told = ", ".join(count for count in counts if not count.startswith("0 "))
        rows.append(("last generation", f"{denoiser}, branch {branch}: {drawn} ({told})"))
    return rows or [("last generation", "none")]


def _drawn(stats: RunStats) -> dict[tuple[str, int, str], str]:
    drawn: dict[tuple[str, int, str], str] = {}
    for step in stats.steps:
        key = (step.denoiser, step.generation, step.branch)
        drawn[key] = drawn.get(key, "") + LETTERS[step.action]
    return drawn
