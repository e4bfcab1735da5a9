"""Options with which every strategy skips something in generations as short as the tests'."""

from __future__ import annotations

from typing import Any

import autocache
import tiny

STEPS = 6
OPTIONS: dict[str, dict[str, Any]] = {
    "adacache": {"codebook": ((1e9, 2),), "last_steps": 1},
    "adastep": {"threshold": 1e9, "last_steps": 0},
    "customcache": {"coefficients": (1.0, 0.0), "threshold": 1e4},
    "dbcache": {"warmup_steps": 1, "fn": 1, "threshold": 0.5},
    "dicache": {"threshold": 2.0, "warmup_steps": 1},
    "dit_block": {"step_start": 0, "step_interval": 3},
    "easycache": {"threshold": 1.0, "warmup_steps": 1, "last_steps": 0},
    "fbcache": {"threshold": 0.5},
    "magcache": {"ratios": (1.0,) * STEPS, "warmup_steps": 1},
    "schedule": {"steps": (0, 2, 3), "total": STEPS},
    "seacache": {"threshold": 0.5},
    "taylorseer": {"interval": 2, "order": 1, "warmup_steps": 1},
    "teacache": {"coefficients": (1.0, 0.0), "threshold": 1e4},
}
NAMES = tuple(info.name for info in autocache.strategies())
REFUSED = {
    *((name, "sd") for name in tiny.ON_BLOCKS),
    ("deepcache", "flux"),
    ("deepcache", "wan"),
    ("seacache", "flux"),
}
"""Strategies that do not apply: no stacks of blocks, no levels, no grid of pixels."""


def pairs(*pipelines: str) -> list[tuple[str, str]]:
    """Pipeline and strategy, for every strategy that applies to it."""
    return [(p, name) for name in NAMES for p in pipelines if (name, p) not in REFUSED]


def patch(target: Any, strategy: str, **options: Any) -> autocache.Patch:
    """The strategy at work on a tiny model or pipeline."""
    if strategy in OPTIONS:
        return autocache.patch(target, strategy, **OPTIONS[strategy] | options)
    return autocache.patch(target, tiny.choice(strategy), **options)
