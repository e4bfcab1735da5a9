"""cache-dit's DBCache with its calibrators and step masks.

Its documentation has one block or more computed (`Fn_compute_blocks`, 1 in most of its examples and
8 by default, which is every block of the clips' model), 4 or 8 steps of warm-up, at most 3 cached
steps in a row or any number, and a threshold that is searched for here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from itertools import product
from typing import Any

import cache_dit

from cases import Case
from variants import Variant, even_masks, on_a_copy

ALWAYS = 1.0
"""The threshold from which on cache-dit skips without looking."""
CALIBRATORS = {
    "taylor1": lambda: cache_dit.TaylorSeerCalibratorConfig(taylorseer_order=1),
    "taylor2": lambda: cache_dit.TaylorSeerCalibratorConfig(taylorseer_order=2),
    "foca": cache_dit.FoCaCalibratorConfig,
    "dmd": cache_dit.DMDCalibratorConfig,
}

_AS_DOCUMENTED = (
    {"max_warmup_steps": 4, "max_continuous_cached_steps": 3},
    {"max_warmup_steps": 8, "calibrator": "taylor1"},
)


def cache_dit_groups(case: Case, guidance: bool, steps: int) -> dict[str, list[Variant]]:
    """The variants by calibrator, without one, with more blocks computed, and with fixed steps."""
    separate = guidance and case.branches == "separate"

    def variant(**given: Any) -> Variant:
        dialled = "residual_diff_threshold" not in given and "policy" not in given
        fixed = {"enable_separate_cfg": separate, "Bn_compute_blocks": 0, **given}
        dial = "residual_diff_threshold" if dialled else None
        return Variant(_cached_by_cache_dit, fixed, dial, (0.005, ALWAYS))

    capped = [
        {
            "Fn_compute_blocks": 1,
            "residual_diff_threshold": ALWAYS,
            "max_warmup_steps": warmup,
            "max_continuous_cached_steps": cap,
        }
        for warmup, caps in ((2, (2, 4, 6)), (4, (2, 3, 7, 11)))
        for cap in caps
    ]
    watched = [
        {"Fn_compute_blocks": first, "max_warmup_steps": warmup}
        for first, warmup in ((1, 4), (1, 2))
    ]
    groups = {}
    for calibrator in CALIBRATORS:
        chosen = [*capped, *watched[:1]] if calibrator.startswith("taylor") else capped[1:4]
        groups[calibrator] = [variant(**one, calibrator=calibrator) for one in chosen]
    groups["DBCache"] = [variant(**one) for one in [*watched, *capped[::2]]]
    groups["more blocks"] = [
        variant(Fn_compute_blocks=first, **further)
        for first, further in product((2, 4), _AS_DOCUMENTED)
    ]
    named = [
        "".join(map(str, cache_dit.steps_mask(total_steps=steps, mask_policy=policy)))
        for policy in ("fast", "ultra")
    ]
    groups["steps mask"] = [
        variant(Fn_compute_blocks=1, mask=mask, policy="static", calibrator=calibrator)
        for mask, calibrator in product([*named, *even_masks(steps)], ("taylor1", "taylor2"))
    ]
    return groups


@contextlib.contextmanager
def _cached_by_cache_dit(pipe: Any, parameters: dict[str, Any]) -> Iterator[None]:
    """cache-dit replaces the class's `__call__`, which has to be put back."""
    given = dict(parameters)
    calibrator, mask = given.pop("calibrator", None), given.pop("mask", None)
    if mask is not None:
        given["max_warmup_steps"] = 0
        given["steps_computation_policy"] = given.pop("policy")
        given["steps_computation_mask"] = [int(step) for step in mask]
    call = type(pipe).__call__
    made = CALIBRATORS[calibrator]() if calibrator else None
    with on_a_copy(pipe, "transformer"):
        try:
            cache_dit.enable_cache(
                pipe, cache_config=cache_dit.DBCacheConfig(**given), calibrator_config=made
            )
            yield
        finally:
            cache_dit.disable_cache(pipe)
            type(pipe).__call__ = call
