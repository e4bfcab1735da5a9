"""The caches that random programs put on: every strategy, with limits, in lists, as a dry run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import autocache
from autocache import errors

EVERY_OTHER = {"step_start": 0, "step_interval": 2}
AMPLE = "1MiB"
ALL_TIMES = (-1.0, 1001.0)


@dataclass(frozen=True)
class Cache:
    """Arguments of `autocache.patch`. Equal texts are equal caches."""

    strategy: Any = None
    params: dict[str, Any] = field(default_factory=dict)
    never: bool = False
    """It changes nothing of what is made."""

    @property
    def limited(self) -> bool:
        """Its memory limit may be reached."""
        return self.params.get("memory_limit", AMPLE) != AMPLE

    def on(self, target: Any, **options: Any) -> autocache.Patch:
        return autocache.patch(target, self.strategy, **self.params, **options)

    def __hash__(self) -> int:
        return hash(repr(self))


ANYWHERE = [
    Cache(),
    Cache("auto", {"speedup": 2.5, "warmup_steps": 1}),
    Cache("auto", {"speedup": 1.0}, never=True),
    Cache("adastep", {"threshold": 100.0, "warmup_steps": 1}),
    Cache("adastep", {"threshold": 0}, never=True),
    Cache("attention", EVERY_OTHER),
    Cache("attention", {**EVERY_OTHER, "kinds": ("self", "joint", "cross")}),
    Cache("attention", {"step_interval": 1}, never=True),
    Cache("attention", {**EVERY_OTHER, "enabled": False}),
    Cache("attention", {**EVERY_OTHER, "keep": True}),
    Cache("attention", {**EVERY_OTHER, "dry_run": True}, never=True),
    Cache("attention", {**EVERY_OTHER, "memory_limit": 100, "memory_fit": "int8"}),
    Cache("attention", {**EVERY_OTHER, "memory_limit": "8KiB"}),
    Cache("attention", {**EVERY_OTHER, "memory_limit": AMPLE}),
    Cache("easycache", {"threshold": 1e9, "warmup_steps": 1}),
    Cache(
        "easycache", {"threshold": 1e9, "warmup_steps": 1, "max_skips": 1, "memory_limit": AMPLE}
    ),
    Cache("fora", {"interval": 2, "warmup_steps": 1}),
    Cache("fora", {"interval": 3, "countdown": True}),
    Cache("pab", {"spatial_window": ALL_TIMES, "spatial_range": 2}),
    Cache("pab", {"spatial_range": 1, "cross_range": 1}, never=True),
    Cache("schedule", {"steps": (0, 2), "total": 4}),
    Cache("taylorseer", {"interval": 2, "order": 1, "warmup_steps": 1}),
    Cache("taylorseer", {"interval": 3, "scope": "output", "warmup_steps": 1}),
    Cache("taylorseer", {"interval": 2, "dry_run": True, "warmup_steps": 1}, never=True),
    Cache("fewer_steps", {"ratio": 0.5}),
    Cache(["easycache", ("fewer_steps", {"steps": 3})], {"threshold": 1e9, "warmup_steps": 1}),
]

IN_STACKS = [
    Cache("dit_block", EVERY_OTHER),
    Cache("dit_block", {**EVERY_OTHER, "block_start": 0, "block_end": 1}),
    Cache("dit_block", {**EVERY_OTHER, "dry_run": True}, never=True),
    Cache("dit_block", {**EVERY_OTHER, "memory_limit": 5000, "memory_fit": ("bf16", "fewer")}),
    Cache("dit_block", {**EVERY_OTHER, "memory_limit": "16KiB", "memory_fit": ("fp8", "int8")}),
    Cache("dit_block", {**EVERY_OTHER, "enabled": False}),
    Cache("teacache", {"coefficients": (1.0, 0.0), "warmup_steps": 1}),
    Cache("teacache", {"coefficients": (1.0, 0.0), "threshold": 1e9, "last_steps": 1}),
    Cache("teacache", {"coefficients": (1.0, 0.0), "threshold": 0}, never=True),
    Cache("customcache", {"coefficients": (1.0, 0.0), "threshold": 1e9, "order": 1}),
    Cache("fbcache", {"threshold": 0.9}),
    Cache("fbcache", {"threshold": 1e9, "step_window": (1, 2), "memory_limit": AMPLE}),
    Cache("fbcache", {"threshold": 1e9, "shared_decisions": True}),
    Cache("fbcache", {"threshold": 0}, never=True),
    Cache("dbcache", {"threshold": 0.9, "warmup_steps": 1, "fn": 1}),
    Cache("dbcache", {"threshold": 0.9, "warmup_steps": 1, "bn": 1, "fn": 1, "order": 1}),
    Cache("dicache", {"threshold": 10.0, "warmup_steps": 2}),
    Cache("adacache", {"codebook": [(1e9, 2)]}),
    Cache("magcache", {"ratios": [1.0, 1.01, 1.0, 0.99], "retention": 0.25, "threshold": 9.0}),
    Cache("magcache", {"ratios": [1.0, 1.0], "threshold": 0}, never=True),
    Cache("taylorseer", {"interval": 2, "scope": "stack", "order": 2, "warmup_steps": 1}),
    Cache(
        "fastercache",
        {"attention_window": ALL_TIMES, "guidance_window": ALL_TIMES, "guidance": "sequential"},
    ),
    Cache([("fbcache", {"threshold": 0.9}), "invariant", ("fewer_steps", {"steps": 3})]),
    Cache([("attention", {"blocks": (0, 1)}), ("dit_block", {"blocks": (1, 3)})], EVERY_OTHER),
]

IN_WAN = [
    Cache("invariant", never=True),
    Cache("seacache", {"threshold": 1e9, "warmup_steps": 1}),
]

IN_FLUX = [Cache("invariant", never=True)]

IN_LEVELS = [
    Cache("deepcache", {"interval": 2}),
    Cache("deepcache", {"interval": 2, "branch": 1}),
    Cache("deepcache", {"interval": 1}, never=True),
    Cache("deepcache", {"interval": 2, "dry_run": True}, never=True),
    Cache("deepcache", {"interval": 3, "memory_limit": 1000, "memory_fit": "int8"}),
]


def name_of(cache: Cache) -> str:
    """As the stats say it."""
    if not isinstance(cache.strategy, list):
        return cache.strategy or "auto"
    return "+".join(one if isinstance(one, str) else one[0] for one in cache.strategy)


def for_kind(kind: str) -> list[Cache]:
    if kind.endswith(("sd", "unet")):
        return ANYWHERE + IN_LEVELS
    return ANYWHERE + IN_STACKS + (IN_WAN if kind.endswith("wan") else IN_FLUX)


REFUSED: list[tuple[type[errors.AutocacheError], Cache]] = [
    (errors.UnknownStrategyError, Cache("teacash")),
    (errors.ParameterError, Cache("attention", {"step_intervall": 2})),
    (errors.ParameterError, Cache("attention", {"step_interval": 0})),
    (errors.ParameterError, Cache("attention", {"blocks": (2, 99)})),
    (errors.ParameterError, Cache("attention", {"memory_limit": "banana"})),
    (errors.ParameterError, Cache([])),
    (errors.SpecError, Cache("attention", {"spec": "/no/such/spec.yaml"})),
    (errors.PatchError, Cache(["adastep", "attention"])),
    (errors.PatchError, Cache(["fewer_steps", "fewer_steps"])),
]
"""What no model takes, and the error that says so."""
