"""The rows of the benchmark: what is compared, in the order of what matters most."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import autocache
from bench import OVER, SPEEDUPS, STEPS, Bench
from choosing import chosen, settings, summary
from own import ROWS_OF_THEIR_OWN, auto_with_invariant, groups, named
from peers import Groups, mag_ratios, peers
from records import Records
from tuned import tuned
from variants import Variant

LITTLE = 0.95
"""Compute above which what an exact strategy leaves is not worth a row."""
WITH_INVARIANT = "auto with invariant"
FIRST = (
    "fewer steps",
    "auto",
    "tuned",
    "cache-dit",
    "diffusers TaylorSeer",
    "diffusers first block",
    "diffusers MagCache",
    "diffusers SeaCache",
    "DeepCache",
    "teacache",
    "taylorseer",
    "dit_block",
    "magcache",
    "fbcache",
    "MindIE-SD dit_block",
    "MindIE-SD attention",
)
"""Every other method comes after these."""
RATIOS = {"diffusers MagCache": "mag_ratios", "magcache": "ratios"}
"""The parameter that MagCache's measured ratios go to."""


@dataclass(frozen=True)
class Setting:
    """A method as it is measured at one speed-up."""

    variant: Variant
    parameters: Mapping[str, Any]
    told: Mapping[str, Any]
    """What else its row says: which way, and how good it was where it was chosen."""


Settings = Mapping[int, Setting]


def _fewer_steps(_: Bench, speedup: int) -> tuple[Variant, dict[str, Any]]:
    """As many steps as the compute pays for."""
    return named("fewer_steps"), {"steps": math.floor(STEPS * OVER / speedup)}


def _auto(_: Bench, speedup: int) -> tuple[Variant, dict[str, Any]]:
    return named("auto"), {"speedup": speedup}


GIVEN: dict[str, Callable[[Bench, int], tuple[Variant, dict[str, Any]]]] = {
    "fewer steps": _fewer_steps,
    "auto": _auto,
    "tuned": tuned,
}
"""Methods of which nothing is chosen."""


def methods(bench: Bench) -> dict[str, Groups | str]:
    """The variants of what settings are chosen for, or why there are none, by the row's name."""
    found: dict[str, Groups | str] = dict(peers(bench.case, bench.guidance, STEPS))
    ours = groups(STEPS)
    for name in sorted(info.name for info in autocache.strategies()):
        if name not in ROWS_OF_THEIR_OWN:
            found[name] = ours[name]
    return found | {WITH_INVARIANT: {WITH_INVARIANT: auto_with_invariant(STEPS)}}


def names(bench: Bench) -> list[str]:
    """Every row, the first ones first."""
    known = [*GIVEN, *methods(bench)]
    return sorted(known, key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))


def settled(bench: Bench, name: str, kept: Records) -> tuple[dict[str, Any], Settings]:
    """The head of a row, and the settings to measure; chosen now unless they are kept."""
    if name in GIVEN:
        given = {speedup: GIVEN[name](bench, speedup) for speedup in SPEEDUPS}
        return {}, {speedup: Setting(*one, {}) for speedup, one in given.items()}
    known = methods(bench)
    groups = known[name]
    if isinstance(groups, str):
        return {"does_not_apply": groups}, {}
    if name == WITH_INVARIANT and (reason := _not_worth(bench, known["invariant"], kept)):
        return {"does_not_apply": reason}, {}

    def calibrated(variants: list[Variant]) -> list[Variant]:
        if name not in RATIOS or bench.case.denoiser == "unet":
            return variants
        ratios = mag_ratios(bench.pipe, STEPS, bench.choosing.run)
        return [replace(one, fixed={**one.fixed, RATIOS[name]: ratios}) for one in variants]

    found = settings(bench, name, groups, kept, calibrated)
    reached: dict[int, Setting] = {}
    for speedup in SPEEDUPS:
        if best := chosen(found, speedup):
            way, how = best
            told = {"chosen_at": how["psnr"]} | ({"way": way} if len(groups) > 1 else {})
            # The ways of a method differ in their settings, and are put on alike.
            reached[speedup] = Setting(groups[way][0], how["settings"], told)
    return summary(found), reached


def _not_worth(bench: Bench, invariant: Groups | str, kept: Records) -> str | None:
    assert not isinstance(invariant, str)
    alone = settings(bench, "invariant", invariant, kept)["invariant"]["least_compute"]
    return f"invariant leaves {alone:.1%} of the compute here" if alone > LITTLE else None
