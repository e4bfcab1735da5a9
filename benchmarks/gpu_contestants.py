"""Ours and the peers' caches, all at settings that compute and skip by turns where they can.

Thresholds mean nothing on random weights: those that have one skip whenever they are allowed to.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import autocache
from gpu_models import Model
from loops import Loop

ALWAYS = 1e9
"""A threshold under which everything is."""
MEASURED = 0.99
"""The same for cache-dit, which from 1 on measures nothing."""
FIRST = 2
"""Steps that are computed before any is skipped."""
OURS: dict[str, dict[str, Any]] = {
    "auto": {"speedup": 2},
    "dit_block": {"step_start": FIRST, "step_interval": 2},
    "teacache": {
        "threshold": ALWAYS,
        "coefficients": [1.0, 0.0],
        "warmup_steps": FIRST,
        "max_consecutive_skips": 1,
    },
    "fbcache": {"threshold": ALWAYS, "warmup_steps": FIRST, "max_consecutive_skips": 1},
    "magcache": {
        "threshold": ALWAYS,
        "ratios": [1.0, 1.0],
        "retention": 0.0,
        "warmup_steps": FIRST,
        "max_consecutive_skips": 1,
    },
    "taylorseer": {"interval": 2, "order": 1, "warmup_steps": FIRST},
    "attention": {"step_start": FIRST, "step_interval": 2, "kinds": ("self", "joint", "cross")},
    "deepcache": {"interval": 2},
}
FOR_STACKS = ("dit_block", "teacache", "fbcache", "magcache")
FOR_LEVELS = ("deepcache",)


@dataclass(frozen=True)
class Contestant:
    """A way to run a denoiser, on for the length of a `with` block."""

    install: Callable[[Loop, int], contextlib.AbstractContextManager[Any]]
    """Of the loop and the number of its steps; the value is our patch, if it is ours."""
    leaves_traces: bool = False
    """The model is made anew after it."""
    pattern: str = "by turns"
    """Which steps it skips."""


def contestants(model: Model) -> dict[str, Contestant]:
    """Those that are measured on a model, the plain one first."""
    found = {"plain": Contestant(lambda loop, steps: contextlib.nullcontext(), pattern="none")}
    unfit = FOR_STACKS if model.is_unet else FOR_LEVELS
    found |= {f"autocache {name}": Contestant(_ours(name)) for name in OURS if name not in unfit}
    found |= _peers_for_unets() if model.is_unet else _peers(list(model.sub_modules))
    chosen = model.only or tuple(found)
    return {name: one for name, one in found.items() if name in chosen}


def _ours(name: str) -> Callable[[Loop, int], contextlib.AbstractContextManager[Any]]:
    return lambda loop, steps: autocache.patched(loop.pipeline, name, **OURS[name])


def _peers(sub_modules: list[str]) -> dict[str, Contestant]:
    from diffusers import (
        FirstBlockCacheConfig,
        MagCacheConfig,
        PyramidAttentionBroadcastConfig,
        TaylorSeerCacheConfig,
    )

    def magnitude(loop: Loop, steps: int) -> Any:
        return MagCacheConfig(
            threshold=ALWAYS,
            max_skip_steps=1,
            retention_ratio=FIRST / steps,
            num_inference_steps=steps,
            mag_ratios=[1.0] * steps,
        )

    def broadcast(loop: Loop, steps: int) -> Any:
        return PyramidAttentionBroadcastConfig(
            spatial_attention_block_skip_range=2,
            cross_attention_block_skip_range=2,
            spatial_attention_timestep_skip_range=(-1, 1001),
            cross_attention_timestep_skip_range=(-1, 1001),
            current_timestep_callback=lambda: loop.now,
        )

    def forecast(loop: Loop, steps: int) -> Any:
        return TaylorSeerCacheConfig(
            cache_interval=2,
            disable_cache_before_step=FIRST,
            max_order=1,
            cache_identifiers=sub_modules,
            # Half of it by default, whatever the model's is.
            taylor_factors_dtype=loop.latent.dtype,
        )

    return {
        "diffusers FirstBlockCache": Contestant(
            _diffusers(lambda loop, steps: FirstBlockCacheConfig(threshold=ALWAYS)),
            leaves_traces=True,
            pattern="all after the first",
        ),
        "diffusers FirstBlockCache, never skipping": Contestant(
            _diffusers(lambda loop, steps: FirstBlockCacheConfig(threshold=0.0)),
            leaves_traces=True,
            pattern="none",
        ),
        "diffusers MagCache": Contestant(_diffusers(magnitude), leaves_traces=True),
        "diffusers TaylorSeer": Contestant(_diffusers(forecast), leaves_traces=True),
        "diffusers PAB": Contestant(_diffusers(broadcast), leaves_traces=True),
        "cache-dit DBCache": Contestant(_cache_dit, leaves_traces=True),
    }


def _diffusers(config: Callable[[Loop, int], Any]) -> Callable[[Loop, int], Any]:
    @contextlib.contextmanager
    def install(loop: Loop, steps: int) -> Iterator[None]:
        model: Any = loop.model
        model.enable_cache(config(loop, steps))
        try:
            yield
        finally:
            model.disable_cache()

    return install


@contextlib.contextmanager
def _cache_dit(loop: Loop, steps: int) -> Iterator[None]:
    """On the model alone, as its documentation has it where no pipeline is called. The kernels of
    attention stay those of the others. It goes by itself to the next generation one step late."""
    import cache_dit

    config = cache_dit.DBCacheConfig(
        Fn_compute_blocks=1,
        Bn_compute_blocks=0,
        residual_diff_threshold=MEASURED,
        max_warmup_steps=FIRST,
        max_continuous_cached_steps=1,
        enable_separate_cfg=len(loop.branches) > 1,
        num_inference_steps=steps,
    )
    cache_dit.enable_cache(loop.model, cache_config=config, attention_backend="native")
    before = loop.announce
    loop.announce = lambda: cache_dit.refresh_context(loop.model, cache_config=config)
    try:
        yield
    finally:
        loop.announce = before
        cache_dit.disable_cache(loop.model)


def _peers_for_unets() -> dict[str, Contestant]:
    return {"DeepCache": Contestant(_deepcache, leaves_traces=True)}


@contextlib.contextmanager
def _deepcache(loop: Loop, steps: int) -> Iterator[None]:
    from DeepCache import DeepCacheSDHelper

    helper = DeepCacheSDHelper(pipe=loop.pipeline)
    helper.set_params(cache_interval=2, cache_branch_id=0)
    helper.enable()
    try:
        yield
    finally:
        helper.disable()
