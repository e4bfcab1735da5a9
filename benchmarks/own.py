"""The strategies of this library, at settings that reach any compute they can."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from itertools import product
from typing import Any

import autocache
from variants import Variant, even_masks

ROWS_OF_THEIR_OWN = {"auto", "schedule", "fewer_steps"}
"""Untuned, tuned, and the plain pipeline with fewer steps."""


def named(strategy: str, **fixed: Any) -> Variant:
    """A strategy with some of its parameters."""

    def install(pipe: Any, parameters: Mapping[str, Any]) -> contextlib.AbstractContextManager[Any]:
        return autocache.patched(pipe, strategy, **parameters)

    return Variant(install, fixed)


def auto_with_invariant(steps: int) -> list[Variant]:
    """The default strategy with any number of computed steps, and in those what never changes."""

    def install(pipe: Any, parameters: Mapping[str, Any]) -> contextlib.AbstractContextManager[Any]:
        return autocache.patched(pipe, [("auto", parameters), "invariant"])

    counts = range(steps * 3 // 4, steps // 5, -1)
    return [Variant(install, {"speedup": round(steps / count, 4)}) for count in counts]


def groups(steps: int) -> dict[str, dict[str, list[Variant]]]:
    """The variants of each strategy for so many steps, by the way they go about it.

    Where another library has the same method, what is tried of its settings is among them.
    """
    found = {strategy: {strategy: variants} for strategy, variants in _grids().items()}
    found["dbcache"]["steps mask"] = _each(
        "dbcache",
        fn=(1,),
        order=(1, 2),
        mask=("fast", "ultra", *even_masks(steps)),
        mask_policy=("static",),
    )
    found["pab"]["all attention"] = [
        named("pab", spatial_range=reach, cross_range=reach, spatial_window=when, cross_window=when)
        for reach, when in product((3, 6), ((100, 950), (0, 1001)))
    ]
    return found


def _grids() -> dict[str, list[Variant]]:
    """MagCache's are without the ratios, which are measured."""
    return {
        "adacache": [
            *_each("adacache", codebook=("slow", "fast"), max_consecutive_skips=(1, 2, 4)),
            *_each("adacache", codebook=tuple(((1e9, rate),) for rate in (2, 3, 4, 5))),
        ],
        "adastep": _dialled("adastep", "threshold", (1e-4, 10.0), max_consecutive_skips=(3, 8)),
        "attention": _each("attention", step_start=(1,), step_interval=(2, 6)),
        "customcache": _dialled("customcache", "threshold", (0.005, 20.0), order=(1, 2)),
        "dbcache": [
            *_dialled(
                "dbcache",
                "threshold",
                (0.005, 1.0),
                fn=(1,),
                order=(0, 1, 2),
                warmup_steps=(2, 4),
                joined=(False, True),
            ),
            *(
                variant
                for warmup, caps in ((2, (1, 2, 4, 6)), (4, (2, 3, 7, 11)))
                for variant in _each(
                    "dbcache",
                    fn=(1,),
                    order=(0, 1, 2),
                    threshold=(100.0,),
                    warmup_steps=(warmup,),
                    max_consecutive_skips=caps,
                    joined=(False,),
                )
            ),
        ],
        "deepcache": _each("deepcache", interval=(2, 3, 4, 5, 6, 8), branch=(0, 1, 2, 3)),
        "dicache": _dialled(
            "dicache",
            "threshold",
            (0.005, 20.0),
            error=("delta_y", "delta_minus"),
            warmup_steps=(2,),
        ),
        "dit_block": _each(
            "dit_block", step_start=(0, 2), step_interval=(2, 3, 4, 5), block_start=(0, 1)
        ),
        "easycache": _dialled("easycache", "threshold", (0.002, 20.0), warmup_steps=(2,)),
        "fastercache": _each(
            "fastercache",
            guidance_interval=(3, 8),
            guidance_window=((-1, 1001),),
            attention_interval=(2, 6),
            attention_window=((-1, 1001),),
        ),
        "fbcache": _dialled("fbcache", "threshold", (0.005, 2.0), max_consecutive_skips=(3, 28)),
        "fora": _each("fora", interval=(2, 3, 4, 5, 6), countdown=(False, True)),
        "invariant": _each("invariant"),
        "magcache": [
            variant
            for cap, retention in ((3, 0.1), (6, 0.05))
            for variant in _dialled(
                "magcache",
                "threshold",
                (0.002, 3.0),
                retention=(retention,),
                max_consecutive_skips=(cap,),
            )
        ],
        "pab": [
            *_each("pab", spatial_range=(2, 6), spatial_window=((0, 1001),)),
            *_each("pab", spatial_range=(2, 6), cross_range=(6,), spatial_window=((0, 1001),)),
        ],
        "seacache": _dialled(
            "seacache", "threshold", (0.01, 10.0), order=(1,), max_consecutive_skips=(2, 5)
        ),
        "taylorseer": [
            *_each(
                "taylorseer",
                interval=(2, 3, 4, 5, 6, 7),
                order=(1, 2),
                scope=("output",),
                basis=("newton", "taylor"),
                phase=("published", "diffusers"),
                warmup_steps=(2, 4),
            ),
            *_each(
                "taylorseer",
                interval=(2, 3, 4),
                order=(1,),
                scope=("submodules", "stack"),
                warmup_steps=(1,),
            ),
        ],
        "teacache": _dialled("teacache", "threshold", (0.005, 20.0)),
    }


def _each(strategy: str, **options: tuple[Any, ...]) -> list[Variant]:
    return [
        named(strategy, **dict(zip(options, chosen, strict=True)))
        for chosen in product(*options.values())
    ]


def _dialled(
    strategy: str, dial: str, span: tuple[float, float], **options: tuple[Any, ...]
) -> list[Variant]:
    return [
        Variant(variant.install, variant.fixed, dial, span)
        for variant in _each(strategy, **options)
    ]
