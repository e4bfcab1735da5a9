"""At which settings a method is best for the compute that is allowed, tried on a few prompts.

The settings are kept in `benchmarks/results/settings`, as profiles are: finding them takes longer
than measuring them, and one who measures again need not find them again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from bench import OVER, SPEEDUPS, Bench
from records import Records
from variants import Trial, Variant, best, trials


def settings(
    bench: Bench,
    name: str,
    groups: Mapping[str, list[Variant]],
    kept: Records,
    calibrated: Callable[[list[Variant]], list[Variant]] = list,
) -> dict[str, dict[str, Any]]:
    """What was found of each group of variants; groups that are kept are not tried again.

    `calibrated` adds to variants what has to be measured before they are tried.
    """
    found = kept.rows(bench.name).get(name, {})
    for group, variants in groups.items():
        if group not in found:
            found[group] = _try(bench, calibrated(variants))
            kept.add(bench.name, name, found)
    return {group: found[group] for group in groups}


def chosen(
    found: Mapping[str, Mapping[str, Any]], speedup: int
) -> tuple[str, Mapping[str, Any]] | None:
    """The group whose settings are best at a speed-up, and those; None where none gets there."""
    reach = {group: one[str(speedup)] for group, one in found.items() if str(speedup) in one}
    if not reach:
        return None
    group = max(reach, key=lambda one: float(reach[one]["psnr"]))
    return group, reach[group]


def summary(found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """How many settings were tried, the least compute of them, and what failed why."""
    failed: dict[str, int] = {}
    for one in found.values():
        for reason, count in one.get("failed", {}).items():
            failed[reason] = failed.get(reason, 0) + count
    tried = sum(one["settings_tried"] for one in found.values())
    if not tried:
        return {"does_not_apply": next(iter(failed))}
    least = min(one["least_compute"] for one in found.values() if one["settings_tried"])
    row = {"settings_tried": tried, "least_compute": least}
    return {**row, "failed": failed} if failed else row


def _try(bench: Bench, variants: list[Variant]) -> dict[str, Any]:
    failed: dict[str, int] = {}
    done: list[Trial] = []

    def attempt(variant: Variant, parameters: dict[str, Any]) -> Trial:
        trial = bench.trial(variant, parameters)
        done.append(trial)
        return trial

    limits = [OVER / speedup for speedup in SPEEDUPS]
    for variant in variants:
        try:
            trials([variant], limits, attempt)
        except Exception as error:  # a peer may raise anything
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            failed[reason] = failed.get(reason, 0) + 1
    found: dict[str, Any] = {"settings_tried": len(done)}
    if done:
        found["least_compute"] = round(min(trial.compute for trial in done), 4)
    if failed:
        found["failed"] = failed
    for speedup in SPEEDUPS:
        if trial := best(done, OVER / speedup):
            found[str(speedup)] = {
                "settings": trial.parameters,
                "compute": round(trial.compute, 4),
                "psnr": round(trial.mean, 2) if math.isfinite(trial.mean) else "inf",
            }
    return found
