"""Every strategy on every bundled pipeline: it skips something, or says why it cannot."""

from __future__ import annotations

import functools
from typing import Any

import diffusers
import pytest
import torch

import autocache
import tiny
from autocache import demo
from autocache.demo import clips, single
from autocache.demo.prompts import held_out
from autocache.errors import ParameterError

STEPS = 8
CALLS: dict[str, tuple[type, dict[str, Any], str]] = {
    "shapes": (
        diffusers.FluxPipeline,
        {"height": 64, "width": 64, "max_sequence_length": 24},
        "images",
    ),
    "shapes_sd": (
        diffusers.StableDiffusionPipeline,
        {"height": 64, "width": 64, "guidance_scale": 4.0},
        "images",
    ),
    "shapes_wan": (
        diffusers.WanPipeline,
        {"height": 32, "width": 32, "num_frames": 17, "guidance_scale": 4.0},
        "frames",
    ),
}
PROMPTS = {
    "shapes": held_out(1)[0],
    "shapes_sd": single.held_out(1)[0],
    "shapes_wan": clips.held_out_clips(1)[0],
}
# Eight steps are fewer than the defaults warm up for, and each moves further than one of 28.
OPTIONS: dict[str, dict[str, Any]] = {
    "adacache": {"codebook": "fast"},
    "adastep": {"threshold": 0.5},
    "customcache": {"threshold": 1e4},
    "dbcache": {"warmup_steps": 2, "fn": 1, "threshold": 0.5},
    "dicache": {"threshold": 2.0, "warmup_steps": 2},
    "easycache": {"threshold": 1.0, "warmup_steps": 2},
    "fbcache": {"threshold": 0.5},
    "magcache": {"ratios": [1.0] * STEPS, "warmup_steps": 1},
    "schedule": {"steps": range(0, STEPS, 2), "total": STEPS},
    "seacache": {"threshold": 0.5},
    "taylorseer": {"interval": 2, "order": 1, "warmup_steps": 2},
    "teacache": {"threshold": 1e4},
}
REFUSED = {
    **{(name, "shapes_sd"): "apply" for name in tiny.ON_BLOCKS},
    ("deepcache", "shapes"): "no UNet levels",
    ("deepcache", "shapes_wan"): "no UNet levels",
    ("seacache", "shapes"): "no grid",
}
NAMES = [info.name for info in autocache.strategies()]


@functools.cache
def load(name: str) -> Any:
    pipe = CALLS[name][0].from_pretrained(demo.path(name), torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(name: str) -> torch.Tensor:
    _, arguments, field = CALLS[name]
    drawn = load(name)(
        prompt=PROMPTS[name],
        num_inference_steps=STEPS,
        generator=torch.Generator().manual_seed(0),
        output_type="pt",
        **arguments,
    )
    return drawn[field]


@functools.cache
def plain(name: str) -> torch.Tensor:
    return draw(name)


@pytest.mark.parametrize("pipeline", CALLS)
@pytest.mark.parametrize("strategy", NAMES)
def test_it_applies_or_says_why_not(strategy: str, pipeline: str) -> None:
    """What is skipped changes the picture (or nothing, where exact) and leaves no trace."""
    pipe, reference = load(pipeline), plain(pipeline)
    options = OPTIONS.get(strategy, {})
    if (strategy, pipeline) in REFUSED:
        with pytest.raises(ParameterError, match=REFUSED[strategy, pipeline]):
            autocache.patch(pipe, strategy, **options)
        assert not autocache.is_patched(pipe)
        return
    with autocache.patched(pipe, strategy, **options) as patch:
        drawn = draw(pipeline)
        stats = patch.stats()
        assert stats.bytes_held == 0
    assert drawn.isfinite().all()
    done = {what for step in stats.steps for what in step.sites.values()}
    if strategy == "fewer_steps":
        assert max(step.step for step in stats.steps) + 1 == STEPS // 2
    else:
        assert done & {"reused", "predicted"}
    assert torch.equal(drawn, reference) == (strategy == "invariant")
    assert torch.equal(draw(pipeline), reference)
