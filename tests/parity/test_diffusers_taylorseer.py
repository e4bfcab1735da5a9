"""TaylorSeer as diffusers implements it, step by step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import TaylorSeerCacheConfig
from torch import nn

import autocache
from autocache.how import Extrapolate
from autocache.when import Interval
from autocache.where import Submodules
from tiny import build

STEPS = 16
# diffusers adds up differences, we add up values by weight, both in float32. High orders over long
# gaps multiply what the last place differs by, a hundredfold at order 4.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}
SUBMODULES = [
    r"transformer_blocks\.\d+\.(attn|ff|ff_context)",
    r"single_transformer_blocks\.\d+\.(attn|proj_mlp)",
]


@torch.no_grad()
def outputs(
    model: Any, inputs: Any, branches: dict[str, float] | None = None
) -> dict[str, list[torch.Tensor]]:
    """The predictions of each guidance branch, of a latent that moves on a curve."""
    scale = 0.001 if type(model).__name__.startswith("Flux") else 1.0
    branches = branches or {"cond": 1.0}
    made: dict[str, list[torch.Tensor]] = {name: [] for name in branches}
    for step in range(STEPS):
        for name, unlike in branches.items():
            given = inputs((960 - 60 * step) * scale)
            given["hidden_states"] = given["hidden_states"] * (1 + 0.01 * step**1.5)
            given["encoder_hidden_states"] = given["encoder_hidden_states"] * unlike
            with model.cache_context(name):
                made[name].append(model(**given)[0].clone())
    return made


def running(model: nn.Module, path: str) -> list[int]:
    """Counts, per denoiser call, how often the module of that path really ran."""
    counts: list[int] = []
    model.register_forward_pre_hook(lambda *_: counts.append(0))
    module = model.get_submodule(path)
    module.register_forward_hook(lambda *_: counts.__setitem__(-1, counts[-1] + 1))
    return counts


def same(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> None:
    for step, (own, other) in enumerate(zip(ours, theirs, strict=True)):
        torch.testing.assert_close(own, other, **TOLERANCE, msg=lambda m, s=step: f"step {s}: {m}")


SCHEDULES = [(5, 3, 1), (2, 3, 2), (4, 1, 1), (3, 2, 0), (5, 4, 3), (3, 5, 4)]


@pytest.mark.parametrize(("interval", "before", "order"), SCHEDULES)
def test_submodules(interval, before, order):
    """The same steps are computed, attention and feed-forward are forecast alike."""
    theirs, inputs = build("FluxTransformer2DModel")
    counted = running(theirs, "transformer_blocks.1.attn.to_q")
    plain = outputs(theirs, inputs)["cond"]
    counted.clear()
    theirs.enable_cache(
        TaylorSeerCacheConfig(
            cache_interval=interval,
            disable_cache_before_step=before,
            max_order=order,
            taylor_factors_dtype=torch.float32,
            cache_identifiers=SUBMODULES,
        )
    )
    expected = outputs(theirs, inputs)["cond"]

    ours, _ = build("FluxTransformer2DModel")
    options: dict[str, Any] = {"interval": interval, "order": order, "phase": "diffusers"}
    with autocache.patched(ours, "taylorseer", warmup_steps=before, **options) as patch:
        actual = outputs(ours, inputs)["cond"]
        steps = patch.stats().steps
    computed = [step.action == "computed" for step in steps]
    assert computed == [count == 1 for count in counted]
    assert before <= sum(computed) < STEPS - 4
    same(actual, expected)
    forecast = [not torch.equal(a, p) for a, p in zip(actual, plain, strict=True)]
    assert forecast == [not one for one in computed]


def test_attention_alone_until_a_step():
    """diffusers' default choice of modules, and its `disable_cache_after_step`."""
    theirs, inputs = build("FluxTransformer2DModel")
    counted = running(theirs, "single_transformer_blocks.2.attn.to_q")
    theirs.enable_cache(
        TaylorSeerCacheConfig(
            cache_interval=4, disable_cache_after_step=12, taylor_factors_dtype=torch.float32
        )
    )
    expected = outputs(theirs, inputs)["cond"]
    ours, _ = build("FluxTransformer2DModel")
    with autocache.patched(
        ours,
        when=Interval(4, start=2, phase=2, history=3),
        where=Submodules(attention=("joint",)),
        how=Extrapolate(1),
        step_window=(0, 11),
    ) as patch:
        actual = outputs(ours, inputs)["cond"]
        computed = [step.action == "computed" for step in patch.stats().steps]
    assert computed == [count == 1 for count in counted]
    assert all(computed[12:])
    same(actual, expected)


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("FluxTransformer2DModel", "single_transformer_blocks.2.proj_mlp"),
        ("WanTransformer3DModel", "blocks.1.ffn"),
        ("QwenImageTransformer2DModel", "transformer_blocks.0.img_mlp"),
    ],
)
def test_lite_mode_is_the_output(name, path, order):
    """diffusers leaves the blocks out by zeros and forecasts the last projection; we leave out the
    call and forecast what it returns."""
    theirs, inputs = build(name)
    counted = running(theirs, path)
    theirs.enable_cache(
        TaylorSeerCacheConfig(
            cache_interval=3,
            disable_cache_before_step=4,
            max_order=order,
            taylor_factors_dtype=torch.float32,
            use_lite_mode=True,
        )
    )
    expected = outputs(theirs, inputs)["cond"]
    ours, _ = build(name)
    options: dict[str, Any] = {"interval": 3, "order": order, "phase": "diffusers"}
    with autocache.patched(ours, "taylorseer", scope="output", warmup_steps=4, **options) as patch:
        actual = outputs(ours, inputs)["cond"]
        stats = patch.stats()
    computed = [step.action == "computed" for step in stats.steps]
    assert computed == [count == 1 for count in counted]
    assert stats.denoiser.run == sum(computed) < STEPS - 5
    same(actual, expected)


def test_guidance_branches():
    """Two branches that take turns under their names are forecast alike."""
    branches = {"cond": 1.0, "uncond": -2.0}
    theirs, inputs = build("FluxTransformer2DModel")
    theirs.enable_cache(
        TaylorSeerCacheConfig(taylor_factors_dtype=torch.float32, cache_identifiers=SUBMODULES)
    )
    expected = outputs(theirs, inputs, branches)
    ours, _ = build("FluxTransformer2DModel")
    with autocache.patched(ours, "taylorseer", phase="diffusers"):
        actual = outputs(ours, inputs, branches)
    for name in branches:
        same(actual[name], expected[name])
    assert not torch.allclose(actual["cond"][8], actual["uncond"][8])
