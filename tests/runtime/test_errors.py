"""What a user gets wrong is named, with what was meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import PyramidAttentionBroadcastConfig
from pipelines.tiny_pipelines import make, run
from torch import nn

import autocache
import tiny
from autocache import errors

WRONG: list[tuple[str, dict[str, Any], list[str]]] = [
    ("teacache", {"treshold": 0.1}, ["'treshold'", "'threshold'"]),
    ("teacache", {"threshold": -1}, ["threshold", "-1"]),
    ("teacache", {"threshold": "much"}, ["threshold", "'much'"]),
    ("teacache", {"coefficients": ()}, ["coefficients"]),
    ("teacache", {"warmup_steps": -1}, ["warmup_steps"]),
    ("teacache", {"max_consecutive_skips": 0}, ["max_consecutive_skips"]),
    ("teacache", {"poly_clip": "sometimes"}, ["poly_clip", "'zero'"]),
    ("teacache", {"table": "flux1-dew"}, ["flux1-dew", "'flux1-dev'"]),
    ("teacache", {"probe": "modulated_inputs", "coefficients": (1.0, 0.0)}, ["modulated_inputs"]),
    ("teacache", {"use_ret_steps": True}, ["use_ret_steps", "coefficients"]),
    ("dit_block", {"step_intervall": 2}, ["'step_intervall'", "'step_interval'"]),
    ("dit_block", {"step_interval": 0}, ["step_interval"]),
    ("dit_block", {"step_start": 5, "step_end": 4}, ["step_end=4", "step_start=5"]),
    ("dit_block", {"block_start": 4, "block_end": 4}, ["4:4", "6 blocks"]),
    ("dit_block", {"block_end": 7}, ["0:7", "<= 6"]),
    ("dit_block", {"blocks": {"transformer_block": (0, 1)}}, ["'transformer_blocks'"]),
    ("dit_block", {"blocks": {"transformer_blocks": (1, 4)}}, ["[1, 4)", "3 blocks"]),
    ("dit_block", {"blocks": {}, "block_start": 1}, ["either", "blocks"]),
    ("attention", {"kinds": ("cross",)}, ["cross", "joint"]),
    ("attention", {"kinds": ("selv",)}, ["kinds", "'self'"]),
    ("attention", {"kinds": ()}, ["kinds"]),
    ("attention", {"step_end": -1}, ["step_end"]),
    ("dit_block", {"memory_limit": "banana"}, ["banana"]),
    ("dit_block", {"memory_limit": "3 bananas"}, ["bananas"]),
    ("dit_block", {"memory_limit": "GiB"}, ["GiB"]),
    ("dit_block", {"memory_limit": 0}, ["above zero"]),
    ("dit_block", {"memory_limit": -5}, ["memory_limit"]),
]


@pytest.mark.parametrize(("strategy", "options", "said"), WRONG, ids=str)
def test_wrong_parameters(strategy: str, options: dict[str, Any], said: list[str]) -> None:
    """A parameter that is unknown or out of range is named, with what would do."""
    model, _ = tiny.build("FluxTransformer2DModel")
    with pytest.raises(errors.ParameterError) as raised:
        autocache.patch(model, strategy, **options)
    for words in said:
        assert words in str(raised.value)
    assert "\n" not in str(raised.value)
    assert isinstance(raised.value, errors.AutocacheError)
    assert not autocache.is_patched(model)


@pytest.mark.parametrize(
    ("name", "meant"), [("teacach", "teacache"), ("atention", "attention"), ("ditblock", "dit_")]
)
def test_unknown_strategy(name: str, meant: str) -> None:
    """A misspelt strategy gets the nearest name."""
    model, _ = tiny.build("FluxTransformer2DModel")
    with pytest.raises(errors.UnknownStrategyError, match=f"{name}.*{meant}"):
        autocache.patch(model, name)


def test_a_strategy_of_no_kind() -> None:
    """What is neither a name nor a strategy is refused, and so is a name like nothing known."""
    model, _ = tiny.build("FluxTransformer2DModel")
    with pytest.raises(errors.UnknownStrategyError, match=r"attention.*dit_block.*teacache"):
        autocache.patch(model, "zzz")
    with pytest.raises(errors.ParameterError, match="3"):
        autocache.patch(model, 3)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "target", [None, 3, "flux", {}, object(), torch.zeros(2), [nn.Linear(1, 1)]]
)
def test_a_target_that_is_no_model(target: Any) -> None:
    """A target that is neither a pipeline nor a module is refused by its type's name."""
    with pytest.raises(errors.UnknownModelError, match=type(target).__name__):
        autocache.patch(target, "dit_block")
    assert not autocache.is_patched(target)
    autocache.unpatch(target)


def test_stats_of_what_is_not_patched() -> None:
    """stats names what it was given and says to patch first."""
    with pytest.raises(errors.PatchError, match=r"Linear.*patch"):
        autocache.stats(nn.Linear(1, 1))


def test_a_model_nobody_described() -> None:
    """A module without a spec is refused by its class's name."""
    with pytest.raises(errors.UnknownModelError, match="Linear"):
        autocache.patch(nn.Linear(1, 1), "dit_block")


def test_a_spec_that_does_not_exist(tmp_path: Path) -> None:
    """A spec file that is missing, or a name nobody knows, is named."""
    model, _ = tiny.build("FluxTransformer2DModel")
    missing = tmp_path / "missing.yaml"
    with pytest.raises(errors.AutocacheError, match=r"missing\.yaml"):
        autocache.patch(model, "dit_block", spec=missing)
    with pytest.raises(errors.AutocacheError, match="FluxTransformer2DModle"):
        autocache.patch(model, "dit_block", spec="FluxTransformer2DModle")
    assert not autocache.is_patched(model)


def test_diffusers_own_cache_is_refused_in_either_order() -> None:
    """Two caches are never stacked, and either is free again when the other is off."""
    model, inputs = tiny.build("FluxTransformer2DModel")
    config = PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2, current_timestep_callback=lambda: 500
    )
    patch = autocache.patch(model, "dit_block")
    with pytest.raises(errors.PatchError, match="unpatch"):
        model.enable_cache(config)
    assert not model.is_cache_enabled
    patch.unpatch()
    model.enable_cache(config)
    with pytest.raises(errors.PatchError, match="disable_cache"):
        autocache.patch(model, "dit_block")
    assert not autocache.is_patched(model)
    model.disable_cache()
    with autocache.patch(model, "dit_block"), torch.no_grad():
        assert model(**inputs(0.5))[0].isfinite().all()


@pytest.mark.parametrize("strategy", ["teacache", "dit_block", "attention"])
@pytest.mark.parametrize("name", ["flux", "wan"])
def test_too_small_a_memory_limit(name: str, strategy: str) -> None:
    """Keeping more than the limit is an error, after which the pipeline works as before."""
    pipe = make(name)
    plain = run(pipe)
    patch = autocache.patch(pipe, tiny.choice(strategy), memory_limit="1KiB")
    for _ in range(2):
        with pytest.raises(errors.MemoryLimitError, match=r"1 KiB.*raise the limit"):
            run(pipe)
        assert patch.stats().bytes_held <= 1024
        assert patch.stats().bytes_peak <= 1024
    free = autocache.patch(pipe, tiny.choice(strategy))
    cached = run(pipe)
    peak = free.stats().bytes_peak
    assert not torch.equal(cached, plain)
    with autocache.patch(pipe, tiny.choice(strategy), memory_limit=peak) as enough:
        assert torch.equal(run(pipe), cached)
        assert 0 < enough.stats().bytes_peak <= peak
    assert torch.equal(run(pipe), plain)
