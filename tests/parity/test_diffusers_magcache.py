"""MagCache step by step against the implementation in diffusers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import diffusers
import pytest
import torch
from diffusers.hooks.mag_cache import FLUX_MAG_RATIOS, MagCacheConfig
from pipelines.tiny_pipelines import FEED_FORWARD, make, run
from torch import nn

import autocache
import tiny
from autocache.spec import registry

MADE_UP = (1.0, 1.3, 1.12, 1.055, 0.97, 1.03, 1.01, 0.99, 1.02, 0.96, 0.9, 0.84)
"""None at which an error is a threshold to the last digit: diffusers adds up in float32."""

SETTINGS = [
    pytest.param(0.06, 3, 0.2, id="default"),
    pytest.param(0.24, 5, 0.1, id="fast"),
    pytest.param(0.3, 1, 0.25, id="one-at-a-time"),
    pytest.param(10.0, 4, 0.0, id="limited-by-count"),
]


def wan() -> diffusers.WanPipeline:
    """One expert, so that diffusers' count of its calls is the count of the steps."""
    pipe = diffusers.WanPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=None,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        transformer=tiny.build("WanTransformer3DModel")[0],
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@contextlib.contextmanager
def executed(model: nn.Module) -> Iterator[list[int]]:
    """How many blocks ran in each denoiser call, counted inside the blocks."""
    calls: list[int] = []
    handles = [model.register_forward_pre_hook(lambda *_: calls.append(0))]

    def ran(*_: Any) -> None:
        calls[-1] += 1

    for module in model.modules():
        inside = FEED_FORWARD.get(type(module).__name__)
        if inside is not None:
            handles.append(module.get_submodule(inside).register_forward_hook(ran))
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def theirs(pipe: Any, config: MagCacheConfig, **call: Any) -> tuple[torch.Tensor, list[bool]]:
    pipe.transformer.enable_cache(config)
    with executed(pipe.transformer) as calls:
        output = run(pipe, **call)
    return output, [ran == 0 for ran in calls]


def ours(pipe: Any, parameters: dict[str, Any], **call: Any) -> tuple[torch.Tensor, list[bool]]:
    with (
        autocache.patched(pipe, "magcache", **parameters) as patch,
        executed(pipe.transformer) as calls,
    ):
        output = run(pipe, **call)
        assert [step.action != "computed" for step in patch.stats().steps] == [not c for c in calls]
    return output, [ran == 0 for ran in calls]


def flux_table() -> list[float]:
    spec = registry.find(tiny.build("FluxTransformer2DModel")[0])
    assert spec is not None
    return next(table for table in spec.magcache if table.id == "flux1-dev").ratios["all"]


def test_the_table_of_flux_is_that_of_diffusers() -> None:
    """The ratios in the spec are those that diffusers ships."""
    assert torch.equal(torch.tensor(flux_table()), FLUX_MAG_RATIOS)


@pytest.mark.parametrize("steps", [28, 11])
@pytest.mark.parametrize(("threshold", "most", "retention"), SETTINGS)
def test_flux(threshold: float, most: int, retention: float, steps: int) -> None:
    """Same steps skipped, and the same latents but for the order of one addition: the residual is
    kept per stack here, and for both stacks together there."""
    config = MagCacheConfig(threshold, most, retention, steps, FLUX_MAG_RATIOS)
    expected, skips = theirs(make("flux"), config, steps=steps)
    parameters = {"table": "flux1-dev", "threshold": threshold, "retention": retention}
    parameters["max_consecutive_skips"] = most
    output, skipped = ours(make("flux"), parameters, steps=steps)
    assert skipped == skips
    assert 0 < sum(skips) < steps
    assert not torch.allclose(output, run(make("flux"), steps=steps), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("steps", [12, 9])
@pytest.mark.parametrize(("threshold", "most", "retention"), SETTINGS)
def test_wan(threshold: float, most: int, retention: float, steps: int, guided: bool) -> None:
    """Same steps skipped in each guidance branch, and the same latents bit for bit."""
    config = MagCacheConfig(threshold, most, retention, steps, list(MADE_UP))
    expected, skips = theirs(wan(), config, steps=steps, guided=guided)
    parameters = {"ratios": MADE_UP, "threshold": threshold, "retention": retention}
    parameters["max_consecutive_skips"] = most
    output, skipped = ours(wan(), parameters, steps=steps, guided=guided)
    assert skipped == skips
    assert 0 < sum(skips) < len(skips) == steps * (1 + guided)
    assert not torch.equal(output, run(wan(), steps=steps, guided=guided))
    assert torch.equal(output, expected)
