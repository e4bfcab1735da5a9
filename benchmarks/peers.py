"""The caches of other libraries, at settings that reach any compute they can."""

from __future__ import annotations

import ast
import contextlib
import io
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from typing import Any

import diffusers
import torch
from DeepCache import DeepCacheSDHelper
from diffusers.hooks import apply_faster_cache, apply_pyramid_attention_broadcast
from torch import nn

from cases import Case
from peer_cache_dit import cache_dit_groups
from peer_mindiesd import mindiesd_rows
from variants import Variant, on_a_copy

CONFIGS = {
    "first block": diffusers.FirstBlockCacheConfig,
    "TaylorSeer": diffusers.TaylorSeerCacheConfig,
    "MagCache": diffusers.MagCacheConfig,
    "SeaCache": diffusers.SeaCacheConfig,
}
FLUX_MODULES = [
    r"transformer_blocks\.\d+\.(attn|ff|ff_context)",
    r"single_transformer_blocks\.\d+\.(attn|proj_mlp)",
]
WAN_MODULES = [r"blocks\.\d+\.(attn1|attn2|ffn)"]


Groups = Mapping[str, list[Variant]]
"""Variants of one method by the way it goes about it."""


def peers(case: Case, guidance: bool, steps: int) -> dict[str, Groups | str]:
    """The variants of each peer, or the reason why it has none for this pipeline."""
    alone = _alone(case, guidance, steps)
    groups = {name: one if isinstance(one, str) else {name: one} for name, one in alone.items()}
    unet = case.denoiser == "unet"
    return {
        "cache-dit": "no support for UNets" if unet else cache_dit_groups(case, guidance, steps),
        **groups,
    }


def _alone(case: Case, guidance: bool, steps: int) -> dict[str, list[Variant] | str]:
    if case.denoiser == "unet":
        no_mixin = "UNet2DConditionModel has no enable_cache"
        return {
            **{f"diffusers {name}": no_mixin for name in CONFIGS},
            **mindiesd_rows(case, guidance, steps),
            "diffusers PAB": _broadcast(case),
            "diffusers FasterCache": _faster(case, guidance),
            "DeepCache": [
                Variant(_deepcache, {"cache_interval": interval, "cache_branch_id": branch})
                for interval, branch in product((2, 3, 4, 5, 6, 8), (0, 1, 2, 3))
            ],
        }
    return {
        "diffusers TaylorSeer": _taylor(case),
        "diffusers first block": [
            Variant(_diffusers(case), {"cache": "first block"}, "threshold", (0.005, 2.0))
        ],
        "diffusers MagCache": [
            Variant(
                _diffusers(case),
                {
                    "cache": "MagCache",
                    "max_skip_steps": most,
                    "retention_ratio": retention,
                    "num_inference_steps": steps,
                },
                "threshold",
                (0.002, 3.0),
            )
            for most, retention in ((3, 0.1), (6, 0.05))
        ],
        "diffusers SeaCache": [
            Variant(
                _diffusers(case),
                {"cache": "SeaCache", "residual_order": order, "max_consecutive_cached": most},
                "threshold",
                (0.01, 10.0),
            )
            for order, most in ((1, 2), (1, 5))
        ],
        "diffusers PAB": _broadcast(case),
        "diffusers FasterCache": _faster(case, guidance),
        "DeepCache": "a helper for UNets alone",
        **mindiesd_rows(case, guidance, steps),
    }


def _taylor(case: Case) -> list[Variant]:
    modules = FLUX_MODULES if case.name == "shapes" else WAN_MODULES
    return [
        Variant(
            _diffusers(case),
            {
                "cache": "TaylorSeer",
                "cache_interval": interval,
                "disable_cache_before_step": before,
                "max_order": order,
                "taylor_factors_dtype": "float32",
                **way,
            },
        )
        for way, intervals, befores, orders in (
            ({"use_lite_mode": True}, range(2, 8), (2, 4), (1, 2)),
            ({"cache_identifiers": modules}, range(2, 6), (2, 4), (1,)),
        )
        for interval, before, order in product(intervals, befores, orders)
    ]


def _diffusers(case: Case) -> Callable[..., Any]:
    @contextlib.contextmanager
    def install(pipe: Any, parameters: dict[str, Any]) -> Iterator[None]:
        given = dict(parameters)
        cache = given.pop("cache")
        if "taylor_factors_dtype" in given:
            given["taylor_factors_dtype"] = getattr(torch, given["taylor_factors_dtype"])
        with on_a_copy(pipe, case.denoiser):
            getattr(pipe, case.denoiser).enable_cache(CONFIGS[cache](**given))
            yield

    return install


def mag_ratios(pipe: Any, steps: int, draw: Callable[[], object]) -> list[float]:
    """MagCache's ratios measured on this pipeline as diffusers has it done: it prints them."""
    printed = io.StringIO()
    with on_a_copy(pipe, "transformer"), contextlib.redirect_stdout(printed):
        config = diffusers.MagCacheConfig(calibrate=True, num_inference_steps=steps)
        pipe.transformer.enable_cache(config)
        draw()
    measured = [
        ast.literal_eval(line) for line in printed.getvalue().splitlines() if line.startswith("[1")
    ]
    ratios = torch.tensor([one for one in measured if len(one) == steps]).mean(0)
    return [round(ratio, 5) for ratio in ratios.tolist()]


def _clock(pipe: Any, model: nn.Module) -> Callable[[], Any]:
    """The present timestep, from the pipeline or else from what it hands to its denoiser."""
    if hasattr(type(pipe), "current_timestep"):
        return lambda: pipe.current_timestep
    seen = [0.0]
    model.register_forward_pre_hook(lambda _, args: seen.__setitem__(0, float(args[1])))
    return lambda: seen[0]


def _broadcast(case: Case) -> list[Variant]:
    @contextlib.contextmanager
    def install(pipe: Any, parameters: dict[str, Any]) -> Iterator[None]:
        with on_a_copy(pipe, case.denoiser):
            model = getattr(pipe, case.denoiser)
            config = diffusers.PyramidAttentionBroadcastConfig(
                current_timestep_callback=_clock(pipe, model), **parameters
            )
            apply_pyramid_attention_broadcast(model, config)
            yield

    return [
        Variant(
            install,
            {
                "spatial_attention_block_skip_range": reach,
                "cross_attention_block_skip_range": reach,
                "spatial_attention_timestep_skip_range": (low, high),
                "cross_attention_timestep_skip_range": (low, high),
            },
        )
        for reach, (low, high) in product((3, 6), ((100, 950), (0, 1001)))
    ]


def _faster(case: Case, guidance: bool) -> list[Variant]:
    batched = guidance and case.branches == "batched"

    @contextlib.contextmanager
    def install(pipe: Any, parameters: dict[str, Any]) -> Iterator[None]:
        with on_a_copy(pipe, case.denoiser):
            model = getattr(pipe, case.denoiser)
            config = diffusers.FasterCacheConfig(
                current_timestep_callback=_clock(pipe, model),
                attention_weight_callback=lambda _: 0.5,
                tensor_format="BCHW",
                is_guidance_distilled=not batched,
                **parameters,
            )
            apply_faster_cache(model, config)
            yield

    return [
        Variant(
            install,
            {
                "spatial_attention_block_skip_range": reach,
                "spatial_attention_timestep_skip_range": (-1, 960),
                "unconditional_batch_skip_range": reach,
                "unconditional_batch_timestep_skip_range": (-1, 960),
            },
        )
        for reach in (2, 4, 8)
    ]


@contextlib.contextmanager
def _deepcache(pipe: Any, parameters: dict[str, Any]) -> Iterator[None]:
    with on_a_copy(pipe, "unet"):
        helper = DeepCacheSDHelper(pipe=pipe)
        helper.set_params(**parameters)
        helper.enable()
        try:
            yield
        finally:
            helper.disable()
