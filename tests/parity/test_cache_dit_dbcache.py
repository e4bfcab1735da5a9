"""DBCache as cache-dit implements it: the same steps of each block stack, the same latents."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import cache_dit
import diffusers
import pytest
import torch
from cache_dit import BlockAdapter, DBCacheConfig, ForwardPattern, TaylorSeerCalibratorConfig
from pipelines import tiny_pipelines

import autocache
import tiny
from autocache.when.mask import PUBLISHED, published

STEPS = 20
# Both add the same residual to the same tensor; only forecasts are summed in another order.
EXACT: dict[str, Any] = {"rtol": 0.0, "atol": 0.0}
FORECAST: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-4}
FILLED = ("reused", "predicted")


def flux() -> Any:
    return tiny_pipelines.flux(num_layers=5, num_single_layers=4)


def wan() -> Any:
    pipeline: Any = diffusers.WanPipeline
    return pipeline(
        tokenizer=None,
        text_encoder=None,
        vae=None,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        transformer=tiny.build("WanTransformer3DModel", num_layers=5)[0],
    )


def generate(pipe: Any, guided: bool = False, steps: int = STEPS) -> torch.Tensor:
    pipe.set_progress_bar_config(disable=True)
    return tiny_pipelines.run(pipe, steps=steps, guided=guided)


@contextlib.contextmanager
def cached_by_cache_dit(pipe: Any, adapter: Any, config: dict, calibrator: Any) -> Iterator[None]:
    """cache-dit at work on a pipeline; it replaces the class's `__call__`, which is put back."""
    call = type(pipe).__call__
    settings = DBCacheConfig(**config)
    try:
        cache_dit.enable_cache(adapter, cache_config=settings, calibrator_config=calibrator)
        yield
    finally:
        cache_dit.disable_cache(pipe)
        type(pipe).__call__ = call


def apart(pipe: Any) -> BlockAdapter:
    """Each block stack a list with a decision of its own."""
    model = pipe.transformer
    if isinstance(pipe, diffusers.WanPipeline):
        blocks, pattern, separate = [model.blocks], ForwardPattern.Pattern_2, True
    else:
        blocks = [model.transformer_blocks, model.single_transformer_blocks]
        pattern, separate = ForwardPattern.Pattern_1, False
    return BlockAdapter(
        pipe=pipe,
        transformer=model,
        blocks=blocks,
        forward_pattern=[pattern] * len(blocks),
        has_separate_cfg=separate,
    )


def theirs(
    make: Callable[[], Any],
    config: dict,
    *,
    order: int = 0,
    guided: bool = False,
    joined: bool = False,
    steps: int = STEPS,
) -> tuple[torch.Tensor, list[list[int]]]:
    """The latents, and the cached steps of each list and guidance branch."""
    pipe = make()
    config = {"Bn_compute_blocks": 0, "max_warmup_steps": 4, **config}
    calibrator = TaylorSeerCalibratorConfig(taylorseer_order=order) if order else None
    with cached_by_cache_dit(pipe, pipe if joined else apart(pipe), config, calibrator):
        latents = generate(pipe, guided, steps)
        stats = cache_dit.summary(pipe, logging=False)
    # Of several lists, the last one's entry also comes first.
    stats = stats[1:] if len(stats) > 1 else stats
    branches = [[s.cached_steps, s.cfg_cached_steps][: 1 + guided] for s in stats]
    return latents, [list(steps) for branch in branches for steps in branch]


def ours(
    make: Callable[[], Any], *, guided: bool = False, steps: int = STEPS, **options: Any
) -> tuple[torch.Tensor, list[list[int]]]:
    """The same of `dbcache`."""
    pipe = make()
    with autocache.patched(pipe, "dbcache", **{"warmup_steps": 4, **options}) as patch:
        latents = generate(pipe, guided, steps)
        records = patch.stats().steps
    names = dict.fromkeys(name for record in records for name in record.sites)
    branches = dict.fromkeys(record.branch for record in records)
    skipped = [
        [r.step for r in records if r.branch == branch and r.sites.get(name) in FILLED]
        for name in names
        for branch in branches
    ]
    return latents, skipped


FLUX = [
    pytest.param(
        {"Fn_compute_blocks": 1, "residual_diff_threshold": 0.25},
        {"fn": 1, "threshold": 0.25},
        id="F1B0",
    ),
    pytest.param(
        {"Fn_compute_blocks": 2, "Bn_compute_blocks": 1, "residual_diff_threshold": 0.3},
        {"fn": 2, "bn": 1, "threshold": 0.3},
        id="F2B1",
    ),
    pytest.param(
        {
            "Fn_compute_blocks": 1,
            "residual_diff_threshold": 0.5,
            "max_continuous_cached_steps": 2,
        },
        {"fn": 1, "threshold": 0.5, "max_consecutive_skips": 2},
        id="at-most-two-in-a-row",
    ),
    pytest.param(
        {"Fn_compute_blocks": 1, "residual_diff_threshold": 0.3, "max_cached_steps": 3},
        {"fn": 1, "threshold": 0.3, "max_skips": 3},
        id="at-most-three",
    ),
    pytest.param(
        {
            "Fn_compute_blocks": 1,
            "residual_diff_threshold": 0.4,
            "max_warmup_steps": 9,
            "warmup_interval": 3,
        },
        {"fn": 1, "threshold": 0.4, "warmup_steps": 9, "warmup_interval": 3},
        id="thinned-warm-up",
    ),
    pytest.param(
        {
            "Fn_compute_blocks": 1,
            "residual_diff_threshold": 0.4,
            "max_accumulated_residual_diff_threshold": 1.5,
        },
        {"fn": 1, "threshold": 0.4, "accumulated_limit": 1.5, "accumulated_resets": False},
        id="accumulated-for-good",
    ),
    pytest.param(
        {
            "Fn_compute_blocks": 1,
            "residual_diff_threshold": 0.4,
            "steps_computation_mask": cache_dit.steps_mask(total_steps=STEPS, mask_policy="fast"),
        },
        {"fn": 1, "threshold": 0.4, "mask": "fast", "warmup_steps": None},
        id="mask-dynamic",
    ),
    pytest.param(
        {
            "Fn_compute_blocks": 2,
            "residual_diff_threshold": 0.01,
            "steps_computation_mask": cache_dit.steps_mask(total_steps=STEPS, mask_policy="ultra"),
            "steps_computation_policy": "static",
        },
        {"fn": 2, "mask": "ultra", "mask_policy": "static", "warmup_steps": None},
        id="mask-static",
    ),
    pytest.param(
        {"Fn_compute_blocks": 1, "residual_diff_threshold": 1.0, "max_cached_steps": 9},
        {"fn": 1, "threshold": 1.0, "max_skips": 9},
        id="always",
    ),
]


@pytest.mark.parametrize(("config", "options"), FLUX)
def test_same_steps_and_same_latents(config, options):
    """Bit for bit what cache-dit makes, from the same steps of each of the two stacks."""
    expected, cached = theirs(flux, config)
    latents, skipped = ours(flux, **options)
    assert skipped == cached
    assert any(0 < len(steps) < STEPS - 4 for steps in skipped)
    torch.testing.assert_close(latents, expected, **EXACT)
    assert not torch.equal(latents, generate(flux()))


@pytest.mark.parametrize("order", [1, 2])
def test_same_forecast(order):
    """As with cache-dit's Taylor calibrator, both streams' residuals are forecast."""
    config = {
        "Fn_compute_blocks": 1,
        "residual_diff_threshold": 0.4,
        "max_continuous_cached_steps": 3,
        # Upstream forecasts only from the fourth computed step on, and the second order needs one
        # more; see the next test.
        "max_warmup_steps": 6,
    }
    expected, cached = theirs(flux, config, order=order)
    options: dict[str, Any] = {"fn": 1, "threshold": 0.4, "max_consecutive_skips": 3}
    latents, skipped = ours(flux, **options, warmup_steps=6, order=order)
    assert skipped == cached
    assert any(len(steps) > 2 for steps in skipped)
    torch.testing.assert_close(latents, expected, **FORECAST)
    reused, _ = ours(flux, **options, warmup_steps=6)
    assert not torch.allclose(latents, reused, **FORECAST)


def test_upstream_forecasts_late():
    """After two computed steps cache-dit still repeats the residual; we forecast it from there."""
    mask = "1101" + "1" * (STEPS - 4)
    config = {
        "Fn_compute_blocks": 1,
        "steps_computation_mask": [int(step) for step in mask],
        "steps_computation_policy": "static",
    }
    expected, cached = theirs(flux, config, order=1)
    options: dict[str, Any] = {"fn": 1, "mask": mask, "mask_policy": "static", "warmup_steps": None}
    forecast, skipped = ours(flux, **options, order=1)
    repeated, _ = ours(flux, **options)
    assert skipped == cached == [[2], [2]]
    torch.testing.assert_close(repeated, expected, **EXACT)
    assert not torch.allclose(forecast, expected, **FORECAST)


@pytest.mark.parametrize("shared", [False, True])
def test_same_steps_in_both_guidance_branches(shared):
    """Wan runs the branches in turns: each decides for itself, or the first one for both."""
    config = {
        "Fn_compute_blocks": 1,
        "residual_diff_threshold": 0.12,
        "enable_separate_cfg": True,
        "cfg_diff_compute_separate": not shared,
    }
    expected, cached = theirs(wan, config, guided=True)
    options = {"fn": 1, "threshold": 0.12, "shared_decisions": shared}
    latents, skipped = ours(wan, guided=True, **options)
    assert skipped == cached
    assert (skipped[0] == skipped[1]) == shared
    assert all(0 < len(steps) < STEPS - 4 for steps in skipped)
    torch.testing.assert_close(latents, expected, **EXACT)


def test_same_steps_where_all_stacks_decide_as_one():
    """cache-dit's own adapter for Flux makes one list of both stacks, as `joined` does."""
    config = {"Fn_compute_blocks": 2, "Bn_compute_blocks": 1, "residual_diff_threshold": 0.3}
    expected, cached = theirs(flux, config, joined=True)
    options = {"fn": 2, "bn": 1, "threshold": 0.3, "joined": True}
    latents, skipped = ours(flux, **options)
    assert skipped == [cached[0]] * 2
    assert 0 < len(skipped[0]) < STEPS - 4
    # It adds one residual over both stacks, we one for each: the sum in another order.
    torch.testing.assert_close(latents, expected, rtol=1e-4, atol=1e-4)


def test_masks_are_theirs_at_every_step_count():
    """The named masks have the steps of cache-dit's, however many steps there are."""
    for name in PUBLISHED:
        for total in (4, 6, *range(8, 121)):
            made = cache_dit.steps_mask(total_steps=total, mask_policy=name)
            assert published(name, total) == "".join(map(str, made)), (name, total)
