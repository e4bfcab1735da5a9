"""From the caches of diffusers' `enable_cache` to autocache.

    python examples/migrating/from_diffusers.py
    python examples/migrating/from_diffusers.py --cache taylorseer

With each of the four both draw the same picture from the same steps. `pab` reuses attention alone:
its line tells in which steps an attention ran.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from bundled import STEPS, draw, load, report, watched
from diffusers import (
    FirstBlockCacheConfig,
    MagCacheConfig,
    PyramidAttentionBroadcastConfig,
    TaylorSeerCacheConfig,
)

import autocache

MAG_RATIOS = tuple(1.0 + 0.1 * (-1) ** step / (1 + step) for step in range(STEPS))
"""Made up, one per step: both are given the same ones."""

# What diffusers forecasts by default is attention alone; `taylorseer` forecasts feed-forward too.
SUBMODULES = [
    r"transformer_blocks\.\d+\.(attn|ff|ff_context)",
    r"single_transformer_blocks\.\d+\.(attn|proj_mlp)",
]


def before(pipe: Any) -> dict[str, Callable[[], Any]]:
    """A config of diffusers for each name."""
    return {
        "first_block": lambda: FirstBlockCacheConfig(threshold=0.12),
        "magcache": lambda: MagCacheConfig(
            threshold=0.06,
            max_skip_steps=3,
            retention_ratio=0.2,
            num_inference_steps=STEPS,
            mag_ratios=list(MAG_RATIOS),
        ),
        "taylorseer": lambda: TaylorSeerCacheConfig(
            cache_interval=3,
            disable_cache_before_step=4,
            max_order=1,
            taylor_factors_dtype=torch.float32,
            cache_identifiers=SUBMODULES,
        ),
        "pab": lambda: PyramidAttentionBroadcastConfig(
            spatial_attention_block_skip_range=2,
            spatial_attention_timestep_skip_range=(100, 800),
            current_timestep_callback=lambda: pipe.current_timestep,
        ),
    }


AFTER: dict[str, tuple[str, dict[str, Any]]] = {
    "first_block": ("fbcache", {"threshold": 0.12}),
    "magcache": (
        "magcache",
        {
            "threshold": 0.06,
            "max_consecutive_skips": 3,
            "retention": 0.2,
            "ratios": MAG_RATIOS,
        },
    ),
    "taylorseer": (
        "taylorseer",
        {"interval": 3, "warmup_steps": 4, "order": 1, "phase": "diffusers"},
    ),
    "pab": ("pab", {"spatial_range": 2, "spatial_window": (100, 800)}),
}
"""The same for autocache: a name and parameters. No callback: the scheduler tells the timestep."""


def main() -> None:
    """Draw with both and compare."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--cache", choices=list(AFTER), help="one of them alone")
    one = parser.parse_args().cache

    pipe = load()
    for name, (strategy, parameters) in AFTER.items():
        if one in (None, name):
            print(f"{name} -> {strategy}")
            pipe.transformer.enable_cache(before(pipe)[name]())
            theirs = draw(pipe, watched(pipe))
            pipe.transformer.disable_cache()

            autocache.patch(pipe, strategy, **parameters)
            ours = draw(pipe, watched(pipe))
            autocache.unpatch(pipe)
            report("diffusers", theirs, ours)


if __name__ == "__main__":
    main()
